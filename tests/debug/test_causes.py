import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from vaelab.debug import explain

F16 = jnp.float16


def masked_softmax(x):
    return jax.nn.softmax(jnp.where(x > 0, x, -jnp.inf))


def double_where(x):
    return jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0))


def log_of_square(x):
    std = jnp.exp(x)
    return jnp.sum(-jnp.log(std**2))


def saturated(x):
    return jnp.mean(jnp.log(1 - jax.nn.sigmoid(x)))


def gap(x):
    high = jnp.max(x, where=x > 2, initial=-jnp.inf)
    low = jnp.max(-x, where=x > 2, initial=-jnp.inf)
    return high - low


def cross_entropy(logits, x):
    losses = optax.sigmoid_binary_cross_entropy(logits, x)
    return losses.mean() + 0 * jnp.sum(jnp.sqrt(logits - 40))


ZERO = np.array([1.0, 0.0], np.float32)
BIG = np.array([1.0, 200.0], np.float32)

CASES = {
    "log of zero": (jnp.log, ZERO, "log of exactly 0", "floor that fits"),
    "log of a negative": (jnp.log, -ZERO - 1, "a number below 0", "clamp"),
    "log1p": (jnp.log1p, -ZERO, "log1p of exactly -1", "floor that fits"),
    "sqrt of a negative": (jnp.sqrt, ZERO - 1, "a negative number", "clamp"),
    "rsqrt of zero": (lax.rsqrt, ZERO, "rsqrt(0) is inf", "inside the root"),
    "slope of sqrt": (jax.grad(jnp.sqrt), np.float32(0), "slope", "inside the root"),
    "slope of log": (
        jax.grad(jnp.log),
        np.float32(0),
        "derivative divides by zero",
        "away from 0",
    ),
    "1 / 0": (lambda x: 1 / x, ZERO, "1 / 0 is inf", "jnp.where"),
    "0 / 0": (lambda x: x / x, ZERO, "0 / 0 is NaN", "jnp.where"),
    "exp": (jnp.exp, BIG, "exp overflows: 200 is above 88.72", "jnp.clip"),
    "exp in float16": (jnp.exp, F16(12), "above 11.09", "Bound"),
    "cast to float16": (lambda x: x.astype(F16), 1e5 * ZERO, "float16", "bfloat16"),
    "product in float16": (lambda x: x * x, F16(500), "overflows float16", "float32"),
    "product in float32": (lambda x: x * x, 1e30 * ZERO, "overflows float32", "Scale"),
    "product of matrices": (
        lambda x: jnp.stack([x, -x]).T @ jnp.stack([x, x]),
        np.full(2, 3e38, np.float32),
        "dot_general overflows float32",
        "Scale",
    ),
    "inf - inf": (gap, ZERO, "inf - inf is NaN", "large finite"),
    "0 * inf": (lambda x: x * jnp.where(x > 0, x, jnp.inf), ZERO, "0 * inf", "select"),
    "double where": (jax.grad(double_where), ZERO, "double-where", "argument safe"),
    "norm at zero": (
        jax.grad(jnp.linalg.norm),
        0 * ZERO,
        "gradient of a norm",
        "inside the root",
    ),
    "underflow of a square": (
        lambda x: 1 / x**2,
        1e-30 * (ZERO + 1),
        "square underflows to 0",
        "Divide by x twice",
    ),
    "underflow of a square in a log": (
        jax.grad(log_of_square),
        -60 * ZERO,
        "square underflows to 0 in float32",
        "Bound log_std",
    ),
    "masked row": (masked_softmax, 0 * ZERO, "masked with -inf", "finfo"),
    "saturation": (saturated, BIG, "sigmoid saturates", "log_sigmoid"),
    "saturation's gradient": (jax.grad(saturated), BIG, "sigmoid", "log_sigmoid"),
    "power of a negative": (lambda x: x**0.3, -ZERO, "negative number", "Clamp"),
    "power at zero": (jax.grad(lambda x: x**0.3), np.float32(0), "power", "away"),
    "arccos": (jax.grad(jnp.arccos), np.float32(1), "derivative of acos", "Clip"),
    "arctanh": (jnp.arctanh, ZERO, "edge of its domain", "Clip"),
    "cholesky": (jnp.linalg.cholesky, -np.eye(2), "positive definite", "identity"),
    "bad argument": (jnp.sum, np.nan * ZERO, "was already non-finite", "isfinite"),
    "constant": (lambda x: jnp.where(x > 0, x, jnp.inf), ZERO, "constant", "mask"),
    "index": (lambda x: jnp.take(x, 5), ZERO, "out of bounds", "indices"),
    "sum of nothing": (
        jax.grad(lambda x: jax.nn.logsumexp(x - jnp.inf)),
        ZERO,
        "sum of exponentials is 0",
        "valid",
    ),
    "sine": (jnp.sin, np.float32(np.inf), "was already", "repair"),
}


@pytest.mark.parametrize("name", CASES)
def test_cause_and_advice(name):
    fn, args, cause, advice = CASES[name]
    args = args if isinstance(args, tuple) else (args,)
    report = explain(fn, *map(jnp.asarray, args), verify=False)
    assert cause in report.cause, report
    assert advice.lower() in report.advice.lower(), report
    assert report.cause.endswith(".") and report.advice.endswith(".")


def test_a_parameter_that_was_bad():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    model.bias = nnx.Param(jnp.array([0.0, jnp.nan]))
    report = explain(nnx.jit(lambda model, x: model(x)), model, jnp.ones((1, 2)))
    assert report.inputs == ("model.bias",)
    assert "1 of its 2 elements" in report.cause
    assert "earlier step" in report.advice


def test_numbers_that_the_user_knows_are_in_the_cause():
    report = explain(jax.grad(log_of_square), jnp.array([0.0, -60.0]))
    assert "std lies between 8.757e-27 and 1" in report.cause
    assert "std = jnp.exp(x)" in report.cause


def test_an_unbounded_loss_is_a_second_fault():
    logits, x = jnp.full((2, 3), 30.0), jnp.full((2, 3), 16.0)
    report = explain(jax.jit(jax.value_and_grad(cross_entropy)), logits, x)
    assert "unbounded loss" in report.cause
    assert "x is 16" in report.cause
    assert "to [0, 1]" in report.advice


def test_an_array_that_is_no_target_is_not_blamed_for_the_loss():
    """The noise is outside of [0, 1], and the targets are not: the data are scaled."""

    def elbo(log_std, noise, x):
        z = jnp.exp(log_std) * noise
        losses = optax.sigmoid_binary_cross_entropy(z, x / 16)
        likelihood = -losses.mean()
        return jnp.sum(z**2) - likelihood

    args = jnp.full((2, 3), 60.0), jnp.full((2, 3), -4.0), jnp.full((2, 3), 16.0)
    report = explain(jax.jit(jax.value_and_grad(elbo)), *args)
    assert "unbounded" not in report.cause


def test_a_constant_is_no_range():
    report = explain(jnp.log, jnp.full((2, 3), -0.5))
    assert "x, is -0.5" in report.cause and "between" not in report.cause


def test_a_bounded_loss_is_none():
    logits, x = jnp.full((2, 3), 30.0), jnp.full((2, 3), 1.0)
    report = explain(jax.jit(jax.value_and_grad(cross_entropy)), logits, x)
    assert "unbounded" not in report.cause
