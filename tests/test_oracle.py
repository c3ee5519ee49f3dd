import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats
from sklearn.decomposition import PCA

import vaelab
from vaelab import oracle


@pytest.fixture(scope="module")
def grey():
    return vaelab.data.load_digits(binarize=False)


@pytest.mark.parametrize(
    ("q", "train", "test"),
    [
        (2, 0.2649, -0.8862),
        (8, 14.5106, 13.0372),
        (16, 24.3875, 21.9960),
        (32, 35.7031, 32.9925),
    ],
)
def test_probabilistic_pca_on_digits(grey, q, train, test):
    model = oracle.probabilistic_pca(grey.train, q)
    assert model.log_likelihood(grey.train).mean() == pytest.approx(train, abs=5e-5)
    assert model.log_likelihood(grey.test).mean() == pytest.approx(test, abs=5e-5)


def test_probabilistic_pca_has_its_closed_form_and_is_sklearns(grey):
    q, x = 8, np.asarray(grey.train, float).reshape(-1, 64)
    model = oracle.probabilistic_pca(x, q)
    top, d = model.eigenvalues[:q], 64
    closed_form = -0.5 * (
        d * np.log(2 * np.pi) + np.log(top).sum() + (d - q) * np.log(model.sigma2) + d
    )
    assert model.log_likelihood(x).mean() == pytest.approx(closed_form, rel=1e-10)
    shrink = np.sqrt(1 - 1 / len(x))  # scikit-learn divides the covariance by n - 1
    expected = PCA(q, svd_solver="full").fit(x * shrink).get_covariance()
    got = model.components @ model.components.T + model.sigma2 * np.eye(d)
    assert model.sigma2 == pytest.approx(np.linalg.eigvalsh(got)[0])
    np.testing.assert_allclose(got, expected, atol=1e-8)


def test_probabilistic_pca_is_a_gaussian(grey):
    model = oracle.probabilistic_pca(grey.train, 4)
    covariance = model.components @ model.components.T + model.sigma2 * np.eye(64)
    density = stats.multivariate_normal(model.mean, covariance)
    x = np.asarray(grey.test[:20]).reshape(20, 64)
    np.testing.assert_allclose(model.log_likelihood(x), density.logpdf(x), rtol=1e-8)


@pytest.mark.parametrize(
    ("beta", "sigma2", "active", "kl", "distortion"),
    [
        (1, 0.027045, 8, 10.2056, 1.7309),
        (1, 0.25, 5, 1.6646, 3.3610),
        (10, 0.027045, 4, 1.4710, 3.4617),
    ],
)
def test_linear_beta_vae_on_digits(grey, beta, sigma2, active, kl, distortion):
    eigenvalues = oracle.probabilistic_pca(grey.train, 8).eigenvalues
    units = oracle.linear_beta_vae(eigenvalues[:8], beta, sigma2)
    assert units.active.sum() == active
    assert units.kl.sum() == pytest.approx(kl, abs=5e-5)
    total = units.distortion.sum() + eigenvalues[8:].sum()
    assert total == pytest.approx(distortion, abs=5e-5)
    assert ((units.kl > 0) == units.active).all()


def test_independent_pixels_on_digits(digits):
    model = oracle.independent_bernoulli(digits.train)
    assert model.log_likelihood(digits.train).mean() == pytest.approx(-24.374, abs=5e-4)
    assert model.log_likelihood(digits.test).mean() == pytest.approx(-24.631, abs=5e-4)


@pytest.mark.parametrize(
    ("k", "train", "test"), [(10, -19.07, -20.10), (20, -18.02, -19.16)]
)
def test_bernoulli_mixtures_on_digits(digits, k, train, test):
    mixture = oracle.bernoulli_mixture(digits.train, k, seed=0)
    assert mixture.weights.sum() == pytest.approx(1)
    assert mixture.log_likelihood(digits.train).mean() == pytest.approx(train, abs=0.3)
    assert mixture.log_likelihood(digits.test).mean() == pytest.approx(test, abs=0.3)


def test_a_mixtures_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    mixture = oracle.bernoulli_mixture(rng.integers(0, 2, (50, 5)), k=3, seed=0)
    every_image = np.array(list(itertools.product([0, 1], repeat=5)))
    assert np.exp(mixture.log_likelihood(every_image)).sum() == pytest.approx(1)


def test_a_pixel_that_never_changes_has_no_surprise():
    """0 times the logarithm of 0 is 0; of NaN, fitting would never end."""
    certain = oracle.BernoulliMixture(np.ones(1), np.array([[0.0, 1.0, 0.5]]))
    x = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    seen, impossible = certain.log_likelihood(x)
    assert seen == pytest.approx(np.log(0.5))
    assert impossible < -1e299
    black = oracle.bernoulli_mixture(np.ones((6, 4)), 1, seed=0, alpha=1e-300)
    np.testing.assert_array_equal(black.log_likelihood(np.ones((6, 4))), 0.0)


def test_fitting_a_mixture_ends():
    x = np.random.default_rng(0).integers(0, 2, (50, 5))
    with pytest.warns(RuntimeWarning, match="after 2 rounds: give more rounds or a l"):
        oracle.bernoulli_mixture(x, 3, seed=0, tolerance=1e-300, rounds=2)


def plane_vae(image_shape):
    return vaelab.VAE(image_shape, 16, 2, rngs=nnx.Rngs(0, noise=1))


@pytest.mark.slow
def test_the_grid_integrates_to_one_over_all_images():
    vae = plane_vae((2, 3))
    vae.decoder.linear.kernel[...] *= 20.0
    every_image = jnp.array(list(itertools.product([0.0, 1.0], repeat=6)))
    log_p = oracle.grid_log_likelihood(vae, every_image.reshape(-1, 2, 3))
    assert np.exp(log_p).sum() == pytest.approx(1, abs=2e-5)


@pytest.mark.slow
def test_the_grid_is_above_the_elbo_and_agrees_with_sampling_the_prior(digits):
    vae = plane_vae((8, 8))
    vaelab.fit(vae, digits.train, epochs=20, batch_size=64, optimizer=optax.adam(3e-3))
    x = digits.test[:40]
    exact = oracle.grid_log_likelihood(vae, x)
    elbo = np.mean(
        [
            vaelab.elbo(vae, x, key=key).elbo
            for key in jax.random.split(jax.random.key(0), 200)
        ],
        axis=0,
    )
    assert (exact > elbo - 0.2).all()
    z = jax.random.normal(jax.random.key(1), (20_000, 2))
    logits = vae.decode(z)
    log_p = jax.lax.map(
        lambda image: -vae.likelihood.nll(logits, jnp.tile(image, (len(z), 1, 1))), x
    )
    sampled = jax.nn.logsumexp(log_p, axis=1) - np.log(len(z))
    np.testing.assert_allclose(exact.mean(), sampled.mean(), atol=0.05)


def test_the_gaps_of_a_linear_gaussian_model_are_known():
    """p(x | z) = N(x; z, 1): the exact posterior is N(x / 2, 1 / 2), a Gaussian."""

    class StandardNormalEncoder(nnx.Module):
        latent_size = 2

        def posterior(self, x):
            zeros = jnp.zeros((len(x), 2))
            return vaelab.Posterior(zeros, zeros + 1)

    class Identity(nnx.Module):
        def __call__(self, z):
            return z

    model = vaelab.VAE.from_parts(
        StandardNormalEncoder(),
        Identity(),
        image_shape=(1, 2),
        likelihood=vaelab.likelihoods.Gaussian(std=1.0),
        rngs=nnx.Rngs(0),
    )
    x = np.array([[0.0, 0.0], [1.0, -2.0]], np.float32).reshape(2, 1, 2)
    gaps = oracle.gap_decomposition(model, x)
    log_p = stats.norm(0, np.sqrt(2)).logpdf(x).sum((1, 2))
    elbo = (stats.norm(0, 1).logpdf(x) - 0.5).sum((1, 2))  # E(x - z)² = x² + 1
    np.testing.assert_allclose(gaps.log_likelihood, log_p, atol=1e-4)
    np.testing.assert_allclose(gaps.elbo, elbo, atol=1e-4)
    np.testing.assert_allclose(gaps.approximation, 0, atol=1e-3)
    np.testing.assert_allclose(gaps.amortisation, log_p - elbo, atol=1e-3)


@pytest.mark.slow
def test_the_gaps_are_positive_and_add_up(digits):
    vae = plane_vae((8, 8))
    vaelab.fit(vae, digits.train, epochs=20, batch_size=64, optimizer=optax.adam(3e-3))
    gaps = oracle.gap_decomposition(vae, digits.test[:20])
    assert (gaps.approximation > -0.01).all()
    assert (gaps.amortisation >= 0).all()
    np.testing.assert_allclose(
        gaps.log_likelihood - gaps.elbo, gaps.approximation + gaps.amortisation, 1e-4
    )
    keys = jax.random.split(jax.random.key(0), 400)
    sampled = np.mean(
        [vaelab.elbo(vae, digits.test[:20], key=key).elbo for key in keys], axis=0
    )
    assert gaps.elbo.mean() == pytest.approx(sampled.mean(), abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: oracle.probabilistic_pca(np.zeros((5, 4)), 4), "q is 4: .* 4 pixels"),
        (
            lambda: oracle.probabilistic_pca(np.zeros((5, 4)), 0),
            "q is 0: give at least",
        ),
        (lambda: oracle.linear_beta_vae([1.0], 0.0, 1.0), "beta is 0.0"),
        (lambda: oracle.linear_beta_vae([1.0], 1.0, -1.0), "sigma2 is -1.0"),
        (lambda: oracle.bernoulli_mixture(np.zeros((5, 4)), 6, 0), "k is 6: .* most 5"),
        (
            lambda: oracle.grid_log_likelihood(
                vaelab.VAE((2, 2), 4, 3, rngs=nnx.Rngs(0)), np.zeros((1, 2, 2))
            ),
            "model has latent_size 3",
        ),
        (
            lambda: oracle.grid_log_likelihood(plane_vae((2, 2)), np.zeros((1, 3, 3))),
            "images has shape",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
