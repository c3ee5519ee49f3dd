"""Half precision: what fits into float32 need not fit here."""

import jax
import jax.numpy as jnp

from ._registry import call, program


@program(kind="inf", direction="forward", primitive="exp")
def float16_exp_overflow():
    """exp(12) is above 65504."""

    def fn(x):
        half = x.astype(jnp.float16)
        return jnp.exp(half)  # <- here

    return call(jax.jit(fn), jnp.array([1.0, 12.0]))


@program(kind="inf", direction="forward", primitive="convert_element_type")
def float16_cast_overflow():
    """A number above 65504 is Inf after the cast."""

    def fn(x):
        scaled = 1000 * x
        return scaled.astype(jnp.float16)  # <- here

    return call(jax.jit(fn), jnp.array([1.0, 100.0]))


@program(kind="inf", direction="forward")
def float16_sum_overflow():
    """A sum of many moderate numbers."""

    def loss(x):
        squared = x * x
        return jnp.sum(squared)  # <- here

    return call(loss, jnp.full(100, 100.0, jnp.float16))


@program(kind="inf", direction="forward", primitive="div")
def float16_epsilon_underflow():
    """An epsilon of 1e-8 is zero in float16."""

    def normalise(x):
        epsilon = jnp.asarray(1e-8, x.dtype)
        return x.max() / (jnp.std(x) + epsilon)  # <- here

    return call(jax.jit(normalise), jnp.ones(4, jnp.float16))


@program(kind="inf", direction="forward", primitive="mul")
def bfloat16_product_overflow():
    """bfloat16 has the range of float32, and no more."""

    def fn(x, y):
        scaled = x * y  # <- here
        return scaled - scaled.min()

    big = jnp.full(3, 1e30, jnp.bfloat16)
    return call(jax.jit(fn), big, big)


@program(kind="inf", direction="forward", primitive="log")
def bfloat16_rounding_before_log():
    """1 - 0.999 is zero in bfloat16, which keeps eight bits."""

    def loss(p):
        q = 1 - p.astype(jnp.bfloat16)
        return -jnp.log(q)  # <- here

    return call(loss, jnp.array([0.5, 0.999]))


@program(kind="inf", direction="backward")
def loss_scale_overflow():
    """A loss scale of 2**15 is too much for the gradient in float16."""

    def loss(w, x):
        y = w * x  # <- here
        return jnp.mean(y.astype(jnp.float32)) * 2.0**15

    x = jnp.full(2, 100.0, jnp.float16)
    return call(jax.jit(jax.grad(loss)), jnp.ones(2, jnp.float16), x)


@program(kind="inf", direction="backward")
def bfloat16_sqrt_at_zero():
    """A gradient in bfloat16 through float32 statistics."""

    def loss(x):
        variance = jnp.var(x.astype(jnp.float32))
        return jnp.sqrt(variance)  # <- here

    return call(jax.jit(jax.grad(loss)), jnp.ones(4, jnp.bfloat16))
