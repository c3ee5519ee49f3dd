"""Where the operands of an operation were computed, across calls and loops."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vaelab.debug._replay.events import Event
from vaelab.debug._trace.jaxprs import call_body, is_literal, open_jaxpr, scan_counts
from vaelab.debug._trace.locate import Frame, place_of
from vaelab.debug.report import Origin

__all__ = ["Definition", "Origins"]

# These change how an array is laid out, and compute nothing.
_MOVES = frozenset(
    """broadcast_in_dim convert_element_type copy copy_p expand_dims pbroadcast pcast
    pvary reshape squeeze stop_gradient transpose""".split()
)
_MOST_STEPS = 2000
_MOST_LINE_INPUTS = 6
_MOST_VISITED = 1000  # through the rounds of a long loop, back to its first


@dataclass(frozen=True)
class Definition:
    """What an array is: the result of an equation, an argument, or a constant.

    Attributes:
        frame: the jaxpr in which it is made.
        variable: its variable there.
        eqn: the equation that makes it; None for an argument or a constant.
        argument: its number, for an argument of the call.
    """

    frame: Frame
    variable: Any
    eqn: Any = None
    argument: int | None = None

    @property
    def is_constant(self) -> bool:
        """Whether no equation made it, and it is no argument."""
        return self.eqn is None and self.argument is None

    @property
    def key(self) -> tuple[Any, Any]:
        """What to watch for in a replay."""
        return self.frame.key, self.variable


class Origins:
    """Finds definitions.

    Args:
        paths: the paths of the call's arguments.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.makers: dict[int, dict[Any, Any]] = {}

    def of_operands(self, event: Event) -> list[Origin | None]:
        """The origin of each operand of an event."""
        if event.eqn is None or len(event.eqn.invars) != len(event.operands):
            return [None] * len(event.operands)
        found = [self.definition(event.frame, atom) for atom in event.eqn.invars]
        return [self.origin(definition) for definition in found]

    def origin(self, definition: Definition) -> Origin:
        """A definition in words."""
        if definition.argument is not None:
            return Origin(argument=self.paths[definition.argument])
        if definition.eqn is None:
            return Origin()
        place = place_of(definition.frame, definition.eqn)
        name = definition.eqn.primitive.name
        return Origin(place.file, place.line, place.source, place.module, name)

    def entering(self, event: Event) -> list[Definition]:
        """The values that the event's source line takes from other lines.

        Of a backward pass the cotangents are left out: they are no values that the user
        would know. Constants are left out too.
        """
        if event.eqn is None:
            return []
        where = place_of(event.frame, event.eqn).where
        found: dict[Any, Definition] = {}
        seen: set[Any] = set()
        todo = [(event.frame, atom) for atom in reversed(event.eqn.invars)]
        while todo and len(found) < _MOST_LINE_INPUTS and len(seen) < _MOST_VISITED:
            frame, atom = todo.pop()
            definition = self.definition(frame, atom)
            if definition.key in seen:
                continue
            seen.add(definition.key)
            if definition.argument is not None:
                found[definition.key] = definition
            elif definition.eqn is not None:
                frame, eqn = definition.frame, definition.eqn
                if place_of(frame, eqn).where == where:
                    todo += [(frame, atom) for atom in reversed(eqn.invars)]
                elif not frame.is_backward(eqn):
                    found[definition.key] = definition
        return list(found.values())

    def ancestors(self, event: Event, most: int = 200) -> Iterator[tuple[Frame, Any]]:
        """The equations that an event's operands come from, the nearest first."""
        if event.eqn is None:
            return
        seen: set[Any] = set()
        todo = [(event.frame, atom) for atom in event.eqn.invars]
        while todo and most:
            definition = self.definition(*todo.pop(0))
            if definition.eqn is None or definition.key in seen:
                continue
            seen.add(definition.key)
            most -= 1
            yield definition.frame, definition.eqn
            todo += [(definition.frame, atom) for atom in definition.eqn.invars]

    def definition(self, frame: Frame, atom: Any) -> Definition:
        """Follows an operand to the equation that computed it."""
        rounds: list[int] = []  # which elements of the scans' results are meant
        for _ in range(_MOST_STEPS):
            if is_literal(atom):
                return Definition(frame, id(atom))
            eqn = self._maker(frame.jaxpr, atom)
            if eqn is None:
                step = _outwards(frame, atom, rounds)
                if isinstance(step, Definition):
                    return step
            elif eqn.primitive.name in _MOVES and not is_literal(eqn.invars[0]):
                step = frame, eqn.invars[0]
            elif eqn.primitive.name in _MOVES:
                return Definition(frame, atom)
            else:
                step = _inwards(frame, eqn, atom, rounds)
                if step is None:
                    return Definition(frame, atom, eqn)
            frame, atom = step
        return Definition(frame, atom, self._maker(frame.jaxpr, atom))

    def _maker(self, jaxpr: Any, variable: Any) -> Any:
        if id(jaxpr) not in self.makers:
            self.makers[id(jaxpr)] = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
        return self.makers[id(jaxpr)].get(variable)


def _outwards(
    frame: Frame, variable: Any, rounds: list[int]
) -> tuple[Frame, Any] | Definition:
    """From an argument of a jaxpr to what was passed for it."""
    if variable not in frame.jaxpr.invars:
        return Definition(frame, variable)
    k = frame.jaxpr.invars.index(variable)
    if frame.parent is None:
        return Definition(frame, variable, argument=k)
    eqn = frame.eqn
    if frame.kind == "cond":
        return frame.parent, eqn.invars[k + 1]
    if frame.kind == "while":
        in_cond, in_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        return _carried(frame, eqn.invars[in_cond + k], k - in_body, 1, 0)
    if frame.kind == "scan":
        num_consts, num_carry = scan_counts(eqn)
        if k >= num_consts + num_carry:
            rounds.append(frame.iteration or 0)
            return frame.parent, eqn.invars[k]
        reverse = eqn.params["reverse"]
        first, step = (eqn.params["length"] - 1, -1) if reverse else (0, 1)
        return _carried(frame, eqn.invars[k], k - num_consts, step, first)
    return frame.parent, eqn.invars[k]


def _carried(
    frame: Frame, operand: Any, k: int, step: int, first: int
) -> tuple[Frame, Any]:
    """From what a round is given to the round before, or to the loop's operand."""
    assert frame.parent is not None and frame.iteration is not None
    unchanged = k >= 0 and _carry_out(frame, k) is _carry_in(frame, k)
    if k < 0 or frame.iteration == first or unchanged:
        return frame.parent, operand
    before = frame.iteration - step
    previous = Frame(frame.jaxpr, frame.parent, frame.eqn, frame.kind, before)
    return previous, _carry_out(frame, k)


def _carry_out(frame: Frame, k: int) -> Any:
    return frame.jaxpr.outvars[k]


def _carry_in(frame: Frame, k: int) -> Any:
    if frame.kind == "scan":
        return frame.jaxpr.invars[scan_counts(frame.eqn)[0] + k]
    return frame.jaxpr.invars[frame.eqn.params["body_nconsts"] + k]


def _inwards(
    frame: Frame, eqn: Any, variable: Any, rounds: list[int]
) -> tuple[Frame, Any] | None:
    """From a result of a call or a scan to where it is computed inside."""
    k = eqn.outvars.index(variable)
    body = call_body(eqn)
    if body is not None:
        return Frame(body[0], frame, eqn), body[0].outvars[k]
    name = eqn.primitive.name
    if name == "shard_map":
        jaxpr, _ = open_jaxpr(eqn.params["jaxpr"])
        return Frame(jaxpr, frame, eqn, "shard_map"), jaxpr.outvars[k]
    if name == "scan":
        jaxpr, _ = open_jaxpr(eqn.params["jaxpr"])
        _, num_carry = scan_counts(eqn)
        last = 0 if eqn.params["reverse"] else eqn.params["length"] - 1
        i = rounds.pop() if k >= num_carry and rounds else last
        return Frame(jaxpr, frame, eqn, "scan", max(i, 0)), jaxpr.outvars[k]
    return None
