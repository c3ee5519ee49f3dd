"""Trees of arrays and other values as named arrays and JSON, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def named_arrays(state: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of an NNX state under their paths, random keys as data."""
    return {
        path: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        for path, leaf in zip(paths(state), jax.tree.leaves(state), strict=True)
    }


def paths(state: Any) -> list[str]:
    """Names the leaves of an NNX state, such as `encoder/linear_mean/kernel`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def filled(state: Any, arrays: Mapping[str, np.ndarray], source: str) -> Any:
    """Returns a state of the same structure with these arrays.

    Args:
        state: of arrays or of their shapes.
        arrays: as from `named_arrays`.
        source: where they come from, for the error.
    """
    leaves, treedef = jax.tree.flatten(state)
    names = paths(state)
    missing = sorted(set(names) - set(arrays)) or sorted(set(arrays) - set(names))
    if missing:
        whose = "the model" if missing[0] in names else source
        raise ValueError(
            f"the model has another structure than the one in {source}: only {whose} "
            f"has {missing[0]}; build the model as it was"
        )
    return jax.tree.unflatten(
        treedef,
        [
            _like(leaf, arrays[name], name, source)
            for leaf, name in zip(leaves, names, strict=True)
        ],
    )


def is_key(leaf: Any) -> bool:
    """Whether this is an array of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _like(leaf: Any, array: np.ndarray, name: str, source: str) -> jax.Array:
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array))
    if leaf.shape != array.shape or leaf.dtype != array.dtype:
        raise ValueError(
            f"{name} has shape {leaf.shape} and dtype {leaf.dtype} in the model, but "
            f"{array.shape} and {array.dtype} in {source}: build the model as it was"
        )
    return jnp.asarray(array)


def encoded(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Returns a tree as JSON, and puts its arrays beside it."""
    if isinstance(tree, dict):
        return {key: encoded(value, arrays) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [encoded(value, arrays) for value in tree]
    if isinstance(tree, np.ndarray | jax.Array):
        name = str(len(arrays))
        arrays[name] = np.asarray(tree)
        return {"__array__": name}
    return tree.item() if isinstance(tree, np.generic) else tree


def decoded(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Undoes `encoded`; tuples come back as lists, arrays as those of NumPy."""
    if isinstance(tree, dict):
        if "__array__" in tree:
            return arrays[tree["__array__"]]
        return {key: decoded(value, arrays) for key, value in tree.items()}
    if isinstance(tree, list):
        return [decoded(value, arrays) for value in tree]
    return tree
