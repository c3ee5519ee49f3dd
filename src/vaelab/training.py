"""Training: one compiled step, and a loop over epochs around it."""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike
from tqdm.std import tqdm

from vaelab._checks import numeric_images, require_image_shape
from vaelab.losses import ELBOTerms, elbo

__all__ = ["FitResult", "fit", "train_step"]

LossFunction = Callable[..., ELBOTerms | jax.Array]


class FitResult(NamedTuple):
    """What `fit` reports; the trained model is the one it was given.

    Attributes:
        history: for each quantity an array with its mean over each epoch: `loss`, and
            for a loss that returns `ELBOTerms` also `elbo`, `reconstruction` and `kl`
            (summed over the latent dimensions), in nats per image.
        epochs: how many epochs were run.
        stopped_by: what ended the run; `"epochs"` if it ran to its end.
    """

    history: dict[str, np.ndarray]
    epochs: int
    stopped_by: str


def train_step(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    x: jax.Array,
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
        `ELBOTerms` of scalars (`kl_per_dim` has shape `(latent,)`), or the scalar.

    Raises:
        TypeError: `optimizer` is not an `nnx.Optimizer`.

    >>> import jax.numpy as jnp, optax, vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> optimizer = nnx.Optimizer(vae, optax.adam(1e-3), wrt=nnx.Param)
    >>> terms = train_step(vae, optimizer, jnp.zeros((5, 8, 8)))
    >>> terms.loss.shape, terms.kl_per_dim.shape
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
    x: jax.Array,
    loss_fn: LossFunction,
    loss_arguments: dict[str, ArrayLike],
) -> Any:
    def mean_loss(model: nnx.Module) -> tuple[jax.Array, Any]:
        terms = loss_fn(model, x, **loss_arguments)
        if not isinstance(terms, ELBOTerms):
            return jnp.mean(terms), jnp.mean(terms)
        means = jax.tree.map(partial(jnp.mean, axis=0), terms)
        return means.loss, means

    grads, terms = nnx.grad(mean_loss, has_aux=True)(model)
    optimizer.update(model, grads)
    return terms


def fit(
    model: Any,
    images: ArrayLike,
    *,
    epochs: int,
    batch_size: int,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFunction = elbo,
    beta: float | optax.Schedule = 1.0,
    seed: int = 0,
    progress: bool | None = None,
) -> FitResult:
    """Trains a model in place on batches of freshly shuffled images.

    Each epoch takes floor(n / batch_size) full batches of a new permutation; the rest
    sits out that epoch.

    Args:
        model: a `vaelab.VAE`, or a model with its methods.
        images: shape `(n, *model.image_shape)`, in the support of the model's
            likelihood.
        epochs: how often to go through the images.
        batch_size: the number of images for each update, at most n.
        optimizer: an optax transformation, such as `optax.adam(1e-3)`.
        loss_fn: as in `train_step`.
        beta: the weight of the KL, for a `loss_fn` that takes one: a number, or a
            function of the update's number such as `losses.kl_warmup(1000)`.
        seed: the seed of the permutations.
        progress: show a progress bar; None shows one in a terminal and in a notebook.

    Returns:
        The history and the number of epochs.

    Raises:
        TypeError: `optimizer` is not an optax transformation, or `images` no numbers.
        ValueError: `images` do not fit the model or its likelihood, or contain NaN;
            `epochs` is below 1; `batch_size` is below 1 or above n; `beta` is given to
            a `loss_fn` that takes none. All of it is said before anything is compiled.

    >>> import optax, vaelab
    >>> digits = vaelab.data.load_digits()
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> adam = optax.adam(1e-3)
    >>> result = fit(vae, digits.train, epochs=3, batch_size=64, optimizer=adam)
    >>> bool(result.history["elbo"][-1] > result.history["elbo"][0])
    True
    """
    images = _checked_images(model, images)
    _check_schedule(len(images), epochs, batch_size)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}: give an optax transformation, "
            "such as optax.adam(1e-3)"
        )
    beta_arguments = _beta_arguments(loss_fn, beta)
    nnx_optimizer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    key = jax.random.key(seed)
    history: list[dict[str, float]] = []
    with _progress_bar(epochs, progress) as bar:
        for epoch in range(epochs):
            order = jax.random.permutation(jax.random.fold_in(key, epoch), len(images))
            batches = order[: len(order) // batch_size * batch_size]
            batches = batches.reshape(-1, batch_size)
            terms = [
                train_step(
                    model, nnx_optimizer, images[batch], loss_fn, **beta_arguments(step)
                )
                for step, batch in enumerate(batches, start=epoch * len(batches))
            ]
            history.append(_epoch_means(terms))
            bar.set_postfix(history[-1])
            bar.update()
    columns = {name: np.array([row[name] for row in history]) for name in history[0]}
    return FitResult(columns, epochs, "epochs")


def _checked_images(model: Any, images: ArrayLike) -> jax.Array:
    array = numeric_images(images)
    require_image_shape(array.shape, model.image_shape, "images")
    model.likelihood.check(array)
    return jnp.asarray(array)


def _check_schedule(num_images: int, epochs: int, batch_size: int) -> None:
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}: give at least 1")
    if not 1 <= batch_size <= num_images:
        raise ValueError(
            f"batch_size is {batch_size}: give at least 1 and at most the {num_images} "
            "images there are"
        )


def _beta_arguments(
    loss_fn: LossFunction, beta: float | optax.Schedule
) -> Callable[[int], dict[str, jax.Array]]:
    """Returns what `loss_fn` is given at each step: beta, if it takes one."""
    if "beta" not in inspect.signature(loss_fn).parameters:
        if beta != 1.0:
            name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
            raise ValueError(
                f"beta is {beta}, but loss_fn {name} has no argument beta: leave beta "
                "out, or add it to the function's arguments"
            )
        return lambda step: {}
    schedule = beta if callable(beta) else lambda step: beta
    return lambda step: {"beta": jnp.float32(schedule(step))}


def _epoch_means(terms: list[Any]) -> dict[str, float]:
    means = jax.tree.map(lambda *steps: np.mean(steps, axis=0), *jax.device_get(terms))
    if not isinstance(means, ELBOTerms):
        return {"loss": float(means)}
    return {
        "loss": float(means.loss),
        "elbo": float(means.elbo),
        "reconstruction": float(means.reconstruction),
        "kl": float(means.kl_per_dim.sum()),
    }


def _progress_bar(epochs: int, progress: bool | None) -> tqdm:
    if progress is None:
        progress = _in_notebook() or sys.stderr.isatty()
    if not progress:
        return tqdm(total=epochs, disable=True)
    from tqdm.auto import tqdm as bar  # warns in a notebook without ipywidgets

    return bar(total=epochs, unit="epoch")


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return "IPKernelApp" in getattr(shell, "config", {})
