import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.test_util import check_grads
from scipy import stats

import vaelab
from vaelab.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    LearnedGaussian,
    PixelwiseGaussian,
    uniform_dequantize,
)

LOGITS = jnp.array([-120.0, -30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0, 120.0])


def reference_nll(logits, x):
    return optax.sigmoid_binary_cross_entropy(logits, x)


@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_nll_and_its_gradient_are_optax_cross_entropy(target):
    logits = LOGITS[:, None]  # (batch, 1): one pixel each
    x = jnp.full_like(logits, target)
    nll = Bernoulli().nll
    np.testing.assert_allclose(
        nll(logits, x), reference_nll(logits, x)[:, 0], rtol=1e-6, atol=2e-6
    )
    np.testing.assert_allclose(
        jax.grad(lambda logits: nll(logits, x).sum())(logits),
        jax.grad(lambda logits: reference_nll(logits, x).sum())(logits),
        rtol=1e-6,
        atol=1e-7,
    )


def test_the_gradient_is_exact_at_zero_and_at_the_extremes():
    gradient = jax.grad(lambda logit: Bernoulli().nll(logit[None], jnp.zeros(1))[0])
    assert gradient(0.0) == 0.5
    assert gradient(120.0) == 1.0
    assert gradient(-120.0) == pytest.approx(np.exp(-120.0), abs=1e-38)


def test_nll_sums_over_pixels_and_not_over_the_batch():
    x = jnp.array([[[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
    logits = jnp.log(jnp.array([[[3.0, 3.0]]])) * jnp.ones((3, 1, 1))  # sigmoid = 3/4
    expected = -np.log([0.25 * 0.75, 0.75**2, 0.25**2])
    np.testing.assert_allclose(Bernoulli().nll(logits, x), expected, rtol=1e-6)


def test_probabilities_of_all_images_sum_to_one():
    images = jnp.array(list(itertools.product([0.0, 1.0], repeat=6)))  # (64, 6)
    logits = jnp.tile(jax.random.normal(jax.random.key(0), (1, 6)), (64, 1))
    assert jnp.exp(-Bernoulli().nll(logits, images)).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_nll_passes_check_grads():
    logits = jax.random.normal(jax.random.key(0), (4, 3, 2))
    x = jax.random.uniform(jax.random.key(1), (4, 3, 2))
    check_grads(
        lambda logits: Bernoulli().nll(logits, x), (logits,), order=2, rtol=2e-2
    )


def test_samples_are_zeros_and_ones_with_the_mean():
    logits = jnp.tile(jnp.array([[-2.0, 0.0, 1.0]]), (20_000, 1))
    likelihood = Bernoulli()
    images = likelihood.sample(jax.random.key(0), logits)
    assert images.dtype == jnp.float32
    assert set(np.unique(images)) == {0.0, 1.0}
    np.testing.assert_allclose(images.mean(0), likelihood.mean(logits)[0], atol=0.012)
    np.testing.assert_allclose(
        likelihood.mean(logits)[0], [0.119203, 0.5, 0.731059], 1e-5
    )


def test_equal_likelihoods_are_one_key():
    assert Bernoulli() == Bernoulli()
    assert hash(Bernoulli()) == hash(Bernoulli())


def test_check_accepts_the_unit_interval():
    Bernoulli().check(np.array([0.0, 0.5, 1.0]))
    Bernoulli().check(np.array([True, False]))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([0.0, 16.0], r"lie in \[0, 16\].*write images / 16"),
        ([0.0, 255.0], r"lie in \[0, 255\].*write images / 255"),
        ([-1.0, 1.0], r"lie in \[-1, 1\].*write \(images - -1\) / 2"),
        ([0.0, np.nan], r"1 NaN or infinite values, the first at index \(1,\)"),
    ],
)
def test_check_says_what_the_range_is_and_how_to_fix_it(x, message):
    with pytest.raises(ValueError, match=message):
        Bernoulli().check(np.array(x))


LOGIT_GRID = [-1e4, -60.0, -3.0, -0.31, -0.29, -1e-3, 0.0, 1e-3, 0.29, 0.31, 3.0, 60.0]


@pytest.mark.parametrize("logit", [-60.0, -3.0, -0.3, -1e-3, 0.0, 1e-3, 0.3, 3.0, 60.0])
def test_the_continuous_bernoulli_integrates_to_one_around_its_mean(logit):
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = jnp.float32(0.5 + 0.5 * nodes)[:, None]
    nll = ContinuousBernoulli().nll(jnp.full_like(x, logit), x)
    density = np.exp(-np.float64(nll))
    assert 0.5 * weights @ density == pytest.approx(1, abs=2e-5)
    mean = 0.5 * weights @ (density * x[:, 0])
    got = ContinuousBernoulli().mean(jnp.float32(logit))
    assert float(got) == pytest.approx(float(mean), abs=2e-5)


def test_the_continuous_bernoullis_constant_is_that_of_the_paper():
    logits = np.array([-30, -3, -0.4, -0.2, -0.01, 0.01, 0.2, 0.4, 3, 30.0])
    rate = 1 / (1 + np.exp(-logits))
    log_constant = np.log(2 * np.arctanh(1 - 2 * rate) / (1 - 2 * rate))
    x = jnp.full((len(logits), 1), 0.3)
    column = jnp.asarray(logits, jnp.float32)[:, None]
    difference = Bernoulli().nll(column, x) - ContinuousBernoulli().nll(column, x)
    np.testing.assert_allclose(difference, log_constant, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("x", [0.0, 0.4, 1.0])
def test_the_continuous_bernoulli_is_finite_everywhere(x):
    logits = jnp.array(LOGIT_GRID)[:, None]

    def total(logits):
        return ContinuousBernoulli().nll(logits, jnp.full_like(logits, x)).sum()

    value, gradient = jax.value_and_grad(total)(logits)
    assert np.isfinite(value)
    means = ContinuousBernoulli().mean(logits)
    np.testing.assert_allclose(gradient, means - x, atol=2e-5)  # exponential family
    variances = jax.grad(lambda logits: ContinuousBernoulli().mean(logits).sum())(
        logits
    )
    assert np.isfinite(variances).all()
    assert (variances >= 0).all()


LEARNED = LearnedGaussian(std=0.7)


@pytest.mark.parametrize(
    ("likelihood", "logits"),
    [
        (Gaussian(std=0.7), [0.3]),
        (LEARNED, [0.3]),
        (PixelwiseGaussian(), [[0.3, np.log(0.7)]]),
    ],
)
def test_gaussians_are_scipys(likelihood, logits):
    x = np.linspace(-2, 2, 9, dtype=np.float32)[:, None]
    nll = likelihood.nll(
        jnp.tile(jnp.array(logits)[None], (9, *[1] * np.ndim(logits))), x
    )
    np.testing.assert_allclose(nll, -stats.norm(0.3, 0.7).logpdf(x[:, 0]), rtol=1e-5)


def test_spreads_have_a_floor():
    one_pixel = jnp.zeros((1, 1))
    healthy = LearnedGaussian(std=0.05, floor=0.01)
    assert float(healthy.std) == pytest.approx(0.05, rel=1e-6)
    collapsed = LearnedGaussian(std=1e-9, floor=0.01)
    assert 0.01 < collapsed.std < 0.011
    expected = Gaussian(std=float(collapsed.std)).nll(one_pixel, one_pixel)
    np.testing.assert_allclose(collapsed.nll(one_pixel, one_pixel), expected, rtol=1e-5)
    logits = jnp.array([[[0.0, -100.0]]])
    got = PixelwiseGaussian(floor=0.01).nll(logits, one_pixel)
    least = Gaussian(std=0.01).nll(one_pixel, one_pixel)
    np.testing.assert_allclose(got, least, atol=0.02)
    assert got > least


@pytest.mark.parametrize("std", [1e-12, 1e-3])
def test_a_spread_below_its_floor_comes_back(std):
    likelihood = LearnedGaussian(std=std, floor=0.01)
    optimizer = nnx.Optimizer(likelihood, optax.adam(0.5), wrt=nnx.Param)
    x = jnp.array([[-1.0, 1.0]])

    @nnx.jit
    def step(likelihood, optimizer):
        def loss(likelihood):
            return likelihood.nll(jnp.zeros((1, 2)), x).sum()

        optimizer.update(likelihood, nnx.grad(loss)(likelihood))

    for _ in range(100):
        step(likelihood, optimizer)
    assert likelihood.std > 0.1


def test_categorical_sums_to_one_and_has_its_mean():
    logits = 3 * jax.random.normal(jax.random.key(0), (1, 1, 5))
    levels = jnp.linspace(0.0, 1.0, 5)
    likelihood = Categorical(levels=5)
    nll = likelihood.nll(jnp.tile(logits, (5, 1, 1)), levels[:, None])
    assert jnp.exp(-nll).sum() == pytest.approx(1, abs=1e-6)
    expected = (jnp.exp(-nll) * levels).sum()
    np.testing.assert_allclose(likelihood.mean(logits)[0, 0], expected, rtol=1e-5)


def test_dequantised_levels_stay_in_their_share():
    x = jnp.tile(jnp.arange(17.0) / 16, (1000, 1))
    y = uniform_dequantize(jax.random.key(0), x, levels=17)
    np.testing.assert_array_equal(jnp.floor(y * 17), x * 16)
    assert 0 <= y.min()
    assert y.max() < 1
    np.testing.assert_allclose(y.mean(0) * 17 - jnp.arange(17), 0.5, atol=0.05)


@pytest.mark.parametrize(
    ("likelihood", "logits"),
    [
        (ContinuousBernoulli(), [-40.0, -2.0, 0.0, 0.2, 5.0]),
        (Gaussian(std=0.5), [-2.0, 0.0, 1.0]),
        (LEARNED, [-2.0, 0.0, 1.0]),
        (PixelwiseGaussian(), [[0.0, -1.0], [2.0, 0.0]]),
        (Categorical(levels=3), [[0.0, 0.0, 0.0], [1.0, -1.0, 3.0]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_samples_have_the_likelihoods_mean(likelihood, logits):
    logits = jnp.array(logits)
    many = jnp.broadcast_to(logits[None], (20_000, *logits.shape))
    images = likelihood.sample(jax.random.key(0), many)
    likelihood.check(images)
    assert images.dtype == jnp.float32
    np.testing.assert_allclose(images.mean(0), likelihood.mean(logits), atol=0.03)


@pytest.mark.parametrize(
    "likelihood",
    [
        pytest.param(ContinuousBernoulli(), marks=pytest.mark.slow),
        pytest.param(Gaussian(std=0.5), marks=pytest.mark.slow),
        LEARNED,
        PixelwiseGaussian(),
    ],
)
def test_densities_pass_check_grads(likelihood):
    shape = (4, 3) if likelihood.outputs_per_pixel == 1 else (4, 3, 2)
    logits = jax.random.normal(jax.random.key(0), shape)
    x = jax.random.uniform(jax.random.key(1), (4, 3))
    check_grads(lambda logits: likelihood.nll(logits, x), (logits,), order=2, rtol=3e-2)


@pytest.mark.slow
def test_a_learned_spread_is_trained_with_its_model():
    rngs = nnx.Rngs(0, noise=1)
    vae = vaelab.VAE((2, 2), 4, 2, likelihood=LearnedGaussian(), rngs=rngs)
    optimizer = nnx.Optimizer(vae, optax.adam(0.1), wrt=nnx.Param)
    for _ in range(20):
        vaelab.train_step(vae, optimizer, jnp.full((8, 2, 2), 0.5))
    assert vae.likelihood.std < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian(std=0.0), "std is 0.0"),
        (lambda: LearnedGaussian(std=-1.0), "std is -1.0"),
        (lambda: LearnedGaussian(floor=0.0), "floor is 0.0"),
        (lambda: PixelwiseGaussian(floor=-1.0), "floor is -1.0"),
        (lambda: Categorical(levels=1), "levels is 1: give at least 2"),
        (lambda: Categorical(levels=5).check([0.3]), "0.3, between two of 5 levels"),
        (lambda: Categorical(levels=5).check([2.0]), r"lie in \[2, 2\]"),
        (lambda: Gaussian().check([np.inf]), "1 NaN or infinite values"),
    ],
)
def test_what_is_impossible_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
