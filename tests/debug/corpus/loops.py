"""Loops and branches: which iteration of which loop, which branch."""

import jax
import jax.numpy as jnp
from jax import lax

from ._registry import call, program


@program(kind="inf", direction="forward", primitive="div", iteration=(2,))
def scan_divides_by_zero():
    """One element of a sequence is zero."""

    def step(total, x):
        rate = 1 / x  # <- here
        return total + rate, total

    return call(lambda xs: lax.scan(step, 0.0, xs), jnp.array([1.0, 2.0, 0.0, 4.0]))


@program(kind="inf", direction="forward", primitive="div", iteration=(1,))
def reverse_scan_divides_by_zero():
    """The same from the end of the sequence; the iteration is the place in `xs`."""

    def step(total, x):
        rate = 1 / x  # <- here
        return total + rate, total

    def fn(xs):
        return lax.scan(step, 0.0, xs, reverse=True)

    return call(jax.jit(fn), jnp.array([1.0, 0.0, 3.0, 4.0]))


@program(kind="inf", direction="forward", primitive="mul", iteration=(3,))
def scan_carry_grows_until_nan():
    """A carry grows to Inf in iteration 3 and to Inf - Inf after it."""

    def step(x, _):
        grown = x * 1e10  # <- here
        return grown, grown - x  # <- then

    return call(jax.jit(lambda x: lax.scan(step, x, length=8)), jnp.array(1e3))


@program(kind="inf", direction="backward", iteration=(2,))
def backward_of_scan():
    """The slope of the square root at the one zero of a sequence."""

    def loss(xs):
        def step(total, x):
            return total + jnp.sqrt(x), None  # <- here

        return lax.scan(step, 0.0, xs)[0]

    return call(jax.value_and_grad(loss), jnp.array([1.0, 2.0, 0.0, 4.0]))


@program(kind="inf", direction="backward", iteration=(1,))
def backward_of_reverse_scan():
    """A reverse scan, compiled, and its gradient."""

    def loss(w, xs):
        def step(total, x):
            return total + jnp.sqrt(w * x), x  # <- here

        return lax.scan(step, 0.0, xs, reverse=True)[0]

    return call(jax.jit(jax.grad(loss)), jnp.array(2.0), jnp.array([1.0, 0.0, 3.0]))


@program(kind="inf", direction="forward", primitive="div", iteration=(3,))
def while_divides_by_zero():
    """Newton's method on its way to a point where the slope is zero."""

    def body(state):
        i, x = state
        return i + 1, 1 / (3.0 - i)  # <- here

    def fn(x):
        return lax.while_loop(lambda s: (s[0] < 6) & jnp.isfinite(s[1]), body, (0, x))

    return call(fn, jnp.array(1.0))


@program(kind="nan", direction="forward", primitive="sqrt", iteration=(4,))
def while_in_jit():
    """A radicand that decreases by one quarter each time."""

    def body(state):
        i, x, root = state
        return i + 1, x - 0.25, jnp.sqrt(x)  # <- here

    def fn(x):
        return lax.while_loop(lambda s: s[0] < 6, body, (0, x, x))

    return call(jax.jit(fn), jnp.array(0.75))


@program(kind="inf", direction="forward", primitive="log", iteration=(2,))
def fori_loop_log_of_zero():
    """A fori_loop with bounds known when it is traced."""

    def body(i, total):
        return total + jnp.log(2.0 - i)  # <- here

    return call(jax.jit(lambda x: lax.fori_loop(0, 3, body, x)), jnp.array(1.0))


@program(kind="inf", direction="forward", primitive="log", iteration=(2,))
def fori_loop_with_traced_bound():
    """A fori_loop whose length is an argument."""

    def body(i, total):
        return total + jnp.log(2.0 - i)  # <- here

    return call(jax.jit(lambda n: lax.fori_loop(0, n, body, 1.0)), 3)


@program(kind="inf", direction="forward", primitive="div", iteration=(2, 1))
def scan_of_scan():
    """The element [2, 1] of a matrix is zero."""

    def inner(total, x):
        return total + 1 / x, None  # <- here

    def outer(total, row):
        return lax.scan(inner, total, row)

    def fn(matrix):
        return lax.scan(outer, 0.0, matrix)[0]

    return call(jax.jit(fn), jnp.ones((4, 3)).at[2, 1].set(0.0))


@program(kind="inf", direction="backward", iteration=(1, 2))
def backward_of_fori_in_scan():
    """The gradient through a loop inside a loop."""

    def outer(total, row):
        def inner(i, t):
            return t + jnp.sqrt(row[i])  # <- here

        return lax.fori_loop(0, 3, inner, total), None

    def loss(matrix):
        return lax.scan(outer, 0.0, matrix)[0]

    return call(jax.grad(loss), jnp.ones((2, 3)).at[1, 2].set(0.0))


@program(kind="nan", direction="forward", primitive="div", iteration=(1,))
def map_over_rows():
    """lax.map normalises each row; one row sums to zero."""

    def normalise(row):
        return row / jnp.sum(row)  # <- here

    rows = jnp.array([[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]])
    return call(lambda x: lax.map(normalise, x), rows)


@program(kind="inf", direction="forward", primitive="log", iteration=())
def taken_branch_of_cond():
    """Only the branch that is taken fails."""

    def logs(x):
        return jnp.log(x)  # <- here

    def fn(flag, x):
        return lax.cond(flag, logs, lambda x: x / 0.0, x)

    return call(jax.jit(fn), jnp.array(True), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="backward")
def backward_of_cond():
    """The gradient of the branch that is taken."""

    def loss(flag, x):
        return lax.cond(
            flag,
            lambda x: jnp.sum(jnp.sqrt(x)),  # <- here
            lambda x: jnp.sum(x),
            x,
        )

    return call(jax.grad(loss, argnums=1), jnp.array(True), jnp.array([1.0, 0.0]))


@program(kind="nan", direction="forward", primitive="sqrt")
def second_branch_of_switch():
    """One of three branches, chosen by an integer argument."""

    def fn(index, x):
        return lax.switch(
            index,
            [
                lambda x: jnp.log(x),
                lambda x: jnp.sqrt(x),  # <- here
                lambda x: x / 0.0,
            ],
            x,
        )

    return call(jax.jit(fn), jnp.array(1), jnp.array(-1.0))


@program(kind="inf", direction="forward", primitive="exp", iteration=(3,))
def cond_inside_scan():
    """A branch that is taken in iteration 3 only."""

    def overflow(x):
        return jnp.exp(x)  # <- here

    def step(x, i):
        return lax.cond(i == 3, overflow, lambda x: x, x), i

    return call(jax.jit(lambda x: lax.scan(step, x, jnp.arange(5))), jnp.array(99.0))


@program(kind="inf", direction="forward", primitive="log", iteration=(2, 1))
def while_inside_scan():
    """A while loop inside a scan: iteration 1 of the loop at element 2."""

    def body(state):
        i, x, total = state
        return i + 1, x - 1, total + jnp.log(x)  # <- here

    def step(total, x):
        return lax.while_loop(lambda s: s[0] < 2, body, (0, x, total))[2], None

    xs = jnp.array([5.0, 4.0, 1.0, 3.0])
    return call(lambda xs: lax.scan(step, 0.0, xs)[0], xs)


@program(kind="inf", direction="forward", primitive="div")
def associative_scan():
    """A parallel prefix whose combination divides by zero."""

    def combine(a, b):
        return a / b  # <- here

    fn = jax.jit(lambda x: lax.associative_scan(combine, x))
    return call(fn, jnp.array([1.0, 0.0, 2.0]))
