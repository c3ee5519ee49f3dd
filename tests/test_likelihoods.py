import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from vaelab.likelihoods import Bernoulli

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
