"""float16 and bfloat16: a small range, a coarse grid, constants that do not fit."""

import jax
import jax.numpy as jnp
from jax import lax

from .._registry import call, program

HALF = "float16|65504|half|dtype"


@program(kind="inf", direction="forward", cause=("overflow", HALF))
def sum_of_squares_in_float16():
    """300² exceeds 65504."""

    def rms(x):
        squared = x**2  # <- here
        return jnp.sqrt(jnp.mean(squared))

    def repaired(x):
        return jnp.sqrt(jnp.mean(x.astype(jnp.float32) ** 2))

    x = jnp.array([300.0, 20.0], jnp.float16)
    return call(jax.jit(rms), x).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="rsqrt",
    cause=("zero", "eps|float16|half|dtype|underflow"),
)
def layer_norm_epsilon_lost_in_float16():
    """An epsilon of 1e-12 is zero in float16."""

    def layer_norm(x, eps=1e-12):
        mean = x.mean(-1, keepdims=True)
        variance = jnp.mean((x - mean) ** 2, -1, keepdims=True)
        inverse = lax.rsqrt(variance + jnp.asarray(eps, x.dtype))  # <- here
        return (x - mean) * inverse  # <- then

    x = jnp.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]], jnp.float16)
    return call(jax.jit(layer_norm), x).repaired(lambda x: layer_norm(x, 1e-3))


@program(
    kind="inf",
    direction="forward",
    primitive="div",
    cause=("zero", "bfloat16|round|dtype|precision"),
)
def decay_that_rounds_to_one():
    """0.999 is one in bfloat16, so 1 - decay is zero."""

    def horizon(decay):
        rest = 1 - decay  # <- zero
        return 1 / rest  # <- here

    decay = jnp.array([0.9, 0.999], jnp.bfloat16)
    exact = jnp.array([0.9, 0.999])
    return call(jax.jit(horizon), decay).repaired(horizon, exact)


@program(
    kind="nan",
    direction="forward",
    primitive="mul",
    cause=(HALF + "|range|fit",),
)
def additive_mask_in_float16():
    """(1 - mask) · -1e9, where -1e9 is -Inf in float16 and 0 · -Inf a NaN."""

    def attention(scores, mask):
        bias = (1 - mask) * -1e9  # <- here
        return jax.nn.softmax(scores + bias)

    def repaired(scores, mask):
        bias = (1 - mask) * jnp.finfo(scores.dtype).min
        return jax.nn.softmax(scores + bias)

    mask = jnp.array([[1.0, 1.0, 0.0]], jnp.float16)
    return call(jax.jit(attention), jnp.ones((1, 3), jnp.float16), mask).repaired(
        repaired
    )


@program(kind="inf", direction="forward", primitive="exp", cause=("overflow", HALF))
def softmax_by_hand_in_float16():
    """exp(12) exceeds 65504."""

    def attention(q, k):
        scores = q @ k.T
        weights = jnp.exp(scores)  # <- here
        return weights / weights.sum(-1, keepdims=True)  # <- then

    def repaired(q, k):
        return jax.nn.softmax(q @ k.T)

    q = jnp.array([[2.0, 3.0], [0.1, 0.2]], jnp.float16)
    return call(jax.jit(attention), q, q).repaired(repaired)


@program(kind="inf", direction="forward", cause=("overflow", HALF))
def total_of_many_in_float16():
    """Each of a thousand numbers is a hundred; the total exceeds 65504."""

    def share(x):
        total = jnp.sum(x)  # <- here
        return x[:3] / total, total

    def repaired(x):
        total = jnp.sum(x.astype(jnp.float32))
        return x[:3] / total, total

    return call(jax.jit(share), jnp.full(1000, 100.0, jnp.float16)).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="log",
    cause=("zero", "1e-8|1e-08|eps|underflow|float16|half|dtype"),
    never=("1e-12",),
)
def epsilon_inside_a_log_in_float16():
    """p + 1e-8 is p, in float16."""

    def loss(p, y):
        return -jnp.mean(y * jnp.log(p + 1e-8))  # <- here

    def repaired(p, y):
        return -jnp.mean(y * jnp.log(p + 1e-4))

    p = jnp.array([0.5, 0.0], jnp.float16)
    return call(jax.jit(jax.value_and_grad(loss)), p, jnp.ones_like(p)).repaired(
        jax.value_and_grad(repaired)
    )


@program(
    kind="inf", direction="forward", primitive="dot_general", cause=("overflow", HALF)
)
def matrix_product_in_float16():
    """256 products of 16 · 20."""

    def scores(q, k):
        return jax.nn.softmax(q @ k.T)  # <- here

    def repaired(q, k):
        return jax.nn.softmax(q.astype(jnp.float32) @ k.T.astype(jnp.float32))

    q = jnp.full((2, 256), 16.0, jnp.float16)
    return call(jax.jit(scores), q, q * 1.25).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="convert_element_type",
    cause=(HALF + "|overflow",),
)
def cast_of_a_large_activation():
    """100000 has no place in float16."""

    def block(x, w):
        hidden = (x @ w).astype(jnp.float16)  # <- here
        return jnp.tanh(hidden).sum() + hidden.mean()

    def repaired(x, w):
        hidden = (x @ w).astype(jnp.bfloat16)
        return jnp.tanh(hidden).sum() + hidden.mean()

    args = jnp.full((1, 4), 500.0), jnp.full((4, 2), 50.0)
    return call(jax.jit(block), *args).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="div",
    cause=("overflow|65504|large|exceed", HALF),
    never=("by zero", "divisor is zero", "is exactly zero"),
)
def reciprocal_of_a_small_scale_in_float16():
    """1 / 1e-5 is an overflow, not a division by zero."""

    def precision(scale):
        tightened = scale / 2
        return 1 / tightened  # <- here

    def repaired(scale):
        return 1 / jnp.maximum(scale.astype(jnp.float32) / 2, 1e-6)

    return call(jax.jit(precision), jnp.array([0.5, 2e-5], jnp.float16)).repaired(
        repaired
    )


@program(kind="nan", direction="forward", primitive="sqrt", cause=("negative",))
def variance_by_cancellation_in_bfloat16():
    """E[x²] - E[x]² of nearly equal numbers is negative after rounding."""

    def spread(x):
        mean = jnp.mean(x)
        variance = jnp.mean(x * x) - mean * mean
        return jnp.sqrt(variance)  # <- here

    def repaired(x):
        return jnp.std(x.astype(jnp.float32))

    x = jnp.array([1.07, 1.08, 1.07, 1.08], jnp.bfloat16)
    return call(spread, x).repaired(repaired)


@program(
    kind="inf", direction="backward", cause=("overflow", HALF), never=("double-where",)
)
def gradient_overflows_in_float16():
    """The loss fits into float16, its gradient with respect to a weight does not."""

    def loss(w, x):
        hidden = x * w  # <- here
        return jnp.mean(hidden) ** 2

    def repaired(w, x):
        hidden = x.astype(jnp.float32) * w
        return jnp.mean(hidden) ** 2

    w, x = jnp.array([0.5], jnp.float16), jnp.array([400.0], jnp.float16)
    return call(jax.grad(loss), w, x).repaired(
        lambda w, x: jax.grad(repaired)(w.astype(jnp.float32), x)
    )
