"""Integrals over a latent plane, and what they say of the encoder's posterior."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from vaelab._arguments import checked_number, checked_whole
from vaelab._checks import images_for, require_model
from vaelab.losses import kl_standard_normal
from vaelab.models import Posterior, evaluation_view


def grid_log_likelihood(
    model: Any, images: ArrayLike, *, points: int = 200, extent: float = 6.0
) -> np.ndarray:
    r"""Integrates a two-dimensional latent space, to get ln p(x) itself.

    .. math::

        \ln p(x) = \ln \int p(x \mid z) N(z; 0, I) \, dz

    Args:
        model: a `vaelab.VAE`, or a model with its methods, whose latent size is 2.
        images: shape `(n, *model.image_shape)`.
        points: grid points along each latent axis.
        extent: the grid covers [-extent, extent] along each axis.

    Returns:
        Nats, shape `(n,)`; with the default grid exact to 2e-5 for small decoders.

    Raises:
        ValueError: the latent size is not 2, or the images do not fit the model.

    >>> import jax.numpy as jnp, vaelab
    >>> from flax import nnx
    >>> vae = vaelab.VAE((1, 2), (), 2, rngs=nnx.Rngs(0))
    >>> every_image = jnp.array([[[0., 0.]], [[0., 1.]], [[1., 0.]], [[1., 1.]]])
    >>> print(f"{np.exp(grid_log_likelihood(vae, every_image)).sum():.4f}")
    1.0000
    """
    require_model(model, "latent_size", "encode", "decode", "likelihood")
    if model.latent_size != 2:
        raise ValueError(
            f"model has latent_size {model.latent_size}: a grid integrates 2 "
            "dimensions; use losses.iwae_bound for more"
        )
    points = checked_whole("points", points, least=2)
    extent = checked_number("extent", extent, above=0)
    images = jnp.asarray(images_for(model, images))
    axis = jnp.linspace(-extent, extent, points)
    z = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    cell = float(axis[1] - axis[0]) ** 2
    log_prior = -0.5 * (z**2).sum(axis=1) - math.log(2 * math.pi) + math.log(cell)
    joint = _log_joint(evaluation_view(model), images, log_prior, z)
    return np.asarray(jax.nn.logsumexp(joint, axis=0))


@nnx.jit
def _log_joint(
    view: Any, images: jax.Array, log_prior: jax.Array, z: jax.Array
) -> jax.Array:
    """Returns ln p(x, z) of each point and image, `(points, n)`."""

    def at(point: tuple[jax.Array, jax.Array]) -> jax.Array:
        log_prior, z = point
        logits = view.decode(z[None])
        every = jnp.broadcast_to(logits, (len(images), *logits.shape[1:]))
        return log_prior - view.likelihood.nll(every, images)

    return jax.lax.map(at, (log_prior, z), batch_size=200)


class GapDecomposition(NamedTuple):
    """Why the ELBO lies below ln p(x), in nats, each of shape `(n,)`.

    Attributes:
        log_likelihood: ln p(x), from a grid.
        elbo: with the encoder's posterior.
        approximation: what the best diagonal Gaussian for each image still misses.
        amortisation: what the encoder misses of that best Gaussian.
    """

    log_likelihood: np.ndarray
    elbo: np.ndarray
    approximation: np.ndarray
    amortisation: np.ndarray


def gap_decomposition(
    model: Any,
    images: ArrayLike,
    *,
    steps: int = 500,
    learning_rate: float = 0.02,
    nodes: int = 20,
) -> GapDecomposition:
    r"""Splits the gap between ln p(x) and the ELBO of a model with a plane of latents.

    .. math::

        \ln p(x) - \mathrm{ELBO}(q) = \underbrace{\ln p(x) -
        \mathrm{ELBO}(q^*)}_{\mathrm{approximation}} + \underbrace{\mathrm{ELBO}(q^*)
        - \mathrm{ELBO}(q)}_{\mathrm{amortisation}}

    with q the encoder's posterior and q* the diagonal Gaussian that is optimised for
    each image. Expectations are Gauss-Hermite quadratures.

    Args:
        model: a `vaelab.VAE`, or a model with its methods, whose latent size is 2.
        images: shape `(n, *model.image_shape)`.
        steps: of Adam, for q*, from q.
        learning_rate: of Adam.
        nodes: of the quadrature, along each latent axis.

    Returns:
        The four terms of each image: `log_likelihood - elbo` is the sum of the gaps.

    Raises:
        ValueError: the latent size is not 2, or the images do not fit the model.

    >>> import vaelab
    >>> from flax import nnx
    >>> vae = vaelab.VAE((2, 2), (), 2, rngs=nnx.Rngs(0))
    >>> gaps = gap_decomposition(vae, np.eye(2)[None], steps=300)
    >>> print(f"{gaps.approximation[0]:.2f} {gaps.amortisation[0]:.2f}")  # untrained
    0.00 5.01

    Source: C. Cremer et al. (2018), Inference Suboptimality in Variational
    Autoencoders, arXiv:1801.03558, equation 5.
    """
    steps = checked_whole("steps", steps, least=1)
    nodes = checked_whole("nodes", nodes, least=1)
    learning_rate = checked_number("learning_rate", learning_rate, above=0)
    log_likelihood = grid_log_likelihood(model, images)
    images = jnp.asarray(images_for(model, images))
    axis, weights = (jnp.float32(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    noise = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    weights = jnp.outer(weights, weights).ravel() / (2 * math.pi)  # (nodes²,)
    elbo, best = _elbo_and_best(
        evaluation_view(model), images, noise, weights, steps, learning_rate
    )
    elbo, best = np.asarray(elbo), np.asarray(best)
    return GapDecomposition(log_likelihood, elbo, log_likelihood - best, best - elbo)


@nnx.jit(static_argnums=(4, 5))
def _elbo_and_best(
    view: Any,
    images: jax.Array,
    noise: jax.Array,
    weights: jax.Array,
    steps: int,
    learning_rate: float,
) -> tuple[jax.Array, jax.Array]:
    """Returns the ELBO of each image, and that of its best diagonal Gaussian."""

    def elbo_of(q: Posterior, x: jax.Array) -> jax.Array:
        z = q.mean[None] + q.std[None] * noise
        x = jnp.broadcast_to(x[None], (len(z), *x.shape))
        nll = view.likelihood.nll(view.decode(z), x)
        return -(weights @ nll) - kl_standard_normal(*q).sum()

    def optimise(q: Posterior, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        adam = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

        def objective(parameters):
            mean, log_std = parameters
            return -elbo_of(Posterior(mean, jnp.exp(log_std)), x)

        def step(carry, _):
            parameters, state = carry
            updates, state = adam.update(jax.grad(objective)(parameters), state)
            return (optax.apply_updates(parameters, updates), state), None

        start = (q.mean, jnp.log(q.std))
        (best, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=steps)
        return elbo_of(q, x), jnp.maximum(-objective(best), elbo_of(q, x))

    return jax.vmap(optimise)(view.encode(images), images)
