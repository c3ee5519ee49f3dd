"""shard_map, on one device and on four."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ._registry import call, program

SHARDED = P("d")


def _shard_map(fn, devices, out_specs=SHARDED):
    """`fn` on each shard of its one argument, over the first `devices` devices."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("d",))
    return jax.shard_map(fn, mesh=mesh, in_specs=SHARDED, out_specs=out_specs)


@program(kind="inf", direction="forward", primitive="log", iteration=())
def shard_map_on_one_device():
    """A logarithm of zero inside of shard_map."""

    def local(x):
        return jnp.log(x)  # <- here

    return call(jax.jit(_shard_map(local, 1)), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="backward")
def backward_of_shard_map():
    """The gradient through shard_map."""

    def local(x):
        return jnp.sqrt(x)  # <- here

    def loss(x):
        return jnp.sum(_shard_map(local, 1)(x))

    return call(jax.jit(jax.grad(loss)), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="forward", primitive="div", iteration=(2,))
def scan_inside_shard_map():
    """A loop inside of shard_map: the loop counts, the shard does not."""

    def step(total, x):
        return total + 1 / x, None  # <- here

    def local(x):
        return lax.scan(step, x[0], x)[0][None]

    return call(jax.jit(_shard_map(local, 1)), jnp.array([1.0, 2.0, 0.0, 4.0]))


@program(kind="inf", direction="forward", primitive="log", devices=4)
def one_bad_shard_of_four():
    """The third of four devices holds the zero."""

    def local(x):
        return jnp.log(x)  # <- here

    return call(jax.jit(_shard_map(local, 4)), jnp.ones(8).at[5].set(0.0))


@program(kind="nan", direction="forward", primitive="div", devices=4)
def normalise_by_a_sum_over_devices():
    """A sum over all devices is zero."""

    def local(x):
        total = lax.psum(jnp.sum(x), "d")
        return x / total  # <- here

    return call(jax.jit(_shard_map(local, 4)), jnp.zeros(4))


@program(kind="inf", direction="backward", devices=4)
def backward_of_a_mean_over_devices():
    """Data-parallel training: one device's example has a norm of zero."""

    def local(x):
        return lax.pmean(jnp.linalg.norm(x), "d")  # <- here

    fn = jax.jit(jax.grad(_shard_map(local, 4, P())))
    return call(fn, jnp.ones((4, 2)).at[2].set(0.0))
