"""One update of the parameters: what a single step and a whole compiled run share."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from vaelab.losses import elbo
from vaelab.training import _functions, _inputs
from vaelab.training._objective import (
    LossFunction,
    Means,
    Objective,
    fixed_and_traced,
    means,
    name_of,
)
from vaelab.training._sameness import Interned


def train_step(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    batch: Any,
    loss_fn: LossFunction = elbo,
    **loss_arguments: ArrayLike,
) -> Any:
    r"""Takes one step down the gradient of the mean loss, in one compiled program.

    Args:
        model: trained in place; for `elbo` anything with the methods of `vaelab.VAE`.
        optimizer: `nnx.Optimizer(model, tx, wrt=nnx.Param)`, updated in place.
        batch: images, shape `(batch, *image_shape)`, or whatever `loss_fn` takes. Its
            values are not checked.
        loss_fn: `(model, batch)` to `ELBOTerms`, or to a loss for each example or for
            all; metrics may stand beside it, as `(loss, {"accuracy": a})` or in a
            dictionary with a `"loss"`. A required argument `key` is drawn from the
            model's stream `noise`. Equal functions, of the same code and with the same
            values in it, are compiled once.
        **loss_arguments: for `loss_fn`, such as `beta=0.5`. Another float or array
            compiles nothing; another integer, such as `num_samples=5`, does, unless
            the argument's default is a float.

    Returns:
        What `loss_fn` returned, averaged over the batch, from before the update:
        `ELBOTerms` of scalars (`kl` has shape `(latent,)`), or the loss, or the loss
        and its metrics.

    Raises:
        TypeError: `optimizer` is not an `nnx.Optimizer`, or `loss_fn` no function of a
            model, a batch and these arguments.

    >>> import jax.numpy as jnp, optax, vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> optimizer = nnx.Optimizer(vae, optax.adam(1e-3), wrt=nnx.Param)
    >>> terms = train_step(vae, optimizer, jnp.zeros((5, 8, 8)))
    >>> terms.loss.shape, terms.kl.shape
    ((), (8,))
    """
    if not isinstance(optimizer, nnx.Optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}: wrap the optax transformation "
            "as nnx.Optimizer(model, tx, wrt=nnx.Param)"
        )
    _inputs.check_model(model)
    _functions.check_function("loss_fn", loss_fn, "vaelab.losses.elbo")
    _inputs.check_step_batch(batch)
    for name, value in loss_arguments.items():
        if callable(value):
            raise TypeError(
                f"{name} is a function: give its value for this step; vaelab.fit takes "
                "schedules"
            )
        if not isinstance(value, jax.Array) and name != "key":
            loss_arguments[name] = _functions.checked_knob(name, value)
    fixed, numbers = fixed_and_traced(loss_fn, loss_arguments)
    parts = loss_fn, tuple(sorted(fixed.items()))
    step = _steps.get(parts, lambda: _compiled_step(loss_fn, fixed))
    return step(model, optimizer, batch, numbers)


_steps = Interned(maxsize=16)


def _compiled_step(
    loss_fn: LossFunction, fixed: Mapping[str, Any]
) -> Callable[..., Any]:
    """Returns a step for one loss; it leaves the memory with its executables."""

    @nnx.jit
    def step(
        model: Any, optimizer: nnx.Optimizer, batch: Any, numbers: dict[str, Any]
    ) -> Any:
        _functions.check_loss(loss_fn, {**fixed, **numbers})
        objective = Objective(partial(loss_fn, **fixed))
        if objective.needs_key and "key" not in numbers:
            numbers = {**numbers, "key": model.rngs.noise()}
        grads, found = gradient(model, batch, objective.loss_fn, numbers)
        optimizer.update(model, grads)
        return found.returned

    return step


def gradient(
    model: nnx.Module,
    batch: Any,
    loss_fn: Callable[..., Any],
    arguments: Mapping[str, Any],
) -> tuple[Any, Means]:
    """Returns the gradient of the mean loss, and the means of what `loss_fn` gives."""

    def mean_loss(model: nnx.Module) -> tuple[Any, Means]:
        found = means(loss_fn(model, batch, **arguments), f"loss_fn {name_of(loss_fn)}")
        return found.loss, found

    return nnx.grad(mean_loss, has_aux=True)(model)
