"""Finite values and gradients everywhere the mathematics is finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaelab import losses
from vaelab.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    PixelwiseGaussian,
)

relaxed = settings(max_examples=40, deadline=None)
PIXELS = 4


def floats(low, high):
    """float32 numbers: huge, tiny and zero ones, without subnormals."""
    return st.floats(low, high, width=32, allow_subnormal=False)


def arrays(shape, low, high):
    return hnp.arrays(np.float32, shape, elements=floats(low, high))


def assert_finite(function, *args):
    value, gradients = jax.value_and_grad(
        lambda *args: function(*args).sum(), argnums=tuple(range(len(args)))
    )(*map(jnp.asarray, args))
    assert np.isfinite(value)
    for gradient in gradients:
        assert np.isfinite(gradient).all()


@pytest.mark.slow
@given(logits=arrays((3, PIXELS), -1e4, 1e4), x=arrays((3, PIXELS), 0, 1))
@relaxed
def test_bernoulli_losses_are_finite_for_all_logits(logits, x):
    for likelihood in (Bernoulli(), ContinuousBernoulli()):
        assert_finite(lambda logits, nll=likelihood.nll: nll(logits, x), logits)
        assert_finite(likelihood.mean, logits)
        mean = np.asarray(likelihood.mean(jnp.asarray(logits)))
        assert (mean >= 0).all()
        assert (mean <= 1).all()


@given(logits=arrays((3, PIXELS), -1e4, 1e4), x=st.sampled_from([0.0, 1.0]))
@relaxed
def test_a_bernoulli_nll_of_binary_images_is_never_negative(logits, x):
    nll = Bernoulli().nll(jnp.asarray(logits), jnp.full((3, PIXELS), x))
    assert (nll >= 0).all()


@given(
    logits=arrays((2, PIXELS, 3), -1e4, 1e4),
    x=hnp.arrays(np.float32, (2, PIXELS), elements=st.sampled_from([0.0, 0.5, 1.0])),
)
@relaxed
def test_categorical_losses_are_finite_for_all_logits(logits, x):
    assert_finite(lambda logits: Categorical(levels=3).nll(logits, x), logits)


@given(logits=arrays((2, PIXELS, 2), -1e4, 1e4), x=arrays((2, PIXELS), -10, 10))
@relaxed
def test_gaussian_losses_are_finite_for_all_outputs(logits, x):
    assert_finite(lambda logits: PixelwiseGaussian().nll(logits, x), logits)


@given(
    mean=arrays((3, 2), -1e4, 1e4),
    std=arrays((3, 2), float(np.float32(1e-30)), float(np.float32(1e10))),
)
@relaxed
def test_the_kl_is_finite_for_all_spreads(mean, std):
    assert_finite(losses.kl_standard_normal, mean, std)
    assert (
        losses.kl_standard_normal(jnp.asarray(mean), jnp.asarray(std)) >= -1e-6
    ).all()


@pytest.mark.slow
@given(
    mean=arrays((3, 2), -1e2, 1e2),
    log_std=arrays((3, 2), -10, 10),
    noise=arrays((3, 2), -5, 5),
)
@relaxed
def test_the_decomposition_of_the_kl_is_finite_for_bounded_spreads(
    mean, log_std, noise
):
    def parts(mean, log_std):
        std = jnp.exp(log_std)
        terms = losses.total_correlation_terms(
            mean + std * noise, mean, std, dataset_size=100
        )
        return jnp.stack(terms)

    assert_finite(parts, mean, log_std)


@pytest.mark.slow
@given(
    batch=st.integers(1, 3),
    shape=hnp.array_shapes(min_dims=2, max_dims=3, max_side=4),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
)
@settings(max_examples=15, deadline=None)  # each shape and dtype is compiled
def test_a_likelihood_keeps_the_batch_and_the_dtype(batch, shape, dtype):
    logits = jnp.ones((batch, *shape), dtype)
    nll = Bernoulli().nll(logits, jnp.ones_like(logits))
    assert nll.shape == (batch,)
    assert nll.dtype == dtype
