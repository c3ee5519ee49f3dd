"""Recurrences, ODE solvers and fixed points that blow up in some iteration."""

import jax
import jax.numpy as jnp
from jax import lax

from .._registry import call, program

GROWTH = "overflow|grow|diverg|explod|blow"


@program(
    kind="inf",
    direction="forward",
    iteration=(7,),
    cause=(GROWTH,),
    never=("zero",),
)
def euler_method_of_a_finite_time_blow_up():
    """y' = y² reaches infinity at t = 1; the steps go on."""

    def solve(y, dt):
        def step(y, _):
            slope = y**2  # <- here
            return y + dt * slope, y

        return lax.scan(step, y, length=10)

    return call(jax.jit(solve), jnp.array(1.0), 1.0).repaired(
        solve, jnp.array(1.0), 0.05
    )


@program(
    kind="inf", direction="forward", primitive="mul", cause=(GROWTH,), never=("zero",)
)
def logistic_map_outside_its_interval():
    """r = 5 leaves [0, 1] and then squares itself away."""

    def orbit(x, r):
        def body(_, x):
            return r * x * (1 - x)  # <- here

        return lax.fori_loop(0, 30, body, x)

    return call(jax.jit(orbit), jnp.array(0.4), 5.0).repaired(
        orbit, jnp.array(0.4), 3.5
    )


@program(
    kind="nan",
    direction="forward",
    primitive="log",
    iteration=(4,),
    cause=("negative",),
)
def chemical_potential_of_a_negative_concentration():
    """A constant outflow takes the concentration below zero in the fifth step."""

    def simulate(c, outflow):
        def step(c, _):
            potential = jnp.log(c)  # <- here
            return c - outflow, potential

        return lax.scan(step, c, length=6)[1]

    args = jnp.array(1.0), 0.3
    return call(simulate, *args).repaired(simulate, args[0], 0.1)


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    iteration=(1,),
    cause=("zero",),
)
def power_iteration_of_a_nilpotent_matrix():
    """The second product is zero and cannot be normalised."""

    def dominant(a, v):
        def body(_, v):
            w = a @ v
            return w / jnp.linalg.norm(w)  # <- here

        return lax.fori_loop(0, 4, body, v)

    def repaired(a, v):
        def body(_, v):
            w = a @ v
            return w / jnp.maximum(jnp.linalg.norm(w), 1e-6)

        return lax.fori_loop(0, 4, body, v)

    args = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.ones(2)
    return call(jax.jit(dominant), *args).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="div",
    iteration=(2,),
    cause=("zero",),
)
def two_bodies_that_meet():
    """The distance is zero in the third step."""

    def simulate(x, v, dt):
        def step(state, _):
            x, v = state
            force = -1e-3 / x**2  # <- here
            return (x + dt * v, v + 0.0 * dt), force

        return lax.scan(step, (x, v), length=4)[1]

    def repaired(x, v, dt):
        def step(state, _):
            x, v = state
            return (x + dt * v, v), -1e-3 / (x**2 + 0.01)

        return lax.scan(step, (x, v), length=4)[1]

    args = jnp.array(2.0), jnp.array(-1.0), 1.0
    return call(jax.jit(simulate), *args).repaired(repaired)


@program(
    kind="inf", direction="forward", cause=(GROWTH,), never=("zero", "double-where")
)
def explicit_heat_equation_with_a_long_step():
    """A time step beyond the stable one."""

    def simulate(u, ratio):
        def step(u, _):
            laplacian = jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)  # <- here
            return u + ratio * laplacian, None

        return lax.scan(step, u, length=200)[0]

    u = jnp.zeros(8).at[4].set(1.0)
    return call(jax.jit(simulate), u, 2.0).repaired(simulate, u, 0.2)


@program(kind="nan", direction="forward", primitive="log", cause=("negative",))
def log_return_of_an_euler_price():
    """A big negative shock makes the simulated price negative."""

    def simulate(price, shocks, volatility):
        def step(price, z):
            new = price * (1 + volatility * z)
            return new, jnp.log(new / price)  # <- here

        return lax.scan(step, price, shocks)[1]

    args = jnp.array(100.0), jnp.array([0.5, -1.0, -3.0, 0.2])
    return call(simulate, *args, 0.5).repaired(simulate, *args, 0.1)


@program(
    kind="inf",
    direction="forward",
    primitive="dot_general",
    iteration=(3,),
    cause=(GROWTH,),
)
def recurrent_network_without_saturation():
    """A relu and a weight of 1e10: each step multiplies."""

    def run(w, h, length):
        def step(h, _):
            z = w @ h  # <- here
            return jax.nn.relu(z), z

        return lax.scan(step, h, length=length)

    def repaired(w, h, length):
        def step(h, _):
            z = w @ h
            return jnp.tanh(z), z

        return lax.scan(step, h, length=length)

    args = 1e10 * jnp.eye(2), jnp.ones(2)
    return call(jax.jit(lambda w, h: run(w, h, 8)), *args).repaired(
        lambda w, h: repaired(w, h, 8)
    )


@program(
    kind="inf",
    direction="backward",
    cause=(GROWTH,),
    never=("double-where", "divisor"),
)
def backpropagation_through_sixty_steps():
    """The states stay zero; the gradient grows tenfold with each step back."""

    def loss(h, w, targets):
        def step(h, target):
            h = jnp.tanh(w * h)  # <- here
            return h, h - target

        _, errors = lax.scan(step, h, targets)
        return jnp.sum(errors)

    args = jnp.zeros(2), jnp.full(2, 10.0), jnp.zeros(60)
    fn = jax.value_and_grad(loss)
    return call(jax.jit(fn), *args).repaired(fn, args[0], args[1] / 10, args[2])


@program(kind="inf", direction="forward", primitive="mul", cause=(GROWTH,))
def linear_recurrence_by_an_associative_scan():
    """Products of a decay that is larger than one."""

    def run(a, b):
        def combine(left, right):
            product = left[0] * right[0]  # <- here
            return product, right[0] * left[1] + right[1]

        return lax.associative_scan(combine, (a, b))[0]

    a, b = jnp.full(8, 1e6), jnp.ones(8)
    return call(jax.jit(run), a, b).repaired(run, a / 1e6, b)


@program(kind="inf|nan", direction="forward", cause=(GROWTH,), never=("zero",))
def newton_reciprocal_from_a_bad_start():
    """x (2 - a x) converges only from a start below 2 / a."""

    def reciprocal(a, x):
        def unfinished(state):
            i, x = state
            return (i < 30) & (jnp.abs(1 - a * x) > 1e-6)

        def body(state):
            i, x = state
            return i + 1, x * (2 - a * x)  # <- here

        return lax.while_loop(unfinished, body, (0, x))[1]

    args = jnp.array(5.0)
    return call(jax.jit(reciprocal), args, 1.0).repaired(reciprocal, args, 0.1)


@program(
    kind="inf",
    direction="forward",
    primitive="div",
    iteration=(2, 1),
    cause=("zero", "people|population"),
)
def epidemic_in_a_deserted_region():
    """Infections per head where nobody lives, region by region, day by day."""

    def simulate(infected, population):
        def region(total, xs):
            sick, people = xs
            rate = sick / people  # <- here
            return total + rate, sick * 1.1

        def day(state, people):
            infected = state
            total, infected = lax.scan(region, 0.0, (infected, people))
            return infected, total

        return lax.scan(day, infected, population)[1]

    def repaired(infected, population):
        return simulate(infected, jnp.maximum(population, 1.0))

    population = jnp.array([[5.0, 3.0], [5.0, 2.0], [5.0, 0.0]])
    return call(jax.jit(simulate), jnp.ones(2), population).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="exp",
    iteration=(3,),
    cause=("overflow",),
)
def unbounded_state_space_gate():
    """A gate exp(h) fed by its own output."""

    def run(h, xs):
        def step(h, x):
            gate = jnp.exp(h)  # <- here
            return gate + x, gate

        return lax.scan(step, h, xs)

    def repaired(h, xs):
        def step(h, x):
            gate = jax.nn.sigmoid(h)
            return gate + x, gate

        return lax.scan(step, h, xs)

    # 1, e = 2.72, e^2.72 = 15.2, e^15.2 = 3.9e6, and the exponential of that.
    args = jnp.array([1.0]), jnp.full((5, 1), 0.01)
    return call(jax.jit(run), *args).repaired(repaired)
