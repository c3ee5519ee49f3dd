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


def key_kinds(state: Any) -> dict[str, str]:
    """Returns for each random key of an NNX state the name of its generator."""
    return {
        path: str(jax.random.key_impl(leaf))
        for path, leaf in zip(paths(state), jax.tree.leaves(state), strict=True)
        if is_key(leaf)
    }


def paths(state: Any) -> list[str]:
    """Names the leaves of an NNX state, such as `encoder/linear_mean/kernel`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def filled(
    state: Any,
    arrays: Mapping[str, np.ndarray],
    keys: Mapping[str, str],
    source: str,
    what: str = "the model",
) -> Any:
    """Returns a state of the same structure with these arrays.

    Args:
        state: of arrays or of their shapes.
        arrays: as from `named_arrays`.
        keys: as from `key_kinds`.
        source: where they come from, for the error.
        what: what it is the state of, for the error.
    """
    leaves, treedef = jax.tree.flatten(state)
    names = paths(state)
    missing = sorted(set(names) - set(arrays)) or sorted(set(arrays) - set(names))
    if missing:
        whose = what if missing[0] in names else source
        raise ValueError(
            f"{what} has another structure than the one in {source}: only {whose} "
            f"has {missing[0]}; build {what} as it was"
        )
    return jax.tree.unflatten(
        treedef,
        [
            _key(leaf, arrays[name], keys, name, source)
            if is_key(leaf)
            else _like(leaf, arrays[name], name, source, what)
            for leaf, name in zip(leaves, names, strict=True)
        ],
    )


def is_key(leaf: Any) -> bool:
    """Whether this is an array of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key(
    leaf: Any, data: np.ndarray, keys: Mapping[str, str], name: str, source: str
) -> jax.Array:
    """Makes random keys of the generator they were of, whatever the default is."""
    try:
        key = jax.random.wrap_key_data(jnp.asarray(data), impl=keys[name])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name} in {source} is no random key that this JAX knows: its generator "
            f"is {keys.get(name)!r}"
        ) from error
    if key.shape != leaf.shape:
        raise ValueError(
            f"{name} has shape {leaf.shape} in the model, but {key.shape} in {source}: "
            "build the model as it was"
        )
    return key


def _like(leaf: Any, array: np.ndarray, name: str, source: str, what: str) -> jax.Array:
    if leaf.shape != array.shape or leaf.dtype != array.dtype:
        raise ValueError(
            f"{name} has shape {leaf.shape} and dtype {leaf.dtype} in {what}, but "
            f"{array.shape} and {array.dtype} in {source}: build {what} as it was"
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
        arrays[name] = np.array(tree)  # its owner may change it before it is written
        return {"__array__": name}
    if isinstance(tree, bytes):
        return {"__bytes__": tree.hex()}
    return tree.item() if isinstance(tree, np.generic) else tree


def decoded(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Undoes `encoded`; tuples come back as lists, arrays as those of NumPy."""
    if isinstance(tree, dict):
        if "__array__" in tree:
            return arrays[tree["__array__"]]
        if "__bytes__" in tree:
            return bytes.fromhex(tree["__bytes__"])
        return {key: decoded(value, arrays) for key, value in tree.items()}
    if isinstance(tree, list):
        return [decoded(value, arrays) for value in tree]
    return tree
