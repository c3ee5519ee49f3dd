import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import evaluation, losses, oracle
from vaelab.evaluation._disentanglement import importance_scores

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def plane_vae(digits):
    vae = vaelab.VAE((8, 8), 32, 2, dropout=0.2, rngs=nnx.Rngs(0, noise=1))
    vaelab.fit(vae, digits.train, epochs=20, batch_size=64, optimizer=optax.adam(3e-3))
    return vae


def random_state(model):
    state = nnx.state(model, nnx.RngState)
    return [
        np.asarray(jax.random.key_data(leaf) if "key" in str(leaf.dtype) else leaf)
        for leaf in jax.tree.leaves(state)
    ]


@pytest.mark.slow
def test_metrics_agree_with_the_losses_and_with_the_grid(plane_vae, digits):
    view = vaelab.models.evaluation_view(plane_vae)
    metrics = vaelab.evaluate(plane_vae, digits.test, key=KEY, num_samples=2000)
    terms = [
        losses.elbo(view, digits.test, key=key) for key in jax.random.split(KEY, 100)
    ]
    elbo = np.mean([each.elbo for each in terms])
    assert metrics.elbo == pytest.approx(elbo, abs=0.05)
    exact = oracle.grid_log_likelihood(plane_vae, digits.test).mean()
    assert metrics.log_likelihood == pytest.approx(exact, abs=0.05)
    assert metrics.elbo < metrics.log_likelihood
    kl = terms[0].kl.mean(axis=0)
    np.testing.assert_allclose(metrics.kl, kl, rtol=1e-4)
    assert metrics.elbo == pytest.approx(
        -metrics.reconstruction - float(kl.sum()), abs=1e-3
    )
    assert metrics.active_units == 2
    assert metrics.collapsed_units == 0


@pytest.mark.slow
def test_mutual_information_is_at_most_the_kl_and_the_logarithm_of_n(plane_vae, digits):
    metrics = vaelab.evaluate(plane_vae, digits.test, key=KEY, num_samples=10)
    assert 1 < metrics.mutual_information <= metrics.kl.sum() + 0.1
    few = vaelab.evaluate(plane_vae, digits.test[:5], key=KEY, num_samples=10)
    assert few.mutual_information <= np.log(5) + 1e-5


class TwoUnits(nnx.Module):
    """Unit 0 tells black images from white ones; unit 1 says nothing."""

    latent_size = 2

    def posterior(self, x):
        told = 10 * (2 * x.mean(axis=(1, 2)) - 1)
        mean = jnp.stack([told, jnp.zeros_like(told)], axis=1)
        return vaelab.Posterior(mean, jnp.ones_like(mean))


def two_unit_vae():
    rngs = nnx.Rngs(0, noise=1)
    return vaelab.VAE.from_parts(
        TwoUnits(), vaelab.Decoder(2, 4, 4, rngs=rngs), image_shape=(2, 2), rngs=rngs
    )


BLACK_AND_WHITE = np.stack([np.zeros((2, 2)), np.ones((2, 2))] * 50)


@pytest.mark.slow
def test_mutual_information_of_a_code_with_one_bit():
    metrics = vaelab.evaluate(two_unit_vae(), BLACK_AND_WHITE, key=KEY, num_samples=5)
    assert metrics.mutual_information == pytest.approx(np.log(2), abs=1e-4)
    assert (metrics.active_units, metrics.collapsed_units) == (1, 1)


def test_units_that_react_are_active():
    vae = two_unit_vae()
    assert evaluation.active_units(vae, BLACK_AND_WHITE).tolist() == [True, False]
    report = evaluation.posterior_collapse_report(vae, BLACK_AND_WHITE)
    np.testing.assert_allclose(report.kl, [50.0, 0.0])
    np.testing.assert_allclose(report.mean_variance, [100.0, 0.0])
    np.testing.assert_allclose(report.mean_std, [1.0, 1.0])
    rows = str(report).splitlines()
    assert rows[1].split() == ["0", "50.000", "100.0000", "1.000", "active"]
    assert rows[2].split() == ["1", "0.000", "0.0000", "1.000", "collapsed"]


class Constant(nnx.Module):
    """Says the same of every image."""

    latent_size = 2

    def posterior(self, x):
        mean = jnp.full((len(x), 2), 19.3)
        return vaelab.Posterior(mean, jnp.full((len(x), 2), 0.1))


def test_means_over_many_images_are_exact():
    rngs = nnx.Rngs(0, noise=1)
    decoder = nnx.Linear(2, 1, rngs=rngs)
    vae = vaelab.VAE.from_parts(Constant(), decoder, image_shape=(1,), rngs=rngs)
    report = evaluation.posterior_collapse_report(vae, np.zeros((60_000, 1)))
    kl = losses.kl_standard_normal(jnp.float32(19.3), jnp.float32(0.1))
    np.testing.assert_allclose(report.kl, float(kl), rtol=1e-9)
    np.testing.assert_allclose(report.mean_std, np.float32(0.1), rtol=1e-9)
    assert (report.mean_variance < 1e-12).all()


def test_codes_are_the_posteriors_means(plane_vae, digits):
    codes = evaluation.latent_codes(plane_vae, digits.train)
    view = vaelab.models.evaluation_view(plane_vae)
    np.testing.assert_allclose(codes, view.encode(digits.train).mean, atol=1e-5)


@pytest.mark.slow
def test_noise_is_stranger_than_digits(plane_vae, digits):
    noise = jax.random.bernoulli(KEY, 0.5, (50, 8, 8)).astype(jnp.float32)
    strange = evaluation.anomaly_scores(plane_vae, noise, key=KEY)
    usual = evaluation.anomaly_scores(plane_vae, digits.test, key=KEY)
    assert strange.min() > np.median(usual)
    assert usual.mean() > 0  # minus a log-probability: the sign of a known mistake


def test_evaluation_changes_nothing(plane_vae, digits):
    before = random_state(plane_vae)
    results = [
        vaelab.evaluate(plane_vae, digits.test[:50], key=KEY, num_samples=5)
        for _ in range(2)
    ]
    evaluation.posterior_collapse_report(plane_vae, digits.test[:50])
    assert results[0].log_likelihood == results[1].log_likelihood
    for a, b in zip(before, random_state(plane_vae), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not plane_vae.encoder.hidden.layers[2].deterministic


def factors_and_codes():
    factors = np.random.default_rng(0).integers(0, 10, (5000, 10))
    return factors, factors.astype(float)


def test_the_identity_code_is_disentangled():
    factors, codes = factors_and_codes()
    scores = evaluation.disentanglement(codes, factors)
    values = [
        scores.mutual_information_gap,
        *scores.dci,
        scores.sap,
        scores.factor_vae_score,
        scores.beta_vae_score,
    ]
    assert min(values) >= 0.9
    assert max(values) <= 1


@pytest.mark.slow
def test_a_code_that_says_everything_twice_is_not_complete():
    factors, codes = factors_and_codes()
    twice = np.tile(codes, 2)
    assert evaluation.mutual_information_gap(twice, factors) <= 0.1
    assert evaluation.sap(twice, factors) <= 0.2
    scores = evaluation.dci(twice, factors)
    assert scores.disentanglement >= 0.95
    assert scores.completeness == pytest.approx(1 - np.log(2) / np.log(20), abs=0.05)


def test_importance_scores_of_the_ideal_matrices():
    assert importance_scores(np.eye(10)) == pytest.approx((1, 1))
    twice = np.tile(np.eye(10), (2, 1)) / 2
    assert importance_scores(twice) == pytest.approx((1, 0.76862), abs=1e-5)
    assert importance_scores(np.ones((10, 10))) == pytest.approx((0, 0))


def test_a_code_that_says_nothing_scores_nothing():
    factors, codes = factors_and_codes()
    scores = evaluation.disentanglement(np.zeros_like(codes), factors)
    assert scores.mutual_information_gap == 0
    assert scores.sap == 0
    assert scores.factor_vae_score == 0
    assert scores.dci[:2] == (0, 0)
    assert scores.dci.informativeness < 0.2
    assert scores.beta_vae_score < 0.25


def test_a_rotated_code_is_entangled():
    factors, codes = factors_and_codes()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0]
    rotated = codes @ rotation
    assert evaluation.mutual_information_gap(rotated, factors) < 0.2
    assert evaluation.sap(rotated, factors) < 0.5
    assert evaluation.factor_vae_score(rotated, factors) < 0.9


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.zeros((5, 2)), np.zeros((4, 2), int), "the same n"),
        (np.zeros(5), np.zeros((5, 2), int), r"codes has shape \(5,\)"),
        (
            np.zeros((5, 2)),
            np.zeros((5, 2)),
            "factors has dtype float64: give integers",
        ),
        (np.zeros((5, 2)), np.zeros((5, 2), int), r"factors \[0, 1\] have a single"),
    ],
)
def test_impossible_codes_and_factors_are_refused(codes, factors, message):
    with pytest.raises(ValueError, match=message):
        evaluation.disentanglement(codes, factors)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.full((4, 8, 8), 16.0), {}, "images lie in"),
        (np.zeros((4, 9, 9)), {}, "images has shape"),
        (np.zeros((4, 8, 8)), {"num_samples": 0}, "num_samples is 0"),
    ],
)
def test_evaluate_refuses_bad_input(plane_vae, images, options, message):
    with pytest.raises(ValueError, match=message):
        vaelab.evaluate(plane_vae, images, key=KEY, **options)
