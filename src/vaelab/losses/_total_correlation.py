"""The KL split into information, correlation and distance from the prior."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaelab._arguments import checked_key, checked_weight, checked_whole
from vaelab._checks import require_model, require_one_array, require_same_shape
from vaelab.losses._elbo import ELBOTerms, kl_standard_normal

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class TotalCorrelationTerms(NamedTuple):
    """Three parts of the KL of a batch; their sum is ln q(z | x) - ln p(z).

    Attributes:
        mutual_information: of the image and its code, nats, shape `(batch,)`.
        total_correlation: how far the code's dimensions are from independent.
        dimensionwise_kl: how far each dimension is from the prior, summed.
    """

    mutual_information: jax.Array
    total_correlation: jax.Array
    dimensionwise_kl: jax.Array


def total_correlation_terms(
    z: jax.Array, mean: jax.Array, std: jax.Array, *, dataset_size: int
) -> TotalCorrelationTerms:
    r"""Splits the KL into information, correlation and distance from the prior.

    .. math::

        \ln \frac{q(z \mid x)}{p(z)} = \ln \frac{q(z \mid x)}{q(z)}
        + \ln \frac{q(z)}{\prod_j q(z_j)} + \sum_j \ln \frac{q(z_j)}{p(z_j)}

    The aggregate posterior :math:`q(z) = \tfrac1N \sum_n q(z \mid x_n)` is estimated
    from the batch, without bias: an image's own term counts 1/N, and the other M - 1
    images of the batch stand for the other N - 1 of the data.

    Args:
        z: a draw for each image, shape `(batch, latent)`.
        mean: of q(z | x), shape `(batch, latent)`.
        std: of q(z | x), shape `(batch, latent)`.
        dataset_size: N, at least the batch's size.

    Returns:
        The three terms of each example, in nats.

    >>> import jax.numpy as jnp
    >>> mean, std = jnp.zeros((4, 2)), jnp.ones((4, 2))
    >>> z = jax.random.normal(jax.random.key(0), (4, 2))
    >>> terms = total_correlation_terms(z, mean, std, dataset_size=4)
    >>> bool(jnp.allclose(jnp.stack(terms), 0.0, atol=1e-6))  # nothing was encoded
    True

    Source: R. T. Q. Chen et al. (2018), Isolating Sources of Disentanglement in VAEs,
    arXiv:1802.04942, equation 2 and appendix C.2.
    """
    require_same_shape(z=z, mean=mean, std=std)
    if jnp.ndim(z) != 2:
        raise ValueError(f"z has shape {jnp.shape(z)}: give (batch, latent)")
    log_weights = stratified_log_weights(len(z), dataset_size)  # (batch, batch)
    standardised = (z[:, None] - mean[None]) / std[None]
    log_q = -0.5 * standardised**2 - jnp.log(std)[None] - _HALF_LOG_2PI
    per_dim = jax.nn.logsumexp(
        log_q + log_weights[..., None], axis=1
    )  # (batch, latent)
    joint = jax.nn.logsumexp(log_q.sum(axis=-1) + log_weights, axis=1)  # (batch,)
    own = jnp.diagonal(log_q, axis1=0, axis2=1).sum(axis=0)  # (batch,)
    log_prior = (-0.5 * z**2 - _HALF_LOG_2PI).sum(axis=-1)
    marginals = per_dim.sum(axis=-1)
    return TotalCorrelationTerms(own - joint, joint - marginals, marginals - log_prior)


def stratified_log_weights(batch_size: int, dataset_size: int) -> jax.Array:
    r"""The weights with which a batch stands for the whole data.

    .. math::

        w_{ii} = \frac1N, \quad w_{ij} = \frac{N - 1}{N (M - 1)} \; (i \ne j)

    Every row sums to 1, and the estimate :math:`\sum_j w_{ij} q(z_i \mid x_j)` of q(z)
    is unbiased over batches that contain :math:`x_i`; with the whole data as the batch
    it is exact.

    Args:
        batch_size: M, at least 2.
        dataset_size: N, at least M.

    Returns:
        Logarithms, shape `(batch, batch)`.

    Raises:
        ValueError: the sizes are out of range.

    >>> import jax.numpy as jnp
    >>> jnp.exp(stratified_log_weights(3, 5))[0].round(3)
    Array([0.2, 0.4, 0.4], dtype=float32)

    Source: Chen et al. (2018), appendix C.2, with the others' weight spread evenly.
    """
    checked_whole("batch_size", batch_size)
    checked_whole("dataset_size", dataset_size)
    if not 2 <= batch_size <= dataset_size:
        raise ValueError(
            f"batch_size is {batch_size} and dataset_size is {dataset_size}: give a "
            "batch of at least 2 examples and at most the whole data"
        )
    own = 1 / dataset_size
    other = (1 - own) / (batch_size - 1)
    return jnp.log(jnp.where(jnp.eye(batch_size, dtype=bool), own, other))


def beta_tc_loss(
    model: Any,
    x: jax.Array,
    *,
    dataset_size: int,
    beta: jax.typing.ArrayLike = 1.0,
    key: jax.Array | None = None,
) -> ELBOTerms:
    r"""The beta-TC-VAE's loss: beta weighs only the total correlation.

    .. math::

        \mathrm{loss} = -\ln p(x \mid z) + I(z; x) + \beta \, \mathrm{TC}(z)
        + \sum_j \mathrm{KL}(q(z_j) \,\|\, p(z_j))

    Args:
        model: as in `elbo`.
        x: images, shape `(batch, *image_shape)`.
        dataset_size: the number of images that batches are drawn from.
        beta: the weight of the total correlation; with 1 the loss is a one-sample
            estimate of the negative ELBO.
        key: as in `elbo`.

    Returns:
        The terms of each example; `.elbo` is the true ELBO, with the KL in closed form.

    >>> import jax.numpy as jnp, vaelab
    >>> from flax import nnx
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> terms = beta_tc_loss(vae, jnp.zeros((5, 8, 8)), dataset_size=1000, beta=6.0)
    >>> print(terms.loss.shape, f"{terms.elbo.mean():.0f}")
    (5,) -53

    Source: Chen et al. (2018), equation 4.
    """
    require_model(model, "encode", "decode", "likelihood", "rngs")
    require_one_array(x, "x")
    beta = checked_weight("beta", beta)
    key = model.rngs.noise() if key is None else checked_key("key", key)
    posterior = model.encode(x)
    z = posterior.sample(key)
    reconstruction = model.likelihood.nll(model.decode(z), x)
    parts = total_correlation_terms(z, *posterior, dataset_size=dataset_size)
    kl = kl_standard_normal(posterior.mean, posterior.std)
    return ELBOTerms(
        loss=reconstruction
        + parts.mutual_information
        + beta * parts.total_correlation
        + parts.dimensionwise_kl,
        elbo=-(reconstruction + kl.sum(axis=-1)),
        reconstruction=reconstruction,
        kl=kl,
    )
