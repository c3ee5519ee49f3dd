import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from vaelab.debug import explain


def verification(fn, *args):
    return explain(fn, *args).verification


def test_without_verify_nothing_is_checked():
    assert explain(jnp.log, jnp.zeros(2)).verification is None


def test_a_domain_error_stays_in_float64():
    checked = verification(jax.jit(jnp.log), jnp.array([1.0, -1.0]))
    assert checked.float64 is False
    assert checked.clamped is True


@pytest.mark.parametrize(
    "fn", [lambda x: 1 / jnp.square(x), lambda x: jnp.exp(-jnp.log(x) * 2)]
)
def test_a_range_error_vanishes_in_float64(fn):
    assert verification(fn, jnp.array([1.0, 1e-30])).float64 is True


def test_float64_stays_off_afterwards():
    verification(jnp.log, jnp.zeros(2))
    assert jnp.ones(1).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_the_rows_that_fail_alone():
    def loss(w, x, y):
        return jnp.mean(jnp.log(x @ w) * y)

    x = np.ones((9, 2), np.float32)
    x[[2, 7]] = 0
    checked = verification(jax.jit(loss), jnp.ones(2), jnp.array(x), jnp.ones(9))
    assert checked.rows == (2, 7)
    assert "2, 7" in " ".join(checked.notes)


def test_no_rows_if_all_of_them_fail():
    checked = verification(lambda w, x: jnp.log(w * x), jnp.zeros(1), jnp.ones(4))
    assert checked.rows is None


def test_no_rows_without_a_batch():
    checked = verification(jnp.log, jnp.float32(0))
    assert checked.rows is None
    assert len(checked.notes) == 2


def test_the_operand_is_clamped_inside_of_loops_and_branches():
    def step(total, x):
        value = lax.cond(x > 1, jnp.sqrt, lambda x: x, x - 2)
        return total + value, None

    def loss(xs):
        return lax.scan(step, 0.0, xs)[0]

    xs = jnp.array([3.0, 2.0, 4.0])
    assert verification(jax.jit(jax.grad(loss)), xs).clamped is True
    body = lambda s: (s[0] + 1, s[1] + 1 / (2.0 - s[0]))  # noqa: E731 (short)
    fn = lambda x: lax.while_loop(lambda s: s[0] < 4, body, (0, x))[1]  # noqa: E731
    assert verification(jax.jit(fn), jnp.float32(1)).clamped is True


def test_no_clamp_for_an_argument_that_was_bad():
    assert verification(jnp.sum, jnp.array([1.0, jnp.nan])).clamped is None


def test_an_nnx_step():
    class Net(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(2, 1, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jnp.sqrt(self.linear(x) ** 2)

    x = jnp.ones((5, 2)).at[3].set(0.0)
    gradient = nnx.jit(nnx.grad(lambda model, x: jnp.mean(model(x))))
    checked = verification(gradient, Net(), x)
    assert checked.rows == (3,)
    assert checked.clamped is True
