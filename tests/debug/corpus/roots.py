"""Several failures in one call: the one that reaches most outputs comes first."""

import jax
import jax.numpy as jnp

from ._registry import call, program


@program(kind="nan", direction="forward", primitive="div")
def root_that_reaches_most_outputs():
    """The second failure reaches two outputs, the first one only one."""

    def fn(x):
        a = jnp.log(x)  # <- also
        b = x / x  # <- here
        return {"a": a, "b": b, "c": b + 1}

    return call(jax.jit(fn), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="forward", primitive="log")
def earliest_of_two_equal_roots():
    """Two failures reach one output each: the earlier one is reported."""

    def fn(x):
        a = jnp.log(x)  # <- here
        b = jnp.sqrt(x - 1)  # <- also
        return a, b

    return call(fn, jnp.array([1.0, 0.0]))


@program(kind="inf", direction="backward", primitive="div")
def independent_failures_of_two_losses():
    """The gradient is spoilt at one line, a reported metric at another."""

    def loss(params, x):
        distance = jnp.sqrt(params["w"] * x + params["b"])  # <- here
        return jnp.sum(distance), {"entropy": jnp.log(x).sum()}  # <- also

    params = {"w": jnp.ones(2), "b": jnp.zeros(2)}
    fn = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return call(fn, params, jnp.array([1.0, 0.0]))


@program(kind="inf", direction="forward", primitive="exp")
def masked_failure_is_not_a_root():
    """An earlier NaN is masked; only the later Inf reaches the output."""

    def fn(x):
        masked = jnp.where(x > 0, jnp.log(x), 0.0)
        return jnp.exp(100 * (masked + x))  # <- here

    return call(jax.jit(fn), jnp.array([1.0, -1.0]))


@program(kind="inf", direction="forward", primitive="exp")
def chain_over_several_lines():
    """Inf is born, survives two harmless lines, and becomes a NaN at the fourth."""

    def fn(x):
        grown = jnp.exp(x)  # <- here
        shifted = grown + 1
        halved = shifted / 2
        return jnp.sin(halved)  # <- then

    return call(jax.jit(fn), jnp.array([1.0, 100.0]))
