"""Masks of -Inf, and constants of Inf that are meant, until they meet."""

import jax
import jax.numpy as jnp
from jax import lax

from ._registry import call, program


@program(kind="nan", direction="forward", primitive="sub")
def softmax_of_fully_masked_row():
    """The -Inf of a mask is meant; a row without any valid entry is not."""

    def attention(scores, mask):
        masked = jnp.where(mask, scores, -jnp.inf)
        return jax.nn.softmax(masked)  # <- here

    mask = jnp.array([[True, False], [False, False]])
    return call(jax.jit(attention), jnp.ones((2, 2)), mask)


@program(kind="nan", direction="forward")
def additive_mask_of_a_padded_row():
    """A bias of 0 and -Inf, added to the scores of an example that is all padding."""

    def attention(scores, lengths):
        valid = jnp.arange(3)[None, :] < lengths[:, None]  # (batch, position)
        masked = scores + jnp.where(valid, 0.0, -jnp.inf)
        return jax.nn.softmax(masked, axis=-1)  # <- here

    return call(attention, jnp.ones((2, 3)), jnp.array([2, 0]))


@program(kind="nan", direction="forward")
def gradient_of_fully_masked_row():
    """The same in a train step: loss and gradient are NaN."""

    def loss(scores, mask):
        masked = jnp.where(mask, scores, -jnp.inf)
        weights = jax.nn.softmax(masked)  # <- here
        return jnp.sum(weights**2)

    mask = jnp.array([[True, True], [False, False]])
    return call(jax.jit(jax.value_and_grad(loss)), jnp.ones((2, 2)), mask)


@program(kind="nan", direction="forward", primitive="sub")
def minimum_over_nothing():
    """A minimum that starts at +Inf over a mask without entries, minus another."""

    def gap(a, b, mask):
        low = jnp.min(a, initial=jnp.inf, where=mask)
        high = jnp.min(b, initial=jnp.inf, where=mask)
        return high - low  # <- here

    return call(jax.jit(gap), jnp.ones(3), jnp.ones(3), jnp.zeros(3, bool))


@program(kind="nan", direction="forward", primitive="mul")
def zero_times_masked_infinity():
    """Weights of zero do not remove an infinite entry: 0 · Inf is a NaN."""

    def weighted(scores, weights):
        masked = jnp.where(weights > 0, scores, -jnp.inf)
        return jnp.sum(weights * masked)  # <- here

    return call(jax.jit(weighted), jnp.ones(3), jnp.array([0.5, 0.5, 0.0]))


@program(kind="nan", direction="forward", primitive="sub", iteration=(0,))
def running_maximum_before_any_entry():
    """An online softmax that starts at -Inf and meets a masked entry first."""

    def step(best, x):
        new = jnp.maximum(best, x)
        return new, jnp.exp(best - new)  # <- here

    def fn(x, valid):
        return lax.scan(step, -jnp.inf, jnp.where(valid, x, -jnp.inf))[1]

    return call(jax.jit(fn), jnp.ones(3), jnp.array([False, True, True]))


@program(kind="inf", direction="forward")
def mask_returned_as_it_is():
    """The mask itself is an output: nothing is wrong, but it is not finite."""

    def causal_bias(scores):
        allowed = scores > 0
        return jnp.where(allowed, scores, -jnp.inf)  # <- here

    return call(jax.jit(causal_bias), jnp.array([1.0, -1.0]))
