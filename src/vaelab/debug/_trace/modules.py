"""NNX modules by name: every method runs under a scope with the module's path.

While a call is traced, the methods of all NNX modules open a `jax.named_scope` that
starts with `nnx:` and ends with the module's path, so that every equation, of the
backward pass too, knows its module. Modules learn their paths from a static attribute,
which survives `nnx.split`, `nnx.merge` and NNX's transformations. Only copies get it.
"""

import functools
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import jax
from flax import nnx

from vaelab.debug._trace.patches import Patch

__all__ = ["NNX_TYPES", "is_nnx", "module_of", "module_scopes", "name_modules"]

NNX_TYPES = tuple(
    getattr(nnx, name)
    for name in ("Module", "Optimizer", "Rngs", "Pytree", "Object")
    if isinstance(getattr(nnx, name, None), type)
)

_PREFIX = "nnx:"
_PATH = "_vaelab_debug_path"


def is_nnx(value: Any) -> bool:
    """Whether a value is an NNX object with state, such as a model or an optimizer."""
    return isinstance(value, NNX_TYPES)


def module_of(scopes: list[str]) -> str | None:
    """The innermost module's path among the names of scopes, outermost first."""
    for scope in reversed(scopes):
        if scope.startswith(_PREFIX):
            return scope.removeprefix(_PREFIX)
    return None


def name_modules(root: Any, prefix: str = "") -> None:
    """Tells the module `root` and all modules below it their paths.

    Args:
        root: a module that belongs to us: it gets a new attribute.
        prefix: the name of the root; without one its children have the short names
            `encoder`, `encoder.linear`, and the root has the name of its class.
    """
    seen: set[int] = set()

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if id(value) in seen:
            return
        if isinstance(value, nnx.Module):
            name = ".".join(path) or type(value).__name__
            object.__setattr__(value, _PATH, name)
        if isinstance(value, dict):
            children = dict(value)
        elif isinstance(value, (list, tuple)):
            children = dict(enumerate(value))
        elif isinstance(value, NNX_TYPES):
            children = {k: v for k, v in vars(value).items() if not k.startswith("_")}
            children |= _items_of(value)
        else:
            return
        seen.add(id(value))
        for key, child in children.items():
            walk(child, (*path, str(key)))

    walk(root, (prefix,) if prefix else ())


def _items_of(value: Any) -> dict[Any, Any]:
    """The elements of an `nnx.List` or `nnx.Dict`, which newer flax has."""
    lists, dicts = getattr(nnx, "List", ()), getattr(nnx, "Dict", ())
    if isinstance(value, lists):
        return dict(enumerate(value))
    return dict(value.items()) if isinstance(value, dicts) else {}


def module_scopes() -> Iterator[Patch]:
    """The methods of all NNX modules, to run under a scope with the module's path."""
    for cls in _subclasses(nnx.Module):
        for name, method in list(vars(cls).items()):
            hidden = name.startswith("__") and name != "__call__"
            if type(method) is FunctionType and not hidden:
                yield Patch(cls, name, _scoped)
    for owner in {id(m): m for m in (nnx, nnx.graph)}.values():
        if "merge" in vars(owner):
            yield Patch(owner, "merge", _naming)


def _scoped(method: Any) -> Any:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = _path_of(self)
        if path is None:
            return method(self, *args, **kwargs)
        with jax.named_scope(_PREFIX + path):
            return method(self, *args, **kwargs)

    return call


def _path_of(module: Any) -> str | None:
    try:
        return vars(module).get(_PATH)
    except TypeError:  # a method that was called with something else than a module
        return None


def _naming(merge: Any) -> Any:
    """`nnx.merge`, which makes new modules, and names those that have no name yet."""

    @functools.wraps(merge)
    def merged(*args: Any, **kwargs: Any) -> Any:
        root = merge(*args, **kwargs)
        if isinstance(root, nnx.Module) and _path_of(root) is None:
            name_modules(root)
        return root

    return merged


def _subclasses(cls: type) -> Iterator[type]:
    seen: set[type] = set()
    todo = [cls]
    while todo:
        for sub in todo.pop().__subclasses__():
            if sub not in seen:
                seen.add(sub)
                todo.append(sub)
                yield sub
