"""Models whose decoder is linear, and whose answers are eigenvalues."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from vaelab._arguments import checked_number, checked_whole
from vaelab._checks import real_array, require_finite
from vaelab.oracle._rows import rows_of


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
        centred = rows_of(x, like=len(self.mean)) - self.mean
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
        ValueError: `q` is out of range, or leaves no variance for the noise.

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
    flat = rows_of(x)
    num_pixels = flat.shape[1]
    q = checked_whole("q", q)
    if not 1 <= q < num_pixels:
        raise ValueError(f"q is {q}: give at least 1 and less than {num_pixels} pixels")
    mean = flat.mean(axis=0)
    covariance = np.cov(flat, rowvar=False, bias=True)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    eigenvalues, eigenvectors = eigenvalues[::-1].clip(0), eigenvectors[:, ::-1]
    sigma2 = float(eigenvalues[q:].mean())
    if sigma2 <= 1e-12 * eigenvalues[0]:
        raise ValueError(
            f"q is {q}, but x varies in fewer than {q + 1} directions, so nothing is "
            "left for the noise: give a smaller q, or more examples"
        )
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
        ValueError: `beta` or `sigma2` is not positive, or an eigenvalue is negative.

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
    if (eigenvalues < 0).any():
        raise ValueError(
            f"eigenvalues contains {eigenvalues.min():g}: a covariance has none below "
            "0; for those of rounding write eigenvalues.clip(0)"
        )
    active = eigenvalues > threshold
    kl = 0.5 * np.log(np.where(active, eigenvalues, threshold) / threshold)
    return LinearBetaVAE(active, kl, np.minimum(eigenvalues, threshold))
