"""What each latent unit carries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from vaelab._arguments import checked_number
from vaelab._checks import images_for
from vaelab.losses import kl_standard_normal
from vaelab.models import Posterior, evaluation_view

BATCH = 1000  # images encoded at a time


class CollapseReport(NamedTuple):
    """One row for each latent unit; printing it gives a table.

    Attributes:
        kl: KL(q(z_j | x) || N(0, 1)), mean over images, nats, shape `(latent,)`.
        mean_variance: the variance over images of the posterior's mean, `(latent,)`.
        mean_std: the posterior's std, mean over images, `(latent,)`.
        active: whether `mean_variance` exceeds the threshold, `(latent,)`.
    """

    kl: np.ndarray
    mean_variance: np.ndarray
    mean_std: np.ndarray
    active: np.ndarray

    def __str__(self) -> str:
        """A table, the most informative unit first."""
        lines = ["unit     kl  Var[mean]  E[std]  state"]
        for j in np.argsort(-self.kl):
            state = "active" if self.active[j] else "collapsed"
            lines.append(
                f"{j:4d} {self.kl[j]:6.3f} {self.mean_variance[j]:10.4f} "
                f"{self.mean_std[j]:7.3f}  {state}"
            )
        return "\n".join(lines)


def latent_codes(model: Any, images: ArrayLike) -> np.ndarray:
    """Returns the posterior's mean for each image.

    Args:
        model: a `vaelab.VAE`, or a model with its methods.
        images: shape `(n, *model.image_shape)`.

    Returns:
        Codes, shape `(n, latent)`.

    Raises:
        TypeError: the images are no numbers.
        ValueError: they do not fit the model or its likelihood, or contain NaN.

    >>> import vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 2, rngs=nnx.Rngs(0))
    >>> latent_codes(vae, np.zeros((5, 8, 8)))[0]  # biases are 0, and so is the image
    array([0., 0.], dtype=float32)
    """
    return np.asarray(posteriors(model, images_for(model, images)).mean)


def active_units(
    model: Any, images: ArrayLike, *, threshold: float = 0.01
) -> np.ndarray:
    r"""Tells which latent units react to the image at all.

    .. math::

        \operatorname{Var}_x(\mathrm{mean}_j(x)) > \mathrm{threshold}

    Args:
        model: as in `latent_codes`.
        images: shape `(n, *model.image_shape)`.
        threshold: the variance that counts as a reaction.

    Returns:
        Booleans, shape `(latent,)`.

    >>> import vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 2, rngs=nnx.Rngs(0))
    >>> int(active_units(vae, np.zeros((5, 8, 8))).sum())  # nothing to react to
    0

    Source: Y. Burda et al. (2016), arXiv:1509.00519, section 5.2.
    """
    threshold = checked_number("threshold", threshold, least=0)
    return variance_over_images(latent_codes(model, images)) > threshold


def posterior_collapse_report(
    model: Any, images: ArrayLike, *, threshold: float = 0.01
) -> CollapseReport:
    """Says of each unit how much it carries, and whether it has collapsed.

    Args:
        model: as in `latent_codes`.
        images: shape `(n, *model.image_shape)`.
        threshold: as in `active_units`.

    Returns:
        The report; print it for a table.

    >>> import vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 2, rngs=nnx.Rngs(0))
    >>> report = posterior_collapse_report(vae, np.zeros((5, 8, 8)))
    >>> print(str(report).splitlines()[0])
    unit     kl  Var[mean]  E[std]  state
    """
    threshold = checked_number("threshold", threshold, least=0)
    mean, std = posteriors(model, images_for(model, images))
    mean_variance = variance_over_images(mean)
    return CollapseReport(
        kl=mean_over_images(kl_standard_normal(mean, std)),
        mean_variance=mean_variance,
        mean_std=mean_over_images(std),
        active=mean_variance > threshold,
    )


def posteriors(model: Any, images: np.ndarray) -> Posterior:
    """Returns q(z | x) of checked images, encoded without dropout, in batches."""
    view = evaluation_view(model)
    batches = [jnp.asarray(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    parts = [_encode(view, batch) for batch in batches]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def mean_over_images(values: ArrayLike) -> np.ndarray:
    """Returns the mean over the first axis, in double precision."""
    return np.asarray(values).mean(axis=0, dtype=np.float64)


def variance_over_images(values: ArrayLike) -> np.ndarray:
    """Returns the variance over the first axis, in double precision."""
    return np.asarray(values).var(axis=0, dtype=np.float64)


@nnx.jit
def _encode(view: Any, batch: jax.Array) -> Posterior:
    return view.encode(batch)
