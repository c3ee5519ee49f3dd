"""A linear VAE trained by `fit` becomes what its oracle says."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats

import vaelab
from vaelab import evaluation, oracle
from vaelab.likelihoods import Gaussian, LearnedGaussian

pytestmark = pytest.mark.slow

LATENT, EPOCHS, BATCH = 8, 500, 64


@pytest.fixture(scope="module")
def grey():
    return vaelab.data.load_digits(binarize=False)


@pytest.fixture(scope="module")
def pca(grey):
    return oracle.probabilistic_pca(grey.train, LATENT)


def trained_linear_vae(images, likelihood, epochs):
    vae = vaelab.VAE(
        (8, 8), (), LATENT, likelihood=likelihood, rngs=nnx.Rngs(0, noise=1)
    )
    steps = epochs * (len(images) // BATCH)
    adam = optax.adam(optax.cosine_decay_schedule(3e-2, steps))
    vaelab.fit(vae, images, epochs=epochs, batch_size=BATCH, optimizer=adam)
    return vae


def test_it_reaches_probabilistic_pca(grey, pca):
    vae = trained_linear_vae(grey.train, LearnedGaussian(std=0.3), EPOCHS)
    best = pca.log_likelihood(grey.train).mean()
    metrics = vaelab.evaluate(vae, grey.train, key=jax.random.key(0), num_samples=100)
    assert best - 0.05 <= metrics.elbo <= best
    weights = np.asarray(vae.decoder.linear.kernel[...], float)
    spread = float(vae.likelihood.std)
    marginal = stats.multivariate_normal(
        np.asarray(vae.decoder.linear.bias[...], float),
        weights.T @ weights + spread**2 * np.eye(64),
    )
    flat = np.asarray(grey.train).reshape(-1, 64)
    assert marginal.logpdf(flat).mean() == pytest.approx(best, abs=0.03)
    assert spread**2 == pytest.approx(pca.sigma2, rel=0.02)


def test_its_units_collapse_where_the_oracle_says(grey, pca):
    sigma2 = 0.35  # between the fourth and the fifth eigenvalue
    vae = trained_linear_vae(grey.train, Gaussian(std=sigma2**0.5), EPOCHS)
    predicted = oracle.linear_beta_vae(pca.eigenvalues[:LATENT], 1.0, sigma2)
    report = evaluation.posterior_collapse_report(vae, grey.train, threshold=0.02)
    order = np.argsort(-report.kl)
    assert report.active[order].tolist() == predicted.active.tolist()
    np.testing.assert_allclose(report.kl[order], predicted.kl, atol=0.02)
