r"""Exact answers, to hold estimates against.

Four kinds of models have a log-likelihood that needs no bound: probabilistic PCA, which
a linear VAE with a Gaussian likelihood becomes when it is trained to the end; mixtures;
independent pixels; and any VAE whose latent space is a plane, which a grid can
integrate. Everything is in nats per example.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from vaelab._arguments import checked_number, checked_whole
from vaelab._checks import (
    host_array,
    images_for,
    real_array,
    require_finite,
    require_model,
)
from vaelab.losses import kl_standard_normal
from vaelab.models import Posterior, evaluation_view

__all__ = [
    "BernoulliMixture",
    "GapDecomposition",
    "LinearBetaVAE",
    "ProbabilisticPCA",
    "bernoulli_mixture",
    "gap_decomposition",
    "grid_log_likelihood",
    "independent_bernoulli",
    "linear_beta_vae",
    "probabilistic_pca",
]


class ProbabilisticPCA(NamedTuple):
    r"""The Gaussian N(mean, components componentsᵀ + sigma2 I).

    Attributes:
        mean: shape `(pixels,)`.
        components: W, shape `(pixels, q)`.
        sigma2: the variance of what the components leave.
        eigenvalues: of the data's covariance, descending, shape `(pixels,)`.
    """

    mean: np.ndarray
    components: np.ndarray
    sigma2: float
    eigenvalues: np.ndarray

    def log_likelihood(self, x: ArrayLike) -> np.ndarray:
        """Returns ln p(x) of each example.

        Args:
            x: shape `(n, ...)`; further axes are flattened.

        Returns:
            Nats, shape `(n,)`.
        """
        centred = _flat(x, like=len(self.mean)) - self.mean
        covariance = self.components @ self.components.T
        covariance[np.diag_indices_from(covariance)] += self.sigma2
        _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
        mahalanobis = centred * np.linalg.solve(covariance, centred.T).T
        return -0.5 * (log_determinant + mahalanobis.sum(axis=1))


def probabilistic_pca(x: ArrayLike, q: int) -> ProbabilisticPCA:
    r"""The maximum-likelihood linear Gaussian model with q latent dimensions.

    .. math::

        \sigma^2 = \operatorname{mean}_{j > q} \lambda_j, \quad
        W = U_q (\Lambda_q - \sigma^2 I)^{1/2}

    with the eigenvalues :math:`\lambda` and eigenvectors U of the covariance (1/N). No
    linear VAE with a Gaussian likelihood of one scale can have a higher ELBO on `x`.

    Args:
        x: the data, shape `(n, ...)`; further axes are flattened.
        q: the number of latent dimensions, at least 1 and below the number of pixels.

    Returns:
        The model, with `log_likelihood(x)` for any data.

    Raises:
        ValueError: `q` is out of range.

    >>> import vaelab
    >>> grey = vaelab.data.load_digits(binarize=False)
    >>> pca = probabilistic_pca(grey.train, q=8)
    >>> print(f"{pca.log_likelihood(grey.train).mean():.4f}")
    14.5106
    >>> print(f"{pca.log_likelihood(grey.test).mean():.4f}")
    13.0372

    Source: M. E. Tipping and C. M. Bishop (1999), Probabilistic Principal Component
    Analysis, equations 7 and 8. That a linear VAE reaches it: J. Lucas et al. (2019),
    Don't Blame the ELBO!, arXiv:1911.02469.
    """
    flat = _flat(x)
    num_pixels = flat.shape[1]
    q = checked_whole("q", q)
    if not 1 <= q < num_pixels:
        raise ValueError(f"q is {q}: give at least 1 and less than {num_pixels} pixels")
    mean = flat.mean(axis=0)
    covariance = np.cov(flat, rowvar=False, bias=True)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    eigenvalues, eigenvectors = eigenvalues[::-1].clip(0), eigenvectors[:, ::-1]
    sigma2 = float(eigenvalues[q:].mean())
    components = eigenvectors[:, :q] * np.sqrt(eigenvalues[:q] - sigma2)
    return ProbabilisticPCA(mean, components, sigma2, eigenvalues)


class LinearBetaVAE(NamedTuple):
    """What each latent unit of an optimal linear beta-VAE does.

    Attributes:
        active: whether the unit carries information, shape `(units,)`.
        kl: KL(q(z_i | x) || p(z_i)) in nats, mean over x, shape `(units,)`.
        distortion: the squared error left along its component, shape `(units,)`.
    """

    active: np.ndarray
    kl: np.ndarray
    distortion: np.ndarray


def linear_beta_vae(
    eigenvalues: ArrayLike, beta: float, sigma2: float
) -> LinearBetaVAE:
    r"""Predicts which units of a linear beta-VAE collapse, and what the others cost.

    .. math::

        \theta = \beta \sigma^2, \quad
        \mathrm{KL}_i = \tfrac12 \max(0, \ln(\lambda_i / \theta)), \quad
        D_i = \min(\lambda_i, \theta)

    A unit is alive exactly when its eigenvalue exceeds :math:`\theta`.

    Args:
        eigenvalues: of the data's covariance, one for each unit, shape `(units,)`.
        beta: the weight of the KL.
        sigma2: the variance of the Gaussian likelihood.

    Returns:
        Three arrays of shape `(units,)`. The directions of the data beyond the units
        add their eigenvalues to the total distortion.

    Raises:
        ValueError: `beta` or `sigma2` is not positive.

    >>> units = linear_beta_vae([4.0, 1.0, 0.25], beta=2.0, sigma2=0.5)
    >>> units.active.tolist(), units.distortion.tolist()
    ([True, False, False], [1.0, 1.0, 0.25])
    >>> print(f"{units.kl.sum():.4f}")  # ln 2
    0.6931

    Source: Lucas et al. (2019), section 4.
    """
    beta = checked_number("beta", beta, above=0)
    threshold = beta * checked_number("sigma2", sigma2, above=0)
    eigenvalues = real_array(eigenvalues, "eigenvalues").astype(float)
    if eigenvalues.ndim != 1 or not eigenvalues.size:
        raise ValueError(
            f"eigenvalues has shape {eigenvalues.shape}: give one for each unit"
        )
    require_finite(eigenvalues, "eigenvalues")
    active = eigenvalues > threshold
    kl = 0.5 * np.log(np.where(active, eigenvalues, threshold) / threshold)
    return LinearBetaVAE(active, kl, np.minimum(eigenvalues, threshold))


class BernoulliMixture(NamedTuple):
    """A mixture of independent black and white pixels.

    Attributes:
        weights: shape `(k,)`, summing to 1.
        probabilities: of black for each component and pixel, shape `(k, pixels)`.
    """

    weights: np.ndarray
    probabilities: np.ndarray

    def log_likelihood(self, x: ArrayLike) -> np.ndarray:
        """Returns ln p(x) of each example.

        Args:
            x: zeros and ones, shape `(n, ...)`; further axes are flattened.

        Returns:
            Nats, shape `(n,)`.
        """
        flat = _flat(x, binary=True, like=self.probabilities.shape[1])
        return np.logaddexp.reduce(self._joint(flat), axis=1)

    def _joint(self, flat: np.ndarray) -> np.ndarray:
        p = self.probabilities
        conditional = flat @ np.log(p).T + (1 - flat) @ np.log1p(-p).T  # (n, k)
        with np.errstate(divide="ignore"):  # an empty component has weight 0
            return conditional + np.log(self.weights)


def independent_bernoulli(x: ArrayLike, *, alpha: float = 1.0) -> BernoulliMixture:
    r"""How often each pixel is black: the least that any model should know.

    .. math::

        p_i = \frac{\alpha + \sum_n x_{ni}}{2 \alpha + N}

    Args:
        x: zeros and ones, shape `(n, ...)`.
        alpha: pseudo-counts of either colour (Laplace's rule is 1).

    Returns:
        A mixture of one component, with `log_likelihood(x)` for any data.

    >>> import vaelab
    >>> digits = vaelab.data.load_digits()
    >>> pixels = independent_bernoulli(digits.train)
    >>> print(f"{pixels.log_likelihood(digits.test).mean():.3f}")
    -24.631
    """
    flat = _flat(x, binary=True)
    alpha = checked_number("alpha", alpha, above=0)
    probabilities = (alpha + flat.sum(axis=0)) / (2 * alpha + len(flat))
    return BernoulliMixture(np.ones(1), probabilities[None])


def bernoulli_mixture(
    x: ArrayLike, k: int, seed: int, *, alpha: float = 1.0, tolerance: float = 1e-4
) -> BernoulliMixture:
    """Fits a mixture of k components by expectation maximisation.

    Args:
        x: zeros and ones, shape `(n, ...)`.
        k: the number of components, at most n.
        seed: picks the examples that the components start from.
        alpha: pseudo-counts of either colour in each component.
        tolerance: stop when a round gains less than so many nats per example.

    Returns:
        The mixture, with `log_likelihood(x)` for any data.

    Raises:
        ValueError: `k` is out of range.

    >>> import vaelab
    >>> digits = vaelab.data.load_digits()
    >>> mixture = bernoulli_mixture(digits.train, k=10, seed=0)
    >>> print(f"{mixture.log_likelihood(digits.test).mean():.0f}")
    -20

    Source: C. M. Bishop (2006), Pattern Recognition and Machine Learning, 9.3.3.
    """
    flat = _flat(x, binary=True)
    k, seed = checked_whole("k", k), checked_whole("seed", seed)
    alpha = checked_number("alpha", alpha, above=0)
    tolerance = checked_number("tolerance", tolerance, above=0)
    if not 1 <= k <= len(flat):
        raise ValueError(f"k is {k}: give at least 1 and at most {len(flat)} examples")
    starts = np.random.default_rng(seed).choice(len(flat), k, replace=False)
    mixture = BernoulliMixture(np.full(k, 1 / k), 0.25 + 0.5 * flat[starts])
    before = -np.inf
    while True:
        joint = mixture._joint(flat)
        evidence = np.logaddexp.reduce(joint, axis=1, keepdims=True)
        if evidence.mean() - before < tolerance:
            return mixture
        before = evidence.mean()
        responsibility = np.exp(joint - evidence)  # (n, k)
        count = responsibility.sum(axis=0)
        probabilities = (alpha + responsibility.T @ flat) / (2 * alpha + count)[:, None]
        mixture = BernoulliMixture(count / len(flat), probabilities)


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


def _flat(x: ArrayLike, *, binary: bool = False, like: int | None = None) -> np.ndarray:
    """Returns examples as rows of float64 numbers.

    Args:
        x: shape `(n, ...)`.
        binary: refuse what is neither 0 nor 1.
        like: the number of pixels that they must have.
    """
    array = host_array(x, "x")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"x has dtype {array.dtype}: give real numbers")
    if array.ndim < 2 or not array.size:
        raise ValueError(f"x has shape {array.shape}: give (n, ...) with n at least 1")
    require_finite(array, "x")
    flat = array.astype(np.float64).reshape(len(array), -1)
    if binary and ((flat != 0) & (flat != 1)).any():
        seen = flat[(flat != 0) & (flat != 1)][0]
        raise ValueError(
            f"x contains {seen:g}: give zeros and ones, such as (x > 0.5).astype(float)"
        )
    if like is not None and flat.shape[1] != like:
        raise ValueError(f"x has {flat.shape[1]} pixels: this model is of {like}")
    return flat
