"""A bound whose gradient lives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from vaelab._bounds import bounded

FINITE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@settings(deadline=None)
@given(st.floats(-9.0, 9.0, width=32, allow_subnormal=False))
def test_inside_of_the_margins_not_a_bit_changes(x):
    assert float(bounded(jnp.float32(x), -10.0, 10.0)) == x


@settings(deadline=None)
@given(FINITE)
def test_values_stay_within_and_the_slope_lives(x):
    value, slope = jax.value_and_grad(bounded)(x, -10.0, 10.0)
    assert -10 <= value <= 10
    assert 0 < slope <= 1


@settings(deadline=None)
@given(FINITE, st.floats(2.0, 10.0))
def test_the_formula(x, high):
    margin = min(1.0, high / 2)
    far = abs(x) - (high - margin)
    exact = x if far <= 0 else np.sign(x) * (high - margin**2 / (margin + far))
    np.testing.assert_allclose(bounded(jnp.float32(x), -high, high), exact, rtol=2e-6)


def test_value_and_slope_are_continuous_at_the_margin():
    around = jnp.array([9.0 - 1e-4, 9.0, 9.0 + 1e-4])
    values, slopes = jax.vmap(jax.value_and_grad(lambda x: bounded(x, -10.0, 10.0)))(
        around
    )
    np.testing.assert_allclose(values, around, atol=1e-5)
    np.testing.assert_allclose(slopes, 1.0, atol=1e-3)


@pytest.mark.parametrize("x", [-30.0, -9.5, 0.3, 9.5, 30.0])
def test_the_gradient_is_that_of_the_value(x):
    check_grads(lambda x: bounded(x, -10.0, 10.0), (x,), order=1, eps=1e-2, rtol=2e-2)


def test_infinity_is_the_bound_and_nan_stays():
    x = jnp.array([-jnp.inf, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(bounded(x, -10.0, 10.0), [-10.0, 10.0, np.nan])


def test_one_bound_and_narrow_intervals():
    x = jnp.array([-50.0, -6.0, 100.0])
    low = bounded(x, -7.0)
    np.testing.assert_allclose(low, [-7 + 1 / 45, -6.0, 100.0], rtol=1e-6)
    narrow = bounded(jnp.array([-9.0, 0.5, 9.0]), 0.0, 1.0)
    assert (0 < narrow).all() and (narrow < 1).all()
    assert narrow[1] == 0.5


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_stays_itself(dtype):
    x = jnp.array([-100.0, 0.5, 100.0], dtype)
    value = bounded(x, -10.0, 10.0)
    assert value.dtype == dtype
    assert (abs(value) <= 10).all()
