"""Where an equation comes from: the user's line, the NNX module, the iterations."""

import linecache
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from vaelab.debug._places import is_machinery, is_user_file, names_a_place
from vaelab.debug._trace.jaxprs import frames, name_stack
from vaelab.debug._trace.modules import module_of
from vaelab.debug.report import Origin

__all__ = [
    "Frame",
    "Place",
    "around",
    "is_user_file",
    "place_of",
    "place_to_report",
    "users_first",
]


@dataclass(frozen=True)
class Frame:
    """One jaxpr on the way from the call's own jaxpr to an equation.

    Attributes:
        jaxpr: the open jaxpr.
        parent: the jaxpr that runs this one; None for that of the call itself.
        eqn: the equation of the parent that does.
        kind: `"call"`, `"scan"`, `"while"`, `"cond"` or `"shard_map"`.
        iteration: which round of a loop; of a scan, the position in `xs`.
        branch: which branch of a cond.
    """

    jaxpr: Any
    parent: "Frame | None" = None
    eqn: Any = None
    kind: str = "call"
    iteration: int | None = None
    branch: int = 0

    @property
    def path(self) -> "Iterator[Frame]":
        """This frame and those around it, innermost first."""
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.parent

    @property
    def key(self) -> tuple[tuple[int, int | None, int], ...]:
        """Tells this frame from all others of the same replay."""
        steps = [(id(f.eqn), f.iteration, f.branch) for f in self.path if f.parent]
        return tuple(reversed(steps))

    @property
    def static_key(self) -> tuple[int, ...]:
        """The same for all iterations of the loops around it."""
        return tuple(id(f.eqn) for f in self.path if f.parent)

    @property
    def iterations(self) -> tuple[int, ...]:
        """The iteration of each loop around, outermost first."""
        found = [f.iteration for f in self.path if f.iteration is not None]
        return tuple(reversed(found))

    def names(self, eqn: Any) -> list[tuple[bool, str]]:
        """The name stack of one of its equations, with those of the calls around."""
        eqns = around(self, eqn)
        return [item for e in reversed(eqns) for item in name_stack(e)]

    def is_backward(self, eqn: Any) -> bool:
        """Whether an equation belongs to a backward pass, recomputations apart."""
        names = self.names(eqn)
        transposed = any(is_transform and "transpose" in n for is_transform, n in names)
        return transposed and not is_recomputed(names)


def is_recomputed(names: list[tuple[bool, str]]) -> bool:
    """Whether it is a part of the forward pass that remat runs again."""
    return any("rematted_computation" in name for _, name in names)


@dataclass(frozen=True)
class Place:
    """A line of the user's, and the module it ran in.

    Attributes:
        inside: the line of a library that the user's line led to, if there is one.
    """

    file: str | None
    line: int | None
    function: str | None
    source: str | None
    module: str | None
    inside: Origin | None = None

    @property
    def where(self) -> tuple[str | None, int | None]:
        """File and line."""
        return self.file, self.line


def place_of(frame: Frame, eqn: Any) -> Place:
    """The innermost line outside of JAX, Flax and optax that led to an equation.

    It may be one of another library: two lines of it are two places.
    """
    module = module_of([name for _, name in frame.names(eqn)])
    for file, line, function in _lines(frame, eqn):
        if not is_machinery(file):
            return Place(file, line, _short(function), _source(file, line), module)
    return Place(None, None, None, None, module)


def place_to_report(frame: Frame, eqn: Any) -> Place:
    """The innermost line of the user's own, and the line of a library inside of it.

    Where no line is the user's own, as in a package that is run as a program, it is
    that of `place_of`.
    """
    place, inside = place_of(frame, eqn), None
    for file, line, function in _lines(frame, eqn):
        if is_user_file(file):
            source = _source(file, line)
            return Place(file, line, _short(function), source, place.module, inside)
        if inside is None and names_a_place(file):
            inside = Origin(
                file, line, _source(file, line), primitive=eqn.primitive.name
            )
    known = inside is not None and (inside.file, inside.line) == place.where
    return place if known else replace(place, inside=inside)


def users_first(places: list[Any], file_of: Callable[[Any], str]) -> Any:
    """The innermost of some places that is the user's own; else one of a package.

    Args:
        places: the innermost first.
        file_of: takes a place and returns its file.
    """
    own = [place for place in places if is_user_file(file_of(place))]
    others = [place for place in places if not is_machinery(file_of(place))]
    return next(iter([*own, *others]), None)


def _lines(frame: Frame, eqn: Any) -> Iterator[tuple[str, int, str]]:
    """File, line and function of all frames that led to an equation."""
    for e in around(frame, eqn):
        yield from frames(e)


def _source(file: str, line: int) -> str | None:
    return linecache.getline(file, line).strip() or None


def around(frame: Frame, eqn: Any) -> list[Any]:
    """An equation that is not None, and those that run its frames, innermost first."""
    return [e for e in (eqn, *(f.eqn for f in frame.path)) if e is not None]


def _short(function: str) -> str:
    """`loss` for `main.<locals>.loss`."""
    return function.rpartition("<locals>.")[2]
