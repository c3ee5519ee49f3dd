"""How probable a model finds images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaelab._arguments import checked_key, checked_whole
from vaelab._checks import images_for
from vaelab.evaluation._latents import (
    mean_over_images,
    posteriors,
    variance_over_images,
)
from vaelab.losses import kl_standard_normal
from vaelab.losses._importance import compiled_samples
from vaelab.models import Posterior

_BATCH = 500  # images evaluated at a time


class Metrics(NamedTuple):
    """Means over images, in nats per image.

    Attributes:
        elbo: the evidence lower bound, with the mean over the samples as expectation.
        log_likelihood: the importance-weighted bound, which is nearer to ln p(x).
        reconstruction: -E ln p(x | z).
        kl: KL(q(z_j | x) || N(0, 1)), shape `(latent,)`.
        mutual_information: of an image and its code, at most ln n for n images.
        active_units: how many units' means vary by more than 0.01 over the images.
        collapsed_units: how many do not.
    """

    elbo: float
    log_likelihood: float
    reconstruction: float
    kl: np.ndarray
    mutual_information: float
    active_units: int
    collapsed_units: int


def evaluate(
    model: Any, images: ArrayLike, *, key: jax.Array, num_samples: int = 100
) -> Metrics:
    r"""Measures a model on held-out images.

    Args:
        model: a `vaelab.VAE`, or a model with its methods.
        images: shape `(n, *model.image_shape)`, in the likelihood's support.
        key: a `jax.random` key.
        num_samples: draws of z for each image; 1000 or more for numbers to publish.

    Returns:
        The metrics. For the mutual information each code is compared with the
        posteriors of all images, so its time grows with their number squared.

    Raises:
        ValueError: the images do not fit the model or its likelihood, or `num_samples`
            is below 1.

    >>> import vaelab
    >>> from flax import nnx
    >>> digits = vaelab.data.load_digits()
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0))
    >>> metrics = evaluate(vae, digits.test, key=jax.random.key(0), num_samples=10)
    >>> metrics.elbo < metrics.log_likelihood
    True
    >>> print(f"{metrics.log_likelihood:.0f}")  # untrained
    -46
    """
    array = images_for(model, images)
    key = checked_key("key", key)
    num_samples = checked_whole("num_samples", num_samples, least=1)
    posterior = posteriors(model, array)
    log_weights, nll = _importance_samples(model, array, key, num_samples)
    kl = mean_over_images(kl_standard_normal(*posterior))
    reconstruction = float(nll.mean(dtype=np.float64))
    active = int((variance_over_images(posterior.mean) > 0.01).sum())
    return Metrics(
        elbo=-reconstruction - float(kl.sum()),
        log_likelihood=float(_log_mean_exp(log_weights).mean(dtype=np.float64)),
        reconstruction=reconstruction,
        kl=kl,
        mutual_information=float(mean_over_images(_mutual_information(posterior, key))),
        active_units=active,
        collapsed_units=len(kl) - active,
    )


def anomaly_scores(
    model: Any, images: ArrayLike, *, key: jax.Array, num_samples: int = 100
) -> np.ndarray:
    """Scores images by how improbable the model finds them.

    Args:
        model: as in `evaluate`.
        images: shape `(n, *model.image_shape)`, in the likelihood's support.
        key: a `jax.random` key.
        num_samples: draws of z for each image.

    Returns:
        The negative importance-weighted bound of ln p(x), nats, shape `(n,)`; the
        higher, the stranger.

    >>> import vaelab
    >>> from flax import nnx
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0))
    >>> scores = anomaly_scores(vae, np.zeros((3, 8, 8)), key=jax.random.key(0))
    >>> print(scores.shape, f"{scores[0]:.0f}")
    (3,) 47
    """
    array = images_for(model, images)
    key = checked_key("key", key)
    num_samples = checked_whole("num_samples", num_samples, least=1)
    return -_log_mean_exp(_importance_samples(model, array, key, num_samples)[0])


def _importance_samples(
    model: Any, images: np.ndarray, key: jax.Array, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    batches = [
        jnp.asarray(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)
    ]
    parts = [
        jax.device_get(
            compiled_samples(model, batch, jax.random.fold_in(key, i), num_samples)
        )
        for i, batch in enumerate(batches)
    ]
    log_weights, nll = zip(*parts, strict=True)
    return np.concatenate(log_weights, axis=1), np.concatenate(nll, axis=1)


def _log_mean_exp(log_weights: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(log_weights, axis=0) - np.log(len(log_weights))


@jax.jit
def _mutual_information(posterior: Posterior, key: jax.Array) -> jax.Array:
    """Estimates ln q(z | x) - ln q(z) of each image; q(z) is the mixture over all."""
    mean, std = posterior

    def log_q(z: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
        return (-0.5 * ((z - mean) / std) ** 2 - jnp.log(std)).sum(axis=-1)

    def one_image(pair: tuple[jax.Array, Posterior]) -> jax.Array:
        z, own = pair
        everyone = log_q(z[None], mean, std)  # (n,)
        log_aggregate = jax.nn.logsumexp(everyone) - jnp.log(len(everyone))
        return log_q(z, *own) - log_aggregate

    return jax.lax.map(one_image, (posterior.sample(key), posterior))
