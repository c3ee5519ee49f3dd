"""jvp, jacfwd, Hessian-vector products and Hessians: the derivative is what fails."""

import jax
import jax.numpy as jnp
from jax import lax

from .._registry import call, program

DERIVATIVE = "derivative|slope|gradient|tangent"


@program(
    kind="inf",
    direction="backward",
    cause=("root|sqrt", DERIVATIVE),
    never=("divisor",),
)
def sensitivity_of_a_root():
    """jax.jvp of a square root at zero."""

    def speed(pressure):
        head = 2.0 * pressure
        return jnp.sqrt(head)  # <- here

    def sensitivity(fn, pressure):
        return jax.jvp(fn, (pressure,), (jnp.ones_like(pressure),))

    def repaired(pressure):
        return jnp.sqrt(jnp.maximum(2.0 * pressure, 1e-6))

    pressure = jnp.array([4.0, 0.0])
    return call(lambda p: sensitivity(speed, p), pressure).repaired(
        lambda p: sensitivity(repaired, p)
    )


@program(
    kind="inf|nan",
    direction="backward",
    cause=("norm|root|sqrt", DERIVATIVE),
    never=("divisor",),
)
def forward_jacobian_of_norms():
    """jax.jacfwd of distances, one of them zero."""

    def distances(x, anchors):
        gaps = x - anchors
        return jnp.linalg.norm(gaps, axis=1)  # <- here

    def repaired(x, anchors):
        return jnp.sqrt(jnp.sum((x - anchors) ** 2, axis=1) + 1e-12)

    args = jnp.ones(2), jnp.array([[0.0, 0.0], [1.0, 1.0]])
    return call(jax.jit(jax.jacfwd(distances)), *args).repaired(jax.jacfwd(repaired))


@program(
    kind="inf",
    direction="backward",
    cause=(DERIVATIVE, "zero"),
    never=("divisor",),
)
def hessian_of_a_fractional_power():
    """|x|^1.5 has no second derivative at zero."""

    def penalty(x):
        return jnp.sum(jnp.abs(x) ** 1.5)  # <- here

    def repaired(x):
        return jnp.sum((x**2 + 1e-6) ** 0.75)

    return call(jax.hessian(penalty), jnp.array([1.0, 0.0])).repaired(
        jax.hessian(repaired)
    )


@program(
    kind="inf|nan",
    direction="backward",
    cause=("root|sqrt", DERIVATIVE),
    never=("divisor",),
)
def hessian_vector_product_of_a_length():
    """Forward over reverse, at the origin."""

    def length(x):
        squared = jnp.sum(x**2)
        return jnp.sqrt(squared)  # <- here

    def product(fn, x, v):
        return jax.jvp(jax.grad(fn), (x,), (v,))[1]

    def repaired(x):
        return jnp.sqrt(jnp.sum(x**2) + 1e-6)

    args = jnp.zeros(3), jnp.ones(3)
    return call(jax.jit(lambda x, v: product(length, x, v)), *args).repaired(
        lambda x, v: product(repaired, x, v)
    )


@program(
    kind="inf",
    direction="backward",
    cause=("arcsin|asin", DERIVATIVE),
    never=("divisor",),
)
def linearised_arcsine():
    """jax.linearize at the end of the domain."""

    def elevation(slope):
        clipped = jnp.clip(slope, -1, 1)
        return jnp.arcsin(clipped)  # <- here

    def change(fn, slope):
        value, tangent_map = jax.linearize(fn, slope)
        return value, tangent_map(jnp.ones_like(slope))

    def repaired(slope):
        return jnp.arcsin(jnp.clip(slope, -1 + 1e-6, 1 - 1e-6))

    slope = jnp.array([0.5, 1.0])
    return call(lambda s: change(elevation, s), slope).repaired(
        lambda s: change(repaired, s)
    )


@program(
    kind="inf",
    direction="backward",
    iteration=(2,),
    cause=("root|sqrt", DERIVATIVE),
    never=("divisor",),
)
def forward_jacobian_of_a_scan():
    """The third flow of a cascade is zero."""

    def cascade(scale, heads):
        def step(total, head):
            flow = jnp.sqrt(scale * head)  # <- here
            return total + flow, None

        return lax.scan(step, 0.0, heads)[0]

    def repaired(scale, heads):
        def step(total, head):
            return total + jnp.sqrt(scale * head + 1e-9), None

        return lax.scan(step, 0.0, heads)[0]

    args = jnp.array(2.0), jnp.array([1.0, 4.0, 0.0, 2.0])
    return call(jax.jit(jax.jacfwd(cascade)), *args).repaired(jax.jacfwd(repaired))


@program(
    kind="inf",
    direction="backward",
    cause=(DERIVATIVE, "root|sqrt|zero"),
    never=("divisor",),
)
def tangent_through_a_while_loop():
    """Reverse mode refuses a while loop, forward mode meets the root of zero."""

    def settle(start):
        def body(state):
            i, x = state
            return i + 1, jnp.sqrt(x) / 2  # <- here

        return lax.while_loop(lambda s: s[0] < 3, body, (0, start))[1]

    def repaired(start):
        def body(state):
            i, x = state
            return i + 1, jnp.sqrt(x + 1e-6) / 2

        return lax.while_loop(lambda s: s[0] < 3, body, (0, start))[1]

    return call(jax.jit(jax.jacfwd(settle)), jnp.array(0.0)).repaired(
        jax.jacfwd(repaired)
    )


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def tangent_of_an_infinite_value():
    """The value itself is infinite, not only its derivative."""

    def entropy(p):
        nats = -jnp.log(p)  # <- here
        return jnp.sum(nats)

    def both(fn, p):
        return jax.jvp(fn, (p,), (jnp.ones_like(p),))

    def repaired(p):
        return -jnp.sum(jnp.log(jnp.maximum(p, 1e-6)))

    p = jnp.array([0.5, 0.0])
    return call(lambda p: both(entropy, p), p).repaired(lambda p: both(repaired, p))


@program(
    kind="inf",
    direction="backward",
    primitive="mul",
    cause=("overflow",),
    never=("divisor", "double-where"),
)
def second_derivative_overflows():
    """exp(1000 x): the value fits, and the slope, but not the curvature."""

    def potential(x):
        return jnp.exp(1000.0 * x)  # <- here

    def repaired(x):
        return jnp.exp(10.0 * x)

    return call(jax.hessian(potential), jnp.array(0.078)).repaired(
        jax.hessian(repaired)
    )


@program(
    kind="inf|nan",
    direction="backward",
    cause=(DERIVATIVE, "norm|root|sqrt|zero"),
    never=("divisor",),
)
def laplacian_of_a_cusp():
    """The kinetic energy of exp(-r) at the nucleus."""

    def orbital(x):
        radius = jnp.sqrt(x @ x)  # <- here
        return jnp.exp(-radius)

    def repaired(x):
        return jnp.exp(-jnp.sqrt(x @ x + 1e-4))

    def kinetic(fn, x):
        return -0.5 * jnp.trace(jax.jacfwd(jax.jacrev(fn))(x)) / fn(x)

    points = jnp.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    return call(jax.jit(jax.vmap(lambda x: kinetic(orbital, x))), points).repaired(
        jax.vmap(lambda x: kinetic(repaired, x))
    )
