"""The user's own functions with other expressions in them, for this thread alone.

Each expression to be changed becomes `old if nothing is tried, else the new one`: the
function is compiled from its source with a switch in these places, and the code of the
living function objects is exchanged for a moment. The switch is on only where a trial
is under way, so other threads go on computing what they did before.
"""

import __future__

import ast
import contextlib
import copy
import gc
import threading
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from vaelab.debug._diagnosis.sketch import Repair
from vaelab.debug._trace.source import parents, parsed

__all__ = ["Untestable", "Variants"]

_tried: ContextVar[frozenset[int]] = ContextVar(
    "vaelab_debug_tried", default=frozenset()
)
_lock = threading.RLock()
_MARK = "\0vaelab.debug"


class Untestable(Exception):
    """The functions cannot be compiled anew with other expressions."""


class _Switch:
    """Equal to the number of each repair that is being tried in this thread."""

    def __eq__(self, number: object) -> bool:
        return number in _tried.get()

    def __hash__(self) -> int:
        return hash(_MARK)


_SWITCH = _Switch()


class Variants:
    """Repairs that can be switched on.

    Args:
        file: the file that all of them are in.
        repairs: the repairs, by their numbers.
        running: code objects of that file which run during the call.

    Raises:
        Untestable: no function of the source is the one that runs.
    """

    def __init__(
        self,
        file: str,
        repairs: Mapping[int, Repair],
        running: Sequence[types.CodeType],
    ) -> None:
        self.file = file
        tree = parsed(file)
        if tree is None:
            raise Untestable(f"the source of {file} is not there")
        changes: dict[Any, dict[Any, list[tuple[int, str]]]] = {}
        for number, repair in repairs.items():
            for node, code in repair.changes:
                top = _top(tree, node)
                places = changes.setdefault(top, {})
                places.setdefault(node, []).append((number, code))
        self.codes: dict[Any, types.CodeType] = {}
        for top, places in changes.items():
            self._compile(tree, top, places)
        if not self.codes:
            raise Untestable("the expression is in no function")
        known = {id(c): c for code in running for c in (code, *_inside(code))}
        self.exchanges = {
            key: (code, new)
            for key, code in known.items()
            if (new := self._new(code)) is not code
        }

    def _compile(self, tree: Any, top: Any, places: dict[Any, Any]) -> None:
        """Compiles one statement of the module anew, and keeps the codes in it."""
        twin = copy.deepcopy(top)
        twins = dict(zip(ast.walk(top), ast.walk(twin), strict=True))
        # Inner expressions first: an outer one then has the switched ones inside.
        for node in sorted(places, key=_size):
            new: Any = twins[node]
            old = copy.copy(new)
            for number, code in reversed(places[node]):
                test = ast.Compare(
                    ast.Constant(_MARK), [ast.Eq()], [ast.Constant(number)]
                )
                body = ast.parse(code, mode="eval").body
                for part in ast.walk(body):
                    ast.copy_location(part, node)
                old = ast.IfExp(test, body, old)
                ast.copy_location(old, node)
            _replace(twin, new, old)
        ast.fix_missing_locations(twin)
        module = ast.Module([twin], [])
        flags = 0
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                for alias in node.names:
                    flags |= getattr(__future__, alias.name).compiler_flag
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            code = compile(module, self.file, "exec", flags, dont_inherit=True)
        for inner in _inside(code):
            if _MARK in inner.co_consts:
                consts = tuple(_SWITCH if c == _MARK else c for c in inner.co_consts)
                self.codes[_key(inner)] = inner.replace(co_consts=consts)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, the functions have the switches in them."""
        with _lock:
            exchanged: list[tuple[Any, types.CodeType]] = []
            try:
                for function in _functions([old for old, _ in self.exchanges.values()]):
                    old, new = self.exchanges[id(function.__code__)]
                    exchanged.append((function, old))
                    function.__code__ = new
                if not exchanged:
                    raise Untestable("no function that runs comes from this source")
                yield
            finally:
                for function, old in exchanged:
                    function.__code__ = old

    def _new(self, code: types.CodeType) -> types.CodeType:
        """A code with the switches, in the functions that it defines as well."""
        found = self.codes.get(_key(code))
        if found is not None and found.co_freevars == code.co_freevars:
            return found
        consts = tuple(
            self._new(c) if isinstance(c, types.CodeType) else c for c in code.co_consts
        )
        if all(new is old for new, old in zip(consts, code.co_consts, strict=True)):
            return code
        return code.replace(co_consts=consts)

    @staticmethod
    @contextlib.contextmanager
    def tried(*numbers: int) -> Iterator[None]:
        """Inside, these repairs are switched on, in this thread."""
        token = _tried.set(frozenset(numbers))
        try:
            yield
        finally:
            _tried.reset(token)


def _key(code: types.CodeType) -> tuple[Any, ...]:
    """Tells the functions of a file apart, with switches in them or without."""
    span: Any = None
    if code.co_name == "<lambda>":  # there may be several on a line
        known = [
            (first, last)
            for _, _, first, last in code.co_positions()
            if first is not None and last is not None and first != last
        ]
        starts, ends = zip(*known, strict=True) if known else ((0,), (0,))
        span = min(starts), max(ends)
    return code.co_name, code.co_firstlineno, code.co_argcount, span


def _inside(code: types.CodeType) -> Iterator[types.CodeType]:
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield const
            yield from _inside(const)


def _functions(codes: list[types.CodeType]) -> list[Any]:
    """The living functions that have one of these codes."""
    known = set(map(id, codes))
    return [
        thing
        for thing in gc.get_referrers(*codes)
        if type(thing) is types.FunctionType and id(thing.__code__) in known
    ]


def _top(tree: Any, node: Any) -> Any:
    """The statement of the module that a node is in."""
    around = parents(tree)
    while around[node] is not tree:
        node = around[node]
    return node


def _size(node: Any) -> tuple[int, int]:
    return (
        (node.end_lineno or 0) - node.lineno,
        (node.end_col_offset or 0) - node.col_offset,
    )


def _replace(tree: Any, old: Any, new: Any) -> None:
    """Puts one node in the place of another."""
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if value is old:
                setattr(node, field, new)
                return
            if isinstance(value, list):
                for i, item in enumerate(value):
                    if item is old:
                        value[i] = new
                        return
