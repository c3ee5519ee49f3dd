"""When are two functions the same? A compiled program may serve both, or must not.

Python compares functions by identity, so `optax.adam(1e-3)` written inline, or a
lambda, would be compiled anew at each call. Here a function is what it is made of: its
code, its defaults, the values that it closes over, and the globals that its code reads.
Two functions with equal parts do the same, and one that reads a global which has
changed meanwhile is another function. What has no parts is compared by identity.
"""

import dataclasses
import functools
import hashlib
import struct
import sys
import sysconfig
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

T = TypeVar("T")

_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    | {str(Path(__file__).parents[1])}
)
_SMALL = 4096  # bytes of an array on a device that are compared
_LARGE = 2**24  # bytes of an array on the host that are not compared any more


class Interned:
    """Values of which equal ones are kept once, and the last ones only.

    Args:
        maxsize: how many are kept.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, parts: Any, make: Callable[[], T]) -> T:
        """Returns the value that was made for the same parts, or makes it."""
        key = fingerprint(parts)
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            value = self._values.setdefault(key, value)
            while len(self._values) > self._maxsize:
                self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Keeps none any more."""
        with self._lock:
            self._values.clear()


class _Itself:
    """Something that equals nothing but itself; it lives as long as its fingerprint."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def fingerprint(value: Any) -> Hashable:
    """Returns something hashable that equal values, and only they, have in common.

    Args:
        value: a function, or anything that a function may be made of.

    >>> def power(n):
    ...     return lambda x: x**n
    >>> fingerprint(power(2)) == fingerprint(power(2)) != fingerprint(power(3))
    True
    """
    return _Fingerprints().of(value)


class _Fingerprints:
    """One look at a value, in which each of its parts is looked at once."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._alive: list[Any] = []  # whose addresses must not be used again meanwhile

    def of(self, value: Any) -> Hashable:
        if value is None or isinstance(value, bool | int | str | bytes):
            return type(value), value
        if isinstance(value, float):
            return float, struct.pack("d", value)  # -0.0 is not 0.0, and NaN is NaN
        if id(value) in self._places:
            return "again", self._places[id(value)]
        self._places[id(value)] = len(self._places)
        self._alive.append(value)
        return self._of_parts(value)

    def _of_parts(self, value: Any) -> Hashable:
        if isinstance(value, np.ndarray | np.generic):
            return self._of_numpy(value)
        if isinstance(value, jax.Array):
            return self._of_jax(value)
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, functools.partial):
            return functools.partial, *self._each(
                value.func, value.args, value.keywords
            )
        if isinstance(value, types.MethodType):
            return types.MethodType, *self._each(value.__func__, value.__self__)
        if isinstance(value, list | tuple):
            return type(value), *self._each(*value)
        if isinstance(value, set | frozenset):
            return type(value), frozenset(self._each(*value))
        if isinstance(value, Mapping):
            return type(value), *self._each(*value.keys(), *value.values())
        if isinstance(value, nnx.Module | nnx.Variable):
            leaves = jax.tree.leaves(nnx.state(value))
            return _Itself(value), *map(_Itself, leaves)
        if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
            return _Itself(value)
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            return type(value), *self._each(*(getattr(value, n) for n in names))
        attributes = getattr(value, "__dict__", None)
        home = vars(sys.modules.get(type(value).__module__, types))
        if isinstance(attributes, dict) and not _is_of_a_library(home):
            return _Itself(value), self.of(dict(attributes))
        return _Itself(value)

    def _each(self, *values: Any) -> Iterator[Hashable]:
        return map(self.of, values)

    def _of_numpy(self, array: np.ndarray | np.generic) -> Hashable:
        if array.dtype.hasobject or array.nbytes > _LARGE:
            return _Itself(array)
        content = hashlib.blake2b(array.tobytes()).digest()
        return type(array), array.dtype.str, array.shape, content

    def _of_jax(self, array: jax.Array) -> Hashable:
        if (
            isinstance(array, Tracer)
            or jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
            or array.nbytes > _SMALL
            or not array.is_fully_addressable
        ):
            return _Itself(array)  # it never changes
        weak = getattr(array, "weak_type", False)
        return jax.Array, weak, self._of_numpy(np.asarray(array))

    def _of_function(self, function: types.FunctionType) -> Hashable:
        if "<locals>" not in function.__qualname__ and _is_of_a_library(
            function.__globals__
        ):
            return _Itself(function)  # there is one of it
        cells = [_content(cell) for cell in function.__closure__ or ()]
        return (
            types.FunctionType,
            function.__code__,
            *self._each(function.__defaults__, function.__kwdefaults__, cells),
            self.of(dict(self._globals_of(function))),
        )

    def _globals_of(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        """Yields what the function's code reads by name, unless it is a library's."""
        if _is_of_a_library(function.__globals__):
            return
        names = set(_names_in(function.__code__))
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            yield name, value
            if isinstance(value, types.ModuleType) and not _is_of_a_library(
                vars(value)
            ):
                for attribute in sorted(names & vars(value).keys()):
                    yield f"{name}.{attribute}", vars(value)[attribute]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it has none yet
        return _Itself(cell)


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _is_of_a_library(module: Mapping[str, Any]) -> bool:
    file = module.get("__file__")
    if file is None:
        return module.get("__name__") in ("builtins", "sys")
    return _is_in_a_library(file)


@functools.cache
def _is_in_a_library(file: str) -> bool:
    return "site-packages" in file or file.startswith(_LIBRARIES)
