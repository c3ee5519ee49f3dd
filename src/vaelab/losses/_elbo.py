"""The evidence lower bound and its weighted relatives."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vaelab._arguments import (
    checked_key,
    checked_number,
    checked_size,
    checked_weight,
    checked_whole,
)
from vaelab._checks import require_model, require_one_array, require_same_shape


class ELBOTerms(NamedTuple):
    """One stochastic estimate for each image of a batch.

    Attributes:
        loss: what is minimised, shape `(batch,)`.
        elbo: -(reconstruction + sum of kl); nats, `(batch,)`.
        reconstruction: -ln p(x | z) for one draw of z; nats, `(batch,)`.
        kl: KL(q(z_j | x) || N(0, 1)); nats, `(batch, latent)`.
    """

    loss: jax.Array
    elbo: jax.Array
    reconstruction: jax.Array
    kl: jax.Array


def kl_standard_normal(mean: jax.Array, std: jax.Array) -> jax.Array:
    r"""The Kullback-Leibler divergence of a Gaussian from the standard normal.

    .. math::

        \mathrm{KL}(N(m, s^2) \,\|\, N(0, 1)) = \tfrac12 (m^2 + s^2 - 1 - 2 \ln s)

    Args:
        mean: m, any shape.
        std: s > 0, of the same shape.

    Returns:
        Nats, of the same shape: one value per dimension, which the caller sums.

    >>> import jax.numpy as jnp
    >>> kl_standard_normal(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0]))
    Array([0. , 0.5], dtype=float32)

    Source: Kingma and Welling (2013), appendix B. `2 ln s` is never written as
    `ln(s ** 2)`, whose square underflows to 0 in float32 for s below 1e-23.
    """
    require_same_shape(mean=mean, std=std)
    return 0.5 * (mean**2 + std**2 - 1.0 - 2.0 * jnp.log(std))


def elbo(
    model: Any,
    x: jax.Array,
    *,
    key: jax.Array | None = None,
    beta: jax.typing.ArrayLike = 1.0,
    free_bits: float | jax.Array = 0.0,
) -> ELBOTerms:
    r"""The negative evidence lower bound, with the usual two knobs.

    .. math::

        \mathrm{loss} = -\ln p(x \mid z) + \beta \sum_j \mathrm{KL}_j(x), \quad
        z \sim q(z \mid x)

    With `free_bits` :math:`\lambda > 0` the sum becomes, the same for each example,
    :math:`\sum_j \max(\lambda, \tfrac1N \sum_i \mathrm{KL}_j(x_i))`.

    Args:
        model: has `encode`, `decode`, `likelihood` and `rngs`, as `vaelab.VAE` has.
        x: images, shape `(batch, *image_shape)`.
        key: a `jax.random` key for z; None takes one from the model's stream `noise`.
        beta: the weight of the KL in the loss; 1 is the ELBO itself.
        free_bits: nats per latent dimension that cost nothing.

    Returns:
        The terms of each example. `.elbo` is the true ELBO, whatever `beta` is.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> import vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> terms = elbo(vae, jnp.zeros((5, 8, 8)), key=jax.random.key(0))
    >>> bool(jnp.allclose(terms.loss, -terms.elbo))
    True
    >>> print(f"{terms.elbo.mean():.0f}")  # untrained
    -50

    Source: Kingma and Welling (2013), equation 10; I. Higgins et al. (2017), beta-VAE;
    free bits: D. P. Kingma et al. (2016), Improved Variational Inference with Inverse
    Autoregressive Flow, arXiv:1606.04934, equation 15.
    """
    beta = checked_weight("beta", beta)
    free_bits = checked_weight("free_bits", free_bits)
    terms = _elbo_terms(model, x, key)
    regulariser = terms.kl.sum(axis=-1)  # (batch,)
    if isinstance(free_bits, jax.Array) or free_bits:
        floored = jnp.maximum(free_bits, terms.kl.mean(axis=0)).sum()
        regulariser = jnp.where(free_bits > 0, floored, regulariser)
    return terms._replace(loss=terms.reconstruction + beta * regulariser)


def mean_reduced_loss(
    model: Any, x: jax.Array, *, kl_weight: float = 0.1, key: jax.Array | None = None
) -> ELBOTerms:
    r"""The loss that many tutorials minimise: averages where the ELBO has sums.

    .. math::

        \mathrm{loss} = -\tfrac1D \ln p(x \mid z) + w \tfrac1L \sum_j \mathrm{KL}_j(x)

    with D pixels and L latent dimensions. Times D it is a beta-VAE's loss with the
    beta that `effective_beta` tells, so `kl_weight` means another objective for another
    latent size.

    Args:
        model: as in `elbo`.
        x: images, shape `(batch, *image_shape)`.
        kl_weight: w, the weight of the mean KL.
        key: as in `elbo`.

    Returns:
        The terms of each example: `loss` in nats per pixel, the others in nats.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> import vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> x, key = jnp.zeros((5, 8, 8)), jax.random.key(0)
    >>> terms = mean_reduced_loss(vae, x, kl_weight=0.1, key=key)
    >>> ratio = elbo(vae, x, beta=0.8, key=key).loss / terms.loss
    >>> print(f"{ratio.mean():.3f}")  # 64 pixels
    64.000

    Source: the digits tutorial of jax-ai-stack, among others.
    """
    kl_weight = checked_weight("kl_weight", kl_weight)
    terms = _elbo_terms(model, x, key)
    per_pixel = terms.reconstruction / math.prod(x.shape[1:])
    return terms._replace(loss=per_pixel + kl_weight * terms.kl.mean(axis=-1))


def effective_beta(kl_weight: float, num_pixels: int, latent_size: int) -> float:
    r"""The beta of the beta-VAE that `mean_reduced_loss` trains.

    .. math::

        \beta = w D / L

    Args:
        kl_weight: w, the weight of the mean KL.
        num_pixels: D, the number of values in one image.
        latent_size: L.

    >>> round(effective_beta(0.1, num_pixels=64, latent_size=8), 6)
    0.8
    """
    num_pixels = checked_size("num_pixels", num_pixels)
    latent_size = checked_size("latent_size", latent_size)
    return checked_number("kl_weight", kl_weight, least=0) * num_pixels / latent_size


def kl_warmup(steps: int, *, start: float = 0.0, end: float = 1.0) -> optax.Schedule:
    r"""A schedule for beta that raises it linearly, against early collapse.

    .. math::

        \beta_t = \mathrm{start} + (\mathrm{end} - \mathrm{start})
        \min(1, t / \mathrm{steps})

    Args:
        steps: the number of updates until `end` is reached.
        start: beta of the first update.
        end: beta from update `steps` on.

    Returns:
        A function of the update's number, for `vaelab.fit(..., beta=...)`.

    >>> schedule = kl_warmup(1000)
    >>> [float(schedule(step)) for step in (0, 250, 1000, 5000)]
    [0.0, 0.25, 1.0, 1.0]

    Source: S. R. Bowman et al. (2016), Generating Sentences from a Continuous Space,
    arXiv:1511.06349, section 3.1.
    """
    steps = checked_whole("steps", steps, least=1)
    start = checked_number("start", start, least=0)
    end = checked_number("end", end, least=0)
    return optax.linear_schedule(start, end, steps)


def _elbo_terms(model: Any, x: jax.Array, key: jax.Array | None) -> ELBOTerms:
    require_model(model, "encode", "decode", "likelihood", "rngs")
    require_one_array(x, "x")
    key = model.rngs.noise() if key is None else checked_key("key", key)
    posterior = model.encode(x)
    logits = model.decode(posterior.sample(key))
    reconstruction = model.likelihood.nll(logits, x)  # (batch,)
    kl = kl_standard_normal(posterior.mean, posterior.std)  # (batch, latent)
    negative_elbo = reconstruction + kl.sum(axis=-1)
    return ELBOTerms(negative_elbo, -negative_elbo, reconstruction, kl)
