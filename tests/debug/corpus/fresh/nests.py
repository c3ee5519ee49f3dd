"""Transformations within transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from .._registry import call, program


@program(kind="nan", direction="forward", primitive="log", cause=("negative",))
def one_lane_of_a_vmapped_while_loop():
    """Each lane iterates on its own; one starts below zero."""

    def settle(x):
        def body(state):
            i, x = state
            return i + 1, 1 + jnp.log(x)  # <- here

        return lax.while_loop(lambda s: s[0] < 3, body, (0, x))[1]

    x = jnp.array([2.0, -1.0, 3.0])
    return call(jax.jit(jax.vmap(settle)), x).repaired(jax.vmap(settle), jnp.abs(x))


@program(
    kind="inf", direction="forward", primitive="div", iteration=(3,), cause=("zero",)
)
def branch_inside_a_scan():
    """Every other element takes the branch that divides."""

    def run(xs):
        def step(total, x):
            rate = lax.cond(
                x[0] > 0,
                lambda x: 1 / x[1],  # <- here
                lambda x: 2.0 * x[1],
                x,
            )
            return total + rate, None

        return lax.scan(step, 0.0, xs)[0]

    xs = jnp.array([[0.0, 0.0], [1.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    return call(jax.jit(run), xs).repaired(run, jnp.maximum(xs, 0.5))


@program(kind="inf", direction="backward", iteration=(1,), cause=("root|sqrt", "zero"))
def checkpointed_scan_body():
    """A remat inside of a scan inside of a value_and_grad."""

    def loss(w, xs):
        @jax.checkpoint
        def block(h, x):
            gate = jnp.sqrt(w * x)  # <- here
            return jnp.tanh(h + gate), None

        return lax.scan(block, 0.0, xs)[0]

    args = jnp.array(1.5), jnp.array([2.0, 0.0, 1.0])
    fn = jax.value_and_grad(loss)
    return call(jax.jit(fn), *args).repaired(fn, args[0], args[1] + 0.1)


@program(kind="inf", direction="backward", primitive="div", cause=("zero",))
def custom_gradient_inside_a_vmap():
    """The user's backward rule divides by the value it saved, under vmap."""

    @jax.custom_vjp
    def safe_abs(x):
        return jnp.abs(x)

    def backward(saved, g):
        x, y = saved
        scaled = g / y  # <- here
        return (scaled * x,)

    safe_abs.defvjp(lambda x: (jnp.abs(x), (x, jnp.abs(x))), backward)

    def loss(fn, x):
        return jax.vmap(lambda x: fn(2 * x))(x).sum()

    x = jnp.array([1.0, 0.0])
    return call(jax.grad(functools.partial(loss, safe_abs)), x).repaired(
        jax.grad(functools.partial(loss, jnp.abs))
    )


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def softmax_over_a_sharded_axis():
    """Shares of a total that is zero on all devices, inside shard_map."""

    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    rows = PartitionSpec("data")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=rows, out_specs=rows)
    def shares(x):
        total = lax.psum(jnp.sum(x), "data")  # <- zero
        return x / total  # <- here

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=rows, out_specs=rows)
    def repaired(x):
        return x / jnp.maximum(lax.psum(jnp.sum(x), "data"), 1e-6)

    return call(jax.jit(shares), jnp.zeros(4)).repaired(repaired)


@program(
    kind="inf", direction="forward", primitive="log", iteration=(1,), cause=("zero",)
)
def map_over_a_data_set():
    """lax.map is a scan too."""

    def surprise(p):
        nats = -jnp.log(p)  # <- here
        return nats.sum()

    def repaired(p):
        return -jnp.log(jnp.maximum(p, 1e-6)).sum()

    p = jnp.array([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]])
    return call(jax.jit(lambda p: lax.map(surprise, p)), p).repaired(
        lambda p: lax.map(repaired, p)
    )


@program(kind="nan", direction="forward", primitive="sqrt", cause=("negative",))
def third_branch_of_a_switch():
    """An activation chosen by an index."""

    def layer(index, x):
        def root(x):
            return jnp.sqrt(x)  # <- here

        return lax.switch(index, [jnp.tanh, jax.nn.relu, root], 2 * x)

    args = 2, jnp.array([1.0, -1.0])
    return call(jax.jit(layer), *args).repaired(layer, 1, args[1])


@program(kind="inf", direction="backward", cause=("norm|root|sqrt", "zero"))
def per_example_gradients_of_a_penalty():
    """jit of vmap of grad: one example makes no difference."""

    def penalty(w, x):
        response = w * x
        return jnp.sqrt(jnp.sum(response**2))  # <- here

    def repaired(w, x):
        return jnp.sqrt(jnp.sum((w * x) ** 2) + 1e-9)

    def each(fn):
        return jax.vmap(jax.grad(fn), in_axes=(None, 0))

    args = jnp.ones(2), jnp.array([[1.0, 2.0], [0.0, 0.0]])
    return call(jax.jit(each(penalty)), *args).repaired(each(repaired))


@program(kind="inf", direction="backward", iteration=(0,), cause=("root|sqrt", "zero"))
def gradient_through_a_fori_loop():
    """A fori_loop with static bounds, differentiated."""

    def loss(x):
        def body(i, total):
            return total + jnp.sqrt(i * x)  # <- here

        return lax.fori_loop(0, 3, body, 0.0)

    def repaired(x):
        def body(i, total):
            return total + jnp.sqrt(i * x + 1e-6)

        return lax.fori_loop(0, 3, body, 0.0)

    return call(jax.grad(loss), jnp.array(2.0)).repaired(jax.grad(repaired))


@program(
    kind="inf", direction="backward", primitive="div", cause=("zero",), iteration=(2,)
)
def implicit_layer_with_its_own_gradient():
    """A fixed point in a custom_vjp; the backward scan divides by 1 - slope."""

    @jax.custom_vjp
    def fixed_points(a):
        return a / 2

    def backward(a, g):
        def step(carry, xs):
            g, slope = xs
            solved = g / (1 - slope)  # <- here
            return carry + solved, solved

        return (lax.scan(step, 0.0, (g, a))[1],)

    fixed_points.defvjp(lambda a: (a / 2, a), backward)

    def loss(a):
        return jnp.sum(fixed_points(a))

    a = jnp.array([0.5, 0.2, 1.0])
    return call(jax.jit(jax.grad(loss)), a).repaired(jax.grad(loss), a * 0.9)


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def helper_called_from_many_places():
    """The same compiled helper is called three times and fails once."""

    @jax.jit
    def normalise(x):
        total = jnp.sum(x)  # <- zero
        return x / total  # <- here

    def fn(a, b):
        return normalise(a) + normalise(a + b) + normalise(b)

    args = jnp.ones(3), jnp.zeros(3)
    return call(fn, *args).repaired(fn, args[0], args[0])
