"""Callbacks to the host, and constants that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._registry import call, program


@program(
    kind="nan",
    direction="forward",
    primitive="pure_callback",
    cause=("callback|host",),
    never=("domain",),
)
def solver_on_the_host_fails():
    """A NumPy routine, called back from a compiled function, returns NaN."""

    def host_root(x):
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.asarray(x))

    def fn(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        root = jax.pure_callback(host_root, shape, x - 1)  # <- here
        return 2 * root

    def repaired(x):
        return 2 * jnp.sqrt(jnp.maximum(x - 1, 0.0))

    return call(jax.jit(fn), jnp.array([3.0, 0.5])).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    primitive="pure_callback",
    iteration=(2,),
    cause=("callback|host",),
    never=("domain",),
)
def simulator_on_the_host_fails_in_a_loop():
    """The third call to a simulator returns NaN."""

    def simulator(x):
        return np.where(np.asarray(x) > 2.5, np.nan, x).astype(np.float32)

    def fn(xs):
        def step(total, x):
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            y = jax.pure_callback(simulator, shape, x)  # <- here
            return total + y, y

        return lax.scan(step, 0.0, xs)

    xs = jnp.array([1.0, 2.0, 3.0, 1.0])
    return call(jax.jit(fn), xs).repaired(fn, jnp.minimum(xs, 2.0))


@program(kind="nan", direction="forward", cause=("constant|table|literal|NaN in",))
def table_with_a_missing_entry():
    """A table of constants has a hole, and one lookup falls into it."""

    table = jnp.array([0.1, jnp.nan, 0.3])

    def price(index, amount):
        unit = table[index]  # <- here
        return unit * amount

    def repaired(index, amount):
        return jnp.nan_to_num(table)[index] * amount

    args = jnp.array([0, 1, 2]), jnp.ones(3)
    return call(jax.jit(price), *args).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    cause=("constant|literal|NaN",),
    never=("overflow", "divisor"),
)
def sentinel_of_nan():
    """Out-of-range values are marked with NaN on purpose, and summed by mistake."""

    def total(x, limit):
        checked = jnp.where(x < limit, x, jnp.nan)  # <- here
        return jnp.sum(checked)

    def repaired(x, limit):
        return jnp.nansum(jnp.where(x < limit, x, jnp.nan))

    return call(jax.jit(total), jnp.array([1.0, 5.0]), 3.0).repaired(repaired)


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def frequency_grid_from_zero():
    """The logarithm of the zero frequency, made from constants only."""

    def filters(spectrum, bins):
        frequency = jnp.log(jnp.arange(bins) / bins)  # <- here
        return spectrum * frequency

    def repaired(spectrum, bins):
        return spectrum * jnp.log((jnp.arange(bins) + 1) / bins)

    return call(jax.jit(filters, static_argnums=1), jnp.ones(4), 4).repaired(
        repaired, jnp.ones(4), 4
    )


@program(
    kind="nan",
    direction="forward",
    primitive="mul",
    cause=("inf|Inf",),
    never=("overflow",),
)
def flat_prior_as_an_infinite_constant():
    """A prior of infinite width times a distance of zero."""

    width = jnp.array([1.0, jnp.inf])

    def penalty(x, centre):
        distance = x - centre
        return jnp.sum(width * distance)  # <- here

    def repaired(x, centre):
        return jnp.sum(jnp.array([1.0, 1e6]) * (x - centre))

    args = jnp.array([1.0, 2.0]), jnp.array([0.5, 2.0])
    return call(jax.jit(penalty), *args).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    inputs=("",),
    cause=("input|argument|data",),
    never=("overflow", "divisor"),
)
def missing_value_in_a_regression():
    """One NaN in the data, and a loss that is a NaN."""

    def loss(w, batch):
        prediction = batch["x"] @ w  # <- here
        return jnp.mean((prediction - batch["y"]) ** 2)

    x = jnp.array([[1.0, 2.0], [jnp.nan, 1.0]])
    batch = {"x": x, "y": jnp.ones(2)}
    clean = {"x": jnp.nan_to_num(x), "y": jnp.ones(2)}
    fn = jax.value_and_grad(loss)
    return call(jax.jit(fn), jnp.ones(2), batch).repaired(fn, jnp.ones(2), clean)
