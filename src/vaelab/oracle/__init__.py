r"""Exact answers, to hold estimates against.

Four kinds of models have a log-likelihood that needs no bound: probabilistic PCA, which
a linear VAE with a Gaussian likelihood becomes when it is trained to the end; mixtures;
independent pixels; and any VAE whose latent space is a plane, which a grid can
integrate. Everything is in nats per example.
"""

from vaelab.oracle._grid import (
    GapDecomposition,
    gap_decomposition,
    grid_log_likelihood,
)
from vaelab.oracle._linear import (
    LinearBetaVAE,
    ProbabilisticPCA,
    linear_beta_vae,
    probabilistic_pca,
)
from vaelab.oracle._mixtures import (
    BernoulliMixture,
    bernoulli_mixture,
    independent_bernoulli,
)

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
