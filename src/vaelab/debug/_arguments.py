"""Taking the arguments of a call apart, copying them, and testing them.

Arguments are trees whose leaves are arrays, NNX objects (models, optimizers, `Rngs`)
and whatever else a step is given. The values of NNX objects live in their variables.
"""

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

__all__ = [
    "all_finite",
    "clones",
    "copies",
    "deleted",
    "finite",
    "flatten",
    "is_inexact",
    "is_nnx",
    "read",
    "restore",
    "unchecked",
    "updates_so_far",
    "variables",
    "which_are_finite",
    "write",
]


# Whether something is an NNX object: a module, an optimizer or `Rngs`. The recorder
# asks this of every leaf of every step, hence no Python function and no ABC.
is_nnx = functools.partial(type.__instancecheck__, nnx.Pytree)


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """Returns the leaves of a tree, NNX objects whole, and its structure."""
    return jax.tree.flatten(tree, is_leaf=is_nnx)


def variables(nodes: Sequence[Any]) -> list[nnx.Variable[Any]]:
    """Returns the variables of some NNX objects, each once."""
    graph = nnx.iter_graph(tuple(nodes))
    return [part for _, part in graph if isinstance(part, nnx.Variable)]


_HAS_METHODS = hasattr(nnx.Variable, "get_raw_value")  # since flax 0.12

# The value of a variable without NNX's hooks.
read: Callable[[Any], Any] = (
    operator.methodcaller("get_raw_value")
    if _HAS_METHODS
    else operator.attrgetter("raw_value")
)


def write(variable: Any, value: Any) -> None:
    """Sets the value of a variable without NNX's hooks."""
    if _HAS_METHODS:
        variable.set_raw_value(value)
    else:
        variable.raw_value = value


def restore(targets: Iterable[nnx.Variable[Any]], values: Iterable[Any]) -> None:
    """Sets the values of variables."""
    for variable, value in zip(targets, values, strict=True):
        write(variable, value)


def clones(nodes: Sequence[Any]) -> list[Any]:
    """Copies NNX objects with all of their arrays; what they share stays shared."""
    cloned = list(nnx.clone(tuple(nodes)))
    into = variables(cloned)
    restore(into, copies([read(variable) for variable in into]))
    return cloned


def copies(tree: Any) -> Any:
    """Copies what someone else could delete or overwrite; keeps the rest.

    JAX arrays are copied on their devices, bit for bit, since a compiled function that
    takes them as a donation deletes them. NumPy arrays are copied since a data loader
    may fill the same array again.
    """
    with unchecked():
        return jax.tree.map(_copy, tree, is_leaf=is_nnx)


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return _device_copy(leaf)
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


@jax.jit
def _device_copy(array: jax.Array) -> jax.Array:
    return jnp.copy(array)


def deleted(tree: Any) -> bool:
    """Whether an array in this tree was given away as a donation."""
    leaves = jax.tree.leaves(tree, is_leaf=is_nnx)
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)


def is_inexact(leaf: Any) -> bool:
    """Whether this is an array (or a number) that can be NaN."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, float | complex)
    return _is_inexact_dtype(dtype)


@functools.cache
def _is_inexact_dtype(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


@jax.jit
def finite(so_far: Any, arrays: list[Any]) -> jax.Array:
    """Whether `so_far` holds and all arrays are finite, computed on the device."""
    for array in arrays:
        so_far = jnp.logical_and(so_far, jnp.isfinite(array).all())
    return so_far


def which_are_finite(leaves: Sequence[Any]) -> list[bool]:
    """Says of each leaf whether it is finite; what cannot be NaN is."""
    with unchecked():
        flags = [not is_inexact(x) or finite(True, [x]) for x in leaves]
    return [bool(flag) for flag in jax.device_get(flags)]


def all_finite(leaves: Sequence[Any]) -> bool:
    """Whether all leaves are finite, in one program for each set of devices."""
    groups: dict[Any, list[Any]] = {}
    for leaf in filter(is_inexact, leaves):
        devices = leaf.sharding.device_set if isinstance(leaf, jax.Array) else ()
        groups.setdefault(frozenset(devices), []).append(leaf)
    flags = [finite(True, arrays) for arrays in groups.values()]
    return all(map(bool, jax.device_get(flags)))


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Switches JAX's NaN checks off: the debugger handles NaN on purpose."""
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def updates_so_far(tree: Any) -> int | None:
    """Reads from optimizers how many updates they made; None if they do not agree.

    An `nnx.Optimizer` counts in `step`, an optax state in fields named `count`.
    """
    leaves, _ = flatten(tree)
    optimizers = {x for x in leaves if isinstance(x, nnx.Optimizer)}
    counts = {int(optimizer.step[...]) for optimizer in optimizers}
    if not optimizers:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_nnx):
            named = getattr(path[-1], "name", None) == "count" if path else False
            if named and np.shape(leaf) == () and isinstance(leaf, jax.Array):
                counts.add(int(leaf))
    return counts.pop() if len(counts) == 1 else None
