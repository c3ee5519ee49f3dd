"""One failing call in one file, to look at later or on another machine.

The file is a plain `.npz` archive: the bytes of every array, with their types, and a
description in JSON of how they were arranged. It holds no code: nothing is pickled, so
a file from somebody else can be opened without fear.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vaelab.debug import _arguments as arguments
from vaelab.debug._archive import Archive

__all__ = ["Crash", "load_crash", "save_crash"]

_FORMAT = "vaelab.debug crash 1"


@dataclass(frozen=True)
class Crash:
    """A call that gave something non-finite.

    Attributes:
        args: its arguments, as they were before it.
        kwargs: its keyword arguments.
        step: its number in the run, counted from 0, if known.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    step: int | None = None


def save_crash(
    path: str | os.PathLike[str],
    args: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    step: int | None = None,
) -> None:
    """Writes the arguments of a call to one file.

    All arrays are kept bit for bit, with NNX state, random keys and RNG counts.

    Args:
        path: the file, usually ending in `.npz`; it is written as named, but that a
            leading `~` stands for the home directory.
        args: the arguments: trees of arrays and NNX objects.
        kwargs: the keyword arguments.
        step: the number of the call.

    Raises:
        TypeError: `path` is no path, or `args` is not a sequence of arguments.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "crash.npz")
    >>> save_crash(path, ({"w": jnp.zeros(2)}, 0.5), step=170)
    >>> crash = load_crash(path)
    >>> crash.step, crash.args
    (170, ({'w': Array([0., 0.], dtype=float32)}, 0.5))
    """
    file = _file(path)
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"args is a {type(args).__name__}: give the arguments as a tuple, such as "
            "save_crash(path, (model, optimizer, batch))"
        )
    if kwargs is not None and not (
        isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs)
    ):
        raise TypeError(
            f"kwargs is a {type(kwargs).__name__}: give a dictionary of named arguments"
        )
    if step is not None and (isinstance(step, bool) or not isinstance(step, Integral)):
        raise TypeError(f"step is {step!r}: give the number of the call")
    if step is not None and step < 0:
        raise ValueError(f"step is {step}: calls are counted from 0")
    store = _Writer()
    description = {
        "format": _FORMAT,
        "jax": jax.__version__,
        "step": None if step is None else int(step),
        "args": [store.describe(arg) for arg in args],
        "kwargs": {name: store.describe(arg) for name, arg in (kwargs or {}).items()},
    }
    store.arrays["description"] = np.frombuffer(
        json.dumps(description).encode(), np.uint8
    )
    with open(file, "wb") as archive:
        np.savez(archive, **store.arrays)


def load_crash(
    path: str | os.PathLike[str], *templates: Any, **named_templates: Any
) -> Crash:
    """Reads a call back, for `explain(step, *load_crash(path).args)`.

    Args:
        path: a file that `save_crash` wrote.
        templates: for each argument that is not made of plain dicts, lists, tuples,
            numbers and arrays, in their order: an object built the same way, such as
            the model and the optimizer. It is not changed; the crash has a copy of it
            with the values of the file. A function is its own template.
        named_templates: the same for keyword arguments.

    Returns:
        The call, with `.args`, `.kwargs` and `.step`.

    Raises:
        TypeError: a template is missing.
        ValueError: the file is of another kind, or a template does not fit.

    >>> import os, tempfile
    >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    >>> path = os.path.join(tempfile.mkdtemp(), "crash.npz")
    >>> save_crash(path, (model, jnp.ones((5, 2))))
    >>> again, x = load_crash(path, nnx.Linear(2, 3, rngs=nnx.Rngs(1))).args
    >>> bool((again(x) == model(x)).all())
    True
    """
    with Archive(_file(path)) as archive:
        return _loaded(archive, templates, named_templates)


def _file(path: Any) -> str:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"path is {path!r}: give the name of the file, such as 'crash.npz'"
        )
    return os.path.expanduser(os.fspath(path))


def _loaded(
    archive: Archive, templates: Sequence[Any], named_templates: Mapping[str, Any]
) -> Crash:
    description = archive.description(_FORMAT)
    positional, named = _copied(templates, named_templates)
    rest = list(positional)

    def restored(name: str, what: Any, advice: str, take: Callable[[], Any]) -> Any:
        if not isinstance(what, dict) or "template" not in what:
            return _value(what, archive)
        try:
            template = take()
        except LookupError:
            raise TypeError(
                f"{name} is a {what['template']}: give one that is built the same "
                f"way, as in {advice}"
            ) from None
        return _filled(name, template, what["leaves"], archive)

    args = tuple(
        restored(f"argument {i}", what, _ADVICE, lambda: rest.pop(0))
        for i, what in enumerate(description["args"])
    )
    kwargs = {
        name: restored(
            name, what, f"load_crash(path, {name}=...)", lambda name=name: named[name]
        )
        for name, what in description["kwargs"].items()
    }
    if rest:
        raise ValueError(
            f"{len(templates)} templates for {len(templates) - len(rest)} arguments "
            "that need one: leave out the rest"
        )
    return Crash(args, kwargs, description["step"])


_ADVICE = "load_crash(path, model, optimizer)"


def _copied(*templates: Any) -> Any:
    """Copies all templates at once, so that what they share stays shared."""
    leaves, structure = arguments.flatten(templates)
    nodes = iter(arguments.clones(list(filter(arguments.is_nnx, leaves))))
    leaves = [next(nodes) if arguments.is_nnx(leaf) else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, leaves)


def _filled(
    name: str,
    template: Any,
    described: Mapping[str, Any],
    archive: Archive,
) -> Any:
    """Puts the values of the file into a template."""
    slots = _slots(template)
    for path in [
        *(described.keys() - slots.keys()),
        *(slots.keys() - described.keys()),
    ]:
        where = "only in the file" if path in described else "not in the file"
        raise ValueError(
            f"the template of {name} was built in another way: {path} is {where}"
        )
    new = {}
    for path, slot in slots.items():
        old, what = slot.value, described[path]
        new[path] = old if what is None else _value(what, archive)
        if np.shape(new[path]) != np.shape(old):
            raise ValueError(
                f"the template of {name} was built in another way: {path} has shape "
                f"{np.shape(old)}, and {np.shape(new[path])} in the file"
            )
    for root, variable in {slot.root: slot.variable for slot in slots.values()}.items():
        if variable is not None:
            value = _replaced(arguments.read(variable), root, new)
            arguments.write(variable, value)
    return _replaced(template, "", new)


def _replaced(tree: Any, root: str, new: Mapping[str, Any]) -> Any:
    """Returns the tree with the new values of the paths that there are any for."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree, arguments.is_nnx)
    values = [new.get(root + jax.tree_util.keystr(path), x) for path, x in leaves]
    return jax.tree.unflatten(structure, values)


class _Writer:
    """Describes values in JSON and collects their arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}  # of bytes

    def describe(self, arg: Any) -> dict[str, Any]:
        """Describes one argument: in full, or as values to put into a template."""
        plain = self.plain(arg)
        if plain is not None:
            return plain
        leaves = {path: self.leaf(slot.value) for path, slot in _slots(arg).items()}
        return {"template": _type_name(arg), "leaves": leaves}

    def plain(self, value: Any) -> dict[str, Any] | None:
        """Describes builtin containers of arrays and numbers; None for the rest."""
        if type(value) in (list, tuple):
            items = [self.plain(item) for item in value]
            return None if None in items else {type(value).__name__: items}
        if type(value) is dict:
            if not all(type(key) in (str, int) for key in value):
                return None
            items = [[key, self.plain(item)] for key, item in value.items()]
            return None if any(i is None for _, i in items) else {"dict": items}
        return self.leaf(value)

    def leaf(self, value: Any) -> dict[str, Any] | None:
        """Describes an array or a number; None for anything else."""
        if value is None or type(value) in (bool, int, str):
            return {"value": value}
        if type(value) is float:
            return {"float": value.hex()}
        if isinstance(value, jax.Array) and jnp.issubdtype(
            value.dtype, jax.dtypes.prng_key
        ):
            implementation = str(jax.random.key_impl(value))
            return {"key": implementation, **self.array(jax.random.key_data(value))}
        if isinstance(value, jax.Array):
            weak = bool(getattr(value, "weak_type", False))
            return {"on": "device", "weak": weak, **self.array(value)}
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
            on = "host" if isinstance(value, np.ndarray) else "scalar"
            return {"on": on, **self.array(value)}
        return None

    def array(self, value: Any) -> dict[str, Any]:
        """Stores the bytes of an array, little-endian, whatever its type."""
        array = np.asarray(value)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        name = f"array{len(self.arrays)}"
        self.arrays[name] = np.frombuffer(array.tobytes(), np.uint8)
        return {"array": name, "dtype": array.dtype.name, "shape": list(array.shape)}


def _value(what: Mapping[str, Any], archive: Archive) -> Any:
    """Makes a value, or says that the file describes none."""
    try:
        return _build(what, archive)
    except (AttributeError, KeyError, RecursionError, TypeError) as problem:
        raise archive.foreign(f"it describes no value ({problem!r})") from None


def _build(what: Mapping[str, Any], archive: Archive) -> Any:
    """Makes the value that `_Writer` described."""
    for kind in (list, tuple):
        if kind.__name__ in what:
            return kind(_build(item, archive) for item in what[kind.__name__])
    if "dict" in what:
        return {key: _build(item, archive) for key, item in what["dict"]}
    if "value" in what:
        return what["value"]
    if "float" in what:
        return float.fromhex(what["float"])
    array = archive.array(what["array"], what["dtype"], what["shape"])
    dtype = array.dtype
    if what.get("on") in ("host", "scalar"):
        return array if what["on"] == "host" else array[()]
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"the file holds {dtype} arrays: call jax.config.update('jax_enable_x64', "
            "True) first"
        )
    if "key" in what:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=what["key"])
    if what["weak"]:  # typed like a Python number: jnp.full makes such arrays
        zeros = jnp.full(array.shape, np.zeros((), dtype).item())
        if zeros.dtype == dtype:
            return zeros.at[...].set(array)
    return jnp.asarray(array)


class _Slot(NamedTuple):
    """A leaf of a tree, or of the value of an NNX variable in it."""

    value: Any
    root: str = ""
    variable: Any = None


def _slots(tree: Any) -> dict[str, _Slot]:
    """Returns all of them by their path."""
    slots = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, arguments.is_nnx):
        name = jax.tree_util.keystr(path)
        if not arguments.is_nnx(leaf):
            slots[name] = _Slot(leaf)
            continue
        for inner, part in nnx.iter_graph(leaf):
            if isinstance(part, nnx.Variable):
                root = ".".join([name, *map(str, inner)])
                value = arguments.read(part)
                for at, x in jax.tree_util.tree_leaves_with_path(value):
                    slots[root + jax.tree_util.keystr(at)] = _Slot(x, root, part)
    return slots


def _type_name(value: Any) -> str:
    named = callable(value) and not arguments.is_nnx(value)
    return getattr(value, "__name__", "function") if named else type(value).__name__
