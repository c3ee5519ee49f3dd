"""Where arrays live: on one device, or copied to each device of a mesh.

A mesh may span several processes, each of which sees its own devices only; then every
process runs the same script and holds all of the images.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Puts arrays on the device, or on every device of the mesh in all processes."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def copy(array: Any) -> jax.Array:
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, everywhere, host.__getitem__)

    return jax.tree.map(copy, tree)


def local(tree: Any, mesh: Mesh | None) -> Any:
    """Takes this process's copy of replicated arrays."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def explain_lost_peer(error: Exception, mesh: Mesh | None, step: int) -> None:
    """Raises a clear error if this one means that another process has died.

    When a process dies, the next sum over the devices fails in all others.
    """
    if mesh is None or jax.process_count() == 1 or "Gloo" not in str(error):
        return
    raise RuntimeError(
        f"another process of this run ended, or its connection broke, after step "
        f"{step}: start all of the processes again; with callbacks.Checkpoint(path) "
        "and fit(..., resume=path) they go on from the last checkpoint"
    ) from error
