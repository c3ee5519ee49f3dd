"""One update of the parameters: what a single step and a whole compiled run share."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from vaelab.losses import ELBOTerms, elbo

LossFunction = Callable[..., ELBOTerms | jax.Array]


def train_step(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    x: Any,
    loss_fn: LossFunction = elbo,
    **loss_arguments: ArrayLike,
) -> Any:
    r"""Takes one step down the gradient of the mean loss, in one compiled program.

    Args:
        model: trained in place; for `elbo` anything with the methods of `vaelab.VAE`.
        optimizer: `nnx.Optimizer(model, tx, wrt=nnx.Param)`, updated in place.
        x: images, shape `(batch, *image_shape)`. They are not checked.
        loss_fn: `(model, x)` to `ELBOTerms`, or to a scalar. Pass the same function
            object at each call: every new one is compiled anew.
        **loss_arguments: numbers and arrays for `loss_fn`, such as `beta=0.5`; another
            value compiles nothing.

    Returns:
        What `loss_fn` returned, averaged over the batch, from before the update:
        `ELBOTerms` of scalars (`kl` has shape `(latent,)`), or the scalar.

    Raises:
        TypeError: `optimizer` is not an `nnx.Optimizer`.

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
    return _compiled_step(model, optimizer, x, loss_fn, loss_arguments)


@partial(nnx.jit, static_argnames="loss_fn")
def _compiled_step(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    x: Any,
    loss_fn: LossFunction,
    loss_arguments: dict[str, ArrayLike],
) -> Any:
    grads, terms = gradient(model, x, loss_fn, loss_arguments)
    optimizer.update(model, grads)
    return terms


def gradient(
    model: nnx.Module,
    batch: Any,
    loss_fn: LossFunction,
    loss_arguments: Mapping[str, ArrayLike],
) -> tuple[Any, Any]:
    """Returns the gradient of the mean loss, and the means of what `loss_fn` gives."""

    def mean_loss(model: nnx.Module) -> tuple[jax.Array, Any]:
        means = mean_terms(loss_fn(model, batch, **loss_arguments))
        return (means.loss if isinstance(means, ELBOTerms) else means), means

    return nnx.grad(mean_loss, has_aux=True)(model)


def mean_terms(terms: ELBOTerms | jax.Array) -> Any:
    """Averages what a loss function returns over the batch."""
    if isinstance(terms, ELBOTerms):
        return jax.tree.map(partial(jnp.mean, axis=0), terms)
    return jnp.mean(terms)


def recorded(means: Any) -> dict[str, jax.Array]:
    """Names the numbers of a step that the history keeps."""
    if not isinstance(means, ELBOTerms):
        return {"loss": means}
    return {
        "loss": means.loss,
        "elbo": means.elbo,
        "reconstruction": means.reconstruction,
        "kl": means.kl.sum(),
    }
