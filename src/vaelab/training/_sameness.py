"""Whether two functions are the same: the same code that reads the same values.

`optax.adam(1e-3)` and a lambda are new functions each time, so comparing objects would
compile them anew each time. Here functions are compared by what tracing them can see:
code, defaults, closures, and the globals it reads, followed through helpers, modules
and classes of the user's own. What changed since is noticed, even for one and the same
function. Where something cannot be looked into, such as a generator, the whole function
is compared as an object.

Installed packages do not change, and are taken as they are: of their functions only
closures are followed, their modules and classes are compared as objects.
"""

import copyreg
import dis
import functools
import hashlib
import os
import struct
import sys
import sysconfig
import threading
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

T = TypeVar("T")

_SMALL = 2**16
"""Up to how many bytes an array of JAX is compared by its values."""

_BLIND = frozenset(
    {"__import__", "eval", "exec", "getattr", "globals", "locals", "vars"}
)
"""Builtins that read what the code does not name."""

_STDLIB = os.path.realpath(sysconfig.get_paths()["stdlib"]) + os.sep
_OWN_PACKAGE = __name__.partition(".")[0]


class Interned:
    """Values of which equal ones are kept once, and the last ones only.

    Args:
        maxsize: how many are kept.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._kept: OrderedDict[Hashable, tuple[Any, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, parts: Any, make: Callable[[], T]) -> T:
        """Returns the value that was made for equal parts, or makes it."""
        key = content(parts)
        with self._lock:
            kept = self._kept.get(key)
        # A kept value goes on being traced, for arrays of another shape. Its parts must
        # not have changed since, as a list that they close over may.
        if kept is None or not (_identical(kept[0], parts) or content(kept[0]) == key):
            kept = parts, make()
        with self._lock:
            self._kept[key] = kept
            self._kept.move_to_end(key)
            while len(self._kept) > self._maxsize:
                self._kept.popitem(last=False)
        return kept[1]

    def clear(self) -> None:
        """Keeps none any more."""
        with self._lock:
            self._kept.clear()


class _Object:
    """An object that equals only itself, and lives as long as this."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Opaque(Exception):
    """Something cannot be looked into."""


def content(value: Any) -> Hashable:
    """Returns what is equal for functions, or values, that tracing cannot tell apart.

    Args:
        value: a function, or anything that one may hold.
    """
    try:
        return _Reader().read(value)
    except (_Opaque, RecursionError):
        made_of = _parts_of(value)
        if made_of is None:
            return _Object(value)
        return type(value), tuple(map(content, made_of))


def _parts_of(value: Any) -> tuple[Any, ...] | None:
    """Takes apart what is made anew at each use, and so never is the same object."""
    if isinstance(value, tuple):
        return tuple(value)
    if type(value) is functools.partial:
        return value.func, value.args, tuple(value.keywords.items())
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    return None


def _identical(one: Any, other: Any) -> bool:
    """Whether two values are one object, or tuples of the same objects."""
    if one is other:
        return True
    if type(one) is not type(other) or not isinstance(one, tuple):
        return False
    return len(one) == len(other) and all(map(_identical, one, other))


class _Reader:
    """Reads one function with everything it refers to."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}

    def read(self, value: Any) -> Hashable:
        if value is None or value is Ellipsis or value is NotImplemented:
            return _Object(value)
        kind = type(value)
        if kind in (bool, int, str, bytes):
            return kind, value
        if kind is float:
            return kind, struct.pack("d", value)  # -0.0 is not 0.0, NaN is NaN
        if kind is complex:
            return kind, struct.pack("dd", value.real, value.imag)
        if id(value) in self._seen:
            return "again", self._seen[id(value)][0]
        # It stays alive here, so that no other object gets its number.
        self._seen[id(value)] = len(self._seen), value
        return kind.__name__, self._read(value, kind)

    def _read(self, value: Any, kind: type) -> Hashable:
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self.read(value.__func__), self.read(value.__self__)
        if kind is functools.partial:
            return self._all((value.func, value.args, value.keywords))
        if isinstance(value, types.CodeType):
            return value
        if isinstance(value, types.ModuleType):
            return self._module(value, frozenset())
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.CellType):
            return self._cell(value)
        if kind in (tuple, list):
            return self._all(value)
        if kind is dict or kind is types.MappingProxyType:
            return self._dict(value)
        if kind in (set, frozenset):
            return len(value), frozenset(map(self.read, value))
        if isinstance(value, property):
            return self._all((value.fget, value.fset, value.fdel))
        if isinstance(value, functools.cached_property):
            return self.read(value.func)  # its lock is nobody's business
        if isinstance(value, jax.Array):
            return self._jax_array(value)
        if isinstance(value, np.ndarray):
            return self._numpy_array(value)
        if nnx.graph.is_graph_node(value) or isinstance(value, nnx.Variable):
            return self._nnx(value)
        if isinstance(value, jax.Device | types.MemberDescriptorType):
            return _Object(value)
        if isinstance(value, np.dtype):
            return value
        return self._other(value, kind)

    def _all(self, values: Any) -> Hashable:
        return tuple(map(self.read, values))

    def _dict(self, values: Mapping[Any, Any]) -> Hashable:
        return tuple(
            (self.read(key), self.read(value)) for key, value in values.items()
        )

    def _cell(self, cell: types.CellType) -> Hashable:
        try:
            return self.read(cell.cell_contents)
        except ValueError:
            return "empty"

    def _function(self, function: types.FunctionType) -> Hashable:
        reads = _reads(function.__code__)
        given = self._all((function.__defaults__, function.__kwdefaults__))
        # What the code itself sets, such as a counter, is no input of it.
        own = {k: v for k, v in vars(function).items() if k not in reads.sets}
        cells = self._all(function.__closure__ or ())
        followed: Hashable = ()
        if not _is_installed(function.__globals__):
            followed = self._globals(function.__globals__, reads)
        return function.__code__, given, self._dict(own), cells, followed

    def _globals(self, found: dict[str, Any], reads: "_Reads") -> Hashable:
        if "import_module" in reads.names:
            raise _Opaque
        pairs: list[Hashable] = []
        for name in reads.globals:
            if name in found:
                value = found[name]
            elif name in _BLIND:
                raise _Opaque
            else:
                continue
            if isinstance(value, types.ModuleType):
                pairs.append((name, self._module(value, reads.names)))
            else:
                pairs.append((name, self.read(value)))
        for name in reads.imports:
            if name.startswith("."):
                raise _Opaque
            for at in _and_parents(name):
                if at in sys.modules:
                    pairs.append((at, self._module(sys.modules[at], reads.names)))
        return tuple(pairs)

    def _module(self, module: types.ModuleType, names: frozenset[str]) -> Hashable:
        if _is_installed(vars(module)):
            return _Object(module)
        pairs: list[Hashable] = []
        for name in sorted(names & vars(module).keys()):
            value = vars(module)[name]
            if isinstance(value, types.ModuleType):
                pairs.append((name, self._module(value, names - {name})))
            else:
                pairs.append((name, self.read(value)))
        return _Object(module), tuple(pairs)

    def _class(self, cls: type) -> Hashable:
        parts: list[Hashable] = [_Object(cls)]
        for base in cls.__mro__:
            module = sys.modules.get(base.__module__)
            if module is not None and _is_installed(vars(module)):
                continue
            for name, value in vars(base).items():
                if isinstance(value, staticmethod | classmethod):
                    value = value.__func__
                is_special = name.startswith("__") and name.endswith("__")
                if name == "_abc_impl" or (
                    is_special and not isinstance(value, types.FunctionType)
                ):
                    continue
                parts.append((name, self.read(value)))
        return tuple(parts)

    def _jax_array(self, array: jax.Array) -> Hashable:
        if isinstance(array, Tracer):
            raise _Opaque
        if (
            array.is_deleted()
            or not array.is_fully_addressable
            or array.nbytes > _SMALL
        ):
            return _Object(array)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            kind = str(jax.random.key_impl(array))
            return kind, self._jax_array(jax.random.key_data(array))
        return (
            array.aval,
            array.sharding,
            getattr(array, "committed", None),
            np.asarray(array).tobytes(),
        )

    def _numpy_array(self, array: np.ndarray) -> Hashable:
        if type(array) is not np.ndarray:
            raise _Opaque
        if array.dtype.hasobject:
            return array.shape, self._all(array.ravel().tolist())
        digest = hashlib.sha256(np.ascontiguousarray(array).data).digest()
        return array.dtype.str, str(array.dtype), array.shape, digest

    def _nnx(self, node: Any) -> Hashable:
        """A module is itself as long as nobody changed it."""
        if isinstance(node, nnx.Variable):
            return _Object(node), tuple(map(_Object, jax.tree.leaves(node)))
        graphdef, state = nnx.split(node)
        try:
            hash(graphdef)
        except TypeError as error:
            raise _Opaque from error
        leaves = tuple(map(_Object, jax.tree.leaves(state)))
        return _Object(node), self.read(type(node)), graphdef, leaves

    def _other(self, value: Any, kind: type) -> Hashable:
        """Anything else is what `pickle` would write of it."""
        if hasattr(value, "__wrapped__"):  # such as a function under `jax.jit`
            return _Object(value), self.read(value.__wrapped__)
        try:
            registered = copyreg.dispatch_table.get(kind)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # some iterators are on their way out
                reduced = registered(value) if registered else value.__reduce_ex__(4)
        except Exception as error:  # of any kind: it may be anyone's method
            raise _Opaque from error
        if isinstance(reduced, str):
            return _Object(value)  # something global, under this name
        parts: Any = (*reduced, None, None, None)[:5]
        make, arguments, state, items, pairs = parts
        return self._all((make, arguments, state, list(items or ()), list(pairs or ())))


class _Reads:
    """Names in a function's code, and in the functions within it.

    Attributes:
        globals: variables of the module, or builtins.
        imports: modules.
        names: all of them, and attributes.
        sets: attributes that the code itself gives a value.
    """

    def __init__(self, code: types.CodeType) -> None:
        found: dict[str, None] = {}
        imports: dict[str, None] = {}
        self.names = frozenset(code.co_names)
        self.sets: frozenset[str] = frozenset()
        for instruction in dis.get_instructions(code):
            operation, name = instruction.opname, instruction.argval
            if operation in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
                found[name] = None
            elif operation == "IMPORT_NAME":
                imports[name] = None
            elif operation == "STORE_ATTR":
                self.sets |= {name}
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                reads = _reads(inner)
                found |= dict.fromkeys(reads.globals)
                imports |= dict.fromkeys(reads.imports)
                self.names |= reads.names
                self.sets |= reads.sets
        self.globals = tuple(found)
        self.imports = tuple(imports)


@functools.lru_cache(maxsize=4096)
def _reads(code: types.CodeType) -> _Reads:
    return _Reads(code)


def _and_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _is_installed(module: Mapping[str, Any]) -> bool:
    """Whether a module, given as its variables, is not the user's own."""
    return _is_installed_at(str(module.get("__name__")), module.get("__file__"))


@functools.lru_cache(maxsize=4096)
def _is_installed_at(name: str, file: str | None) -> bool:
    package = name.partition(".")[0]
    if package == _OWN_PACKAGE:
        return True
    if package == "__main__":
        return False  # a notebook's cells, whichever program runs them
    if file is None:
        return package in sys.stdlib_module_names
    path = os.path.realpath(file)
    installed = {"site-packages", "dist-packages"} & set(path.split(os.sep))
    return bool(installed) or path.startswith(_STDLIB)
