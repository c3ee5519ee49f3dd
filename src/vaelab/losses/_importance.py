"""Bounds from importance-weighted samples of z."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vaelab._arguments import checked_key, checked_whole
from vaelab._checks import require_model, require_one_array
from vaelab.losses._elbo import ELBOTerms, kl_standard_normal
from vaelab.models import Posterior, evaluation_view

_CHUNK_VALUES = 2**22  # pixels decoded at a time, about 16 MB


def iwae_loss(
    model: Any, x: jax.Array, *, num_samples: int, key: jax.Array | None = None
) -> ELBOTerms:
    r"""The negative importance-weighted bound, tighter than the ELBO.

    .. math::

        \mathrm{loss} = -\ln \frac1K \sum_k w_k, \quad
        w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}, \quad
        z_k \sim q(z \mid x)

    Its gradient is that of the value it reports: :math:`-\sum_k \tilde w_k \nabla \ln
    w_k` with the normalised weights :math:`\tilde w`. (The sum :math:`\sum_k \tilde w_k
    \ln w_k`, which some code reports, is larger, and can exceed ln p(x).)

    Args:
        model: as in `elbo`.
        x: images, shape `(batch, *image_shape)`.
        num_samples: K, draws of z for each image, decoded in one batch.
        key: as in `elbo`.

    Returns:
        The terms of each example. `.reconstruction` and `.elbo` are means over the K
        draws; with K = 1 the loss is a one-sample estimate of the negative ELBO.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> import vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> x, key = jnp.zeros((5, 8, 8)), jax.random.key(0)
    >>> terms = iwae_loss(vae, x, num_samples=50, key=key)
    >>> bool((terms.loss < -terms.elbo).all())  # the bound is tighter
    True
    >>> print(f"{terms.loss.mean():.0f}")  # untrained
    47

    Source: Y. Burda et al. (2016), Importance Weighted Autoencoders,
    arXiv:1509.00519, equations 8 and 14.
    """
    require_model(model, "encode", "decode", "likelihood", "rngs")
    require_one_array(x, "x")
    num_samples = checked_whole("num_samples", num_samples, least=1)
    noise_key = model.rngs.noise() if key is None else checked_key("key", key)
    posterior = model.encode(x)
    log_weights, nll = _log_weights(model, x, posterior, noise_key, num_samples)
    reconstruction = nll.mean(axis=0)
    kl = kl_standard_normal(posterior.mean, posterior.std)
    return ELBOTerms(
        loss=-_log_mean_exp(log_weights),
        elbo=-(reconstruction + kl.sum(axis=-1)),
        reconstruction=reconstruction,
        kl=kl,
    )


def iwae_bound(
    model: Any, x: jax.Array, *, num_samples: int, key: jax.Array
) -> jax.Array:
    r"""A lower bound of ln p(x) that closes as the number of samples grows.

    .. math::

        L_K = \mathbb{E} \ln \frac1K \sum_k w_k, \quad
        L_1 = \mathrm{ELBO} \le L_K \le L_{K+1} \le \ln p(x)

    Evaluated without dropout, in chunks, so that 5000 samples for hundreds of images
    need no more memory than a few.

    Args:
        model: as in `elbo`.
        x: images, shape `(batch, *image_shape)`.
        num_samples: K, draws of z for each image.
        key: a `jax.random` key.

    Returns:
        One estimate for each image, nats, shape `(batch,)`.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> import vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> key = jax.random.key(0)
    >>> bounds = iwae_bound(vae, jnp.zeros((5, 8, 8)), num_samples=100, key=key)
    >>> print(bounds.shape, f"{bounds.mean():.0f}")  # untrained
    (5,) -47

    Source: Burda et al. (2016), theorem 1.
    """
    require_model(model, "encode", "decode", "likelihood")
    require_one_array(x, "x")
    key = checked_key("key", key)
    num_samples = checked_whole("num_samples", num_samples, least=1)
    return _log_mean_exp(compiled_samples(model, x, key, num_samples)[0])


def importance_samples(
    model: Any, x: jax.Array, key: jax.Array, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    """Draws z from the posterior in chunks, and weighs each draw.

    Args:
        model: as in `elbo`, without dropout.
        x: images, shape `(batch, *image_shape)`.
        key: a `jax.random` key.
        num_samples: draws for each image.

    Returns:
        ln w and -ln p(x | z) of each draw, both `(num_samples, batch)`.

    >>> import jax, jax.numpy as jnp, vaelab
    >>> from flax import nnx
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0))
    >>> draws = importance_samples(vae, jnp.zeros((5, 8, 8)), jax.random.key(0), 20)
    >>> draws[0].shape
    (20, 5)
    """
    require_model(model, "encode", "decode", "likelihood")
    require_one_array(x, "x")
    key = checked_key("key", key)
    num_samples = checked_whole("num_samples", num_samples, least=1)
    posterior = model.encode(x)
    chunk = min(num_samples, max(1, _CHUNK_VALUES // math.prod(x.shape)))
    keys = jax.random.split(key, math.ceil(num_samples / chunk))
    samples = jax.lax.map(
        lambda key: _log_weights(model, x, posterior, key, chunk), keys
    )  # two arrays (chunks, chunk, batch)
    log_weights, nll = (s.reshape(-1, x.shape[0])[:num_samples] for s in samples)
    return log_weights, nll


def compiled_samples(
    model: Any, x: jax.Array, key: jax.Array, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    """Does the same without dropout, in a program compiled once for each shape."""
    return _samples(*nnx.split(evaluation_view(model)), x, key, num_samples)


# Not nnx.jit: it writes to the model, which a surrounding jax.jit does not allow.
@partial(jax.jit, static_argnums=(0, 4))
def _samples(
    graphdef: Any, state: Any, x: jax.Array, key: jax.Array, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    return importance_samples(nnx.merge(graphdef, state), x, key, num_samples)


def _log_weights(
    model: Any, x: jax.Array, posterior: Posterior, key: jax.Array, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    """Returns ln w and -ln p(x | z) of each draw, both `(num_samples, batch)`."""
    mean, std = posterior
    noise = jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)
    z = mean[None] + std[None] * noise  # (num_samples, batch, latent)
    logits = model.decode(z.reshape(-1, z.shape[-1]))
    copies = jnp.broadcast_to(x[None], (num_samples, *x.shape)).reshape(
        -1, *x.shape[1:]
    )
    nll = model.likelihood.nll(logits, copies).reshape(num_samples, -1)
    log_prior_ratio = (0.5 * (noise**2 - z**2) + jnp.log(std)[None]).sum(axis=-1)
    return log_prior_ratio - nll, nll


def _log_mean_exp(values: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(values, axis=0) - math.log(len(values))
