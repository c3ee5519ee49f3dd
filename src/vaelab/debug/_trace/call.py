"""A call as a pure function of its arrays, so that it can be traced and replayed."""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from vaelab.debug._trace.modules import is_nnx, name_modules

__all__ = ["PureCall"]


class PureCall:
    """`fn(*args, **kwargs)` as a function of a flat list of arrays.

    NNX objects are split into arrays and structure, and merged anew, as copies, each
    time the function runs; what it changes in them becomes an output. Arrays anywhere
    in the arguments are inputs; everything else stays as it is.

    Attributes:
        leaves: the arrays of the call.
        paths: the path of each, such as `batch['image']` or `model.encoder.kernel`.
        out_paths: the paths of the outputs; known once `flat` has run.
        out_states: for each output the index of the leaf which it is the new value of,
            or None for a value that the function returned.
    """

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        fn, args, kwargs, names = _unbound(fn, args, kwargs)
        self.fn = fn
        named, self.tree = jax.tree_util.tree_flatten_with_path(
            (args, kwargs), is_leaf=is_nnx
        )
        self.values = [value for _, value in named]
        paths = [_argument_path(path, names) for path, _ in named]

        self.nnx = [i for i, value in enumerate(self.values) if is_nnx(value)]
        self.arrays = [i for i, value in enumerate(self.values) if _is_array(value)]
        self.leaves = [self.values[i] for i in self.arrays]
        self.paths = [paths[i] for i in self.arrays]

        objects = tuple(self.values[i] for i in self.nnx)
        self.object_names = [paths[i] for i in self.nnx]
        modules = [v for v in objects if isinstance(v, nnx.Module)]
        self.prefixed = len({id(module) for module in modules}) > 1
        self.graphdef: Any = None
        self.state_tree: Any = None
        self.state_start = len(self.leaves)
        if objects:
            self.graphdef, state = nnx.split(objects)
            named, self.state_tree = jax.tree_util.tree_flatten_with_path(state)
            self.leaves += [value for _, value in named]
            self.paths += [self._state_path(path) for path, _ in named]
        self.out_paths: list[str] = []
        self.out_states: list[int | None] = []

    def flat(self, leaves: list[Any]) -> list[Any]:
        """Makes the call with the given arrays; returns its arrays and new states."""
        values = list(self.values)
        for i, leaf in zip(self.arrays, leaves, strict=False):
            values[i] = leaf
        objects = self._merged(leaves[self.state_start :])
        for i, new in zip(self.nnx, objects, strict=True):
            values[i] = new
        args, kwargs = jax.tree_util.tree_unflatten(self.tree, values)
        out = self.fn(*args, **kwargs)

        named, _ = jax.tree_util.tree_flatten_with_path(_pure(out))
        found: list[tuple[str, int | None, Any]] = [
            (_joined("output", path), None, value)
            for path, value in named
            if _is_array(value) or isinstance(value, (int, float, complex))
        ]
        if objects:
            named, _ = jax.tree_util.tree_flatten_with_path(nnx.state(objects))
            known = {path: i for i, path in enumerate(self.paths)}
            for path, value in named:
                name = self._state_path(path)
                found.append((name, known.get(name, -1), value))
        self.out_paths = [path for path, _, _ in found]
        self.out_states = [state for _, state, _ in found]
        return [value for _, _, value in found]

    def _merged(self, leaves: list[Any]) -> tuple[Any, ...]:
        if self.graphdef is None:
            return ()
        state = jax.tree_util.tree_unflatten(self.state_tree, leaves)
        objects = nnx.merge(self.graphdef, state, copy=True)
        for name, value in zip(self.object_names, objects, strict=True):
            if isinstance(value, nnx.Module):
                name_modules(value, name if self.prefixed else "")
        return objects

    def _state_path(self, path: Any) -> str:
        """Such as `model.encoder.kernel`: attributes and keys, joined by dots."""
        first, *rest = [_key(entry) for entry in path]
        if rest and rest[-1] in ("value", "raw_value"):
            rest.pop()
        return ".".join([self.object_names[int(first)], *rest])


def _unbound(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any], list[str]]:
    """Turns modules that are called, and partial arguments, into plain arguments."""
    if is_nnx(fn):
        names = ["model", *_parameters(type(fn).__call__, len(args) + 1)[1:]]
        return operator.call, (fn, *args), kwargs, names
    owner = getattr(fn, "__self__", None)
    if inspect.ismethod(fn) and is_nnx(owner):
        names = ["model", *_parameters(fn.__func__, len(args) + 1)[1:]]
        return _method(fn), (owner, *args), kwargs, names
    if isinstance(fn, functools.partial):
        return _unbound(fn.func, (*fn.args, *args), fn.keywords | kwargs)
    return fn, args, kwargs, _parameters(fn, len(args))


def _method(bound: Any) -> Any:
    """A method, looked up when it is called, and not before its scopes are there."""
    name = bound.__name__
    if getattr(type(bound.__self__), name, None) is not bound.__func__:
        return bound.__func__
    return lambda owner, *args, **kwargs: getattr(owner, name)(*args, **kwargs)


def _parameters(fn: Any, count: int) -> list[str]:
    """The names of the positional parameters, as far as the signature tells."""
    fallback = [f"args[{i}]" for i in range(count)]
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # some callables have none
        return fallback
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    names = [p.name for p in parameters if p.kind in positional]
    return [*names, *fallback[len(names) :]][:count]


def _argument_path(path: Any, names: list[str]) -> str:
    which, first, *rest = path
    index = _key(first)
    head = names[int(index)] if _key(which) == "0" else index
    return _joined(head, rest)


def _joined(head: str, path: Any) -> str:
    return head + jax.tree_util.keystr(tuple(path))


def _key(entry: Any) -> str:
    for name in ("key", "idx", "name"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)


def _pure(out: Any) -> Any:
    """NNX objects among the results as their state."""
    return jax.tree.map(lambda v: nnx.state(v) if is_nnx(v) else v, out, is_leaf=is_nnx)


def _is_array(value: Any) -> bool:
    """Whether a leaf becomes an input: an array, or a number that is not finite."""
    if isinstance(value, float):  # otherwise it may be static, and stays as it is
        return not np.isfinite(value)
    return isinstance(value, (jax.Array, np.ndarray, np.generic))
