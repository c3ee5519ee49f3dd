"""A NaN or an Inf decides a comparison, and what was decided is not finite."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.ode import odeint

from .._registry import call, program


@program(kind="nan", direction="forward", primitive="sqrt", cause=("negative",))
def step_size_control_that_gives_up():
    """The error estimate is a NaN, so the loop ends; a failed solve returns NaN."""

    def solve(y, t_end):
        def body(state):
            t, y, dt = state
            slope = -jnp.sqrt(1.0 - t)  # <- here
            error = jnp.abs(slope * dt) * 1e-3
            grown = dt * jnp.clip(0.9 * (1e-3 / error) ** 0.5, 0.5, 2.0)
            return t + dt, jnp.where(error < 1.0, y + dt * slope, y), grown

        def unfinished(state):
            t, _, dt = state
            return (t < t_end) & (dt > 0)

        t, y, _ = lax.while_loop(unfinished, body, (0.0, y, 0.4))
        return jnp.where(t >= t_end, y, jnp.nan)

    return call(jax.jit(solve), jnp.array(1.0), 5.0).repaired(
        solve, jnp.array(1.0), 0.7
    )


@program(kind="nan", direction="forward", primitive="log", cause=("negative",))
def line_search_accepts_a_nan():
    """NaN > f is False: backtracking stops at once, outside the domain."""

    def loss(x):
        barrier = jnp.log(1 - x)  # <- here
        return jnp.sum(x**2 - 0.1 * barrier)

    def descend(x, rate):
        g = jax.grad(loss)(x)

        def worse(t):
            return loss(x - t * g) > loss(x)

        t = lax.while_loop(worse, lambda t: t / 2, rate)
        return x - t * g, loss(x - t * g)

    args = jnp.array([0.5, -4.0]), 4.0
    return call(jax.jit(descend), *args).repaired(descend, args[0], 0.1)


@program(kind="nan", direction="forward", primitive="log", cause=("negative",))
def best_of_several_learning_rates():
    """argmin picks the NaN of the learning rate that left the domain."""

    def loss(w):
        barrier = jnp.log(w)  # <- here
        return jnp.sum(w - 0.5 * barrier)

    def train(rate, w):
        w = w - rate * jax.grad(loss)(w)
        return w, loss(w)

    def search(rates, w, choose=jnp.argmin):
        weights, losses = jax.vmap(train, in_axes=(0, None))(rates, w)
        best = choose(losses)
        return weights[best], losses[best]

    args = jnp.array([0.01, 0.1, 10.0]), jnp.ones(2)
    return call(search, *args).repaired(
        lambda rates, w: search(rates, w, jnp.nanargmin)
    )


@program(kind="nan", direction="forward", cause=("zero",))
def sampler_that_accepts_nothing():
    """A log density of NaN rejects every proposal; then a mean over nobody."""

    def mean_of_accepted(proposals, uniform, scale):
        log_density = -0.5 * proposals**2 - jnp.log(scale)  # <- also
        accepted = jnp.log(uniform) < log_density
        total = jnp.sum(jnp.where(accepted, proposals, 0.0))
        return total / jnp.sum(accepted)  # <- here

    args = jnp.array([0.1, -0.4, 1.0]), jnp.array([0.2, 0.5, 0.9])
    return call(jax.jit(mean_of_accepted), *args, -1.0).repaired(
        mean_of_accepted, *args, 0.1
    )


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def power_iteration_reports_failure():
    """The residual is a NaN, so the solver says: not converged, Inf."""

    def dominant_eigenvalue(a, v):
        def body(_, v):
            w = a @ v
            return w / jnp.linalg.norm(w)  # <- here

        v = lax.fori_loop(0, 5, body, v)
        value = v @ a @ v
        residual = jnp.linalg.norm(a @ v - value * v)
        return jnp.where(residual < 1e-3, value, jnp.inf)

    nilpotent = jnp.array([[0.0, 1.0], [0.0, 0.0]])
    return call(jax.jit(dominant_eigenvalue), nilpotent, jnp.ones(2)).repaired(
        dominant_eigenvalue, jnp.diag(jnp.array([1.0, 0.0])), jnp.ones(2)
    )


@program(kind="nan", direction="forward", primitive="sqrt", cause=("negative",))
def failure_flag_by_cond():
    """A cond asks whether the error is small; of a NaN it is not."""

    def integrate(x):
        fine, coarse = jnp.sqrt(x - 1), x / 2  # <- here
        error = jnp.max(jnp.abs(fine - coarse))
        return lax.cond(
            error < 10.0, lambda x: 2 * x, lambda x: jnp.full_like(x, jnp.nan), x
        )

    def repaired(x):
        return 2 * x

    return call(jax.jit(integrate), jnp.array([0.5, 2.0])).repaired(repaired)


@program(kind="nan", direction="forward", primitive="log", cause=("negative",))
def ode_that_leaves_its_domain_at_once():
    """odeint with a right-hand side that is a NaN at the start."""

    def rate(y, t, k):
        growth = jnp.log(y)  # <- here
        return k * y * growth

    def solve(y, t, k):
        return odeint(rate, y, t, k)

    args = jnp.array([-0.5]), jnp.linspace(0.0, 1.0, 3), jnp.array(1.0)
    return call(solve, *args).repaired(solve, jnp.array([0.5]), *args[1:])


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def beam_search_with_a_dead_beam():
    """Scores of -Inf are ranked, and the worst of the best is returned."""

    def best(probabilities, scores):
        extended = scores[:, None] + jnp.log(probabilities)  # <- here
        return lax.top_k(extended.ravel(), 3)[0]

    def repaired(probabilities, scores):
        extended = scores[:, None] + jnp.log(jnp.maximum(probabilities, 1e-6))
        return lax.top_k(extended.ravel(), 3)[0]

    args = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([-1.0, -2.0])
    return call(jax.jit(best), *args).repaired(repaired)


@program(kind="nan", direction="forward", primitive="sqrt", cause=("negative",))
def sorted_by_a_nan():
    """A NaN among the keys is sorted to the end, together with its value."""

    def tail_mean(returns, variance):
        risk = jnp.sqrt(variance)  # <- here
        order = jnp.argsort(returns / risk)
        return (returns / risk)[order][-2:].mean()

    def repaired(returns, variance):
        ratio = returns / jnp.sqrt(jnp.maximum(variance, 1e-6))
        return ratio[jnp.argsort(ratio)][-2:].mean()

    args = jnp.array([0.1, 0.3, -0.2]), jnp.array([1.0, -1e-3, 2.0])
    return call(tail_mean, *args).repaired(repaired)
