"""A loss that leaps without a NaN: at which operation the leap begins.

Two calls of one step are compared, operation by operation: the step whose loss leaps,
and the step before it. An operation *amplifies* if its result grows more, from the one
to the other, than anything that goes into it:

    amplification = growth of the result / what the operands account for

where an array's growth is the ratio of its largest moduli. The operands account for the
largest of their growths; in a product for the product of them, and in a power for the
power, so that squaring a number that has grown is no amplification. The path from the
loss back along what grew most is the chain; the operation on it that amplifies most is
named. If the arguments themselves have grown, the report says which.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

from vaelab.debug._attempt import attempt
from vaelab.debug._leaps import Leap
from vaelab.debug._replay.arrays import largest
from vaelab.debug._replay.interpreter import Replay
from vaelab.debug._show.html import spike_as_html
from vaelab.debug._show.text import spike_as_text
from vaelab.debug._trace.call import PureCall
from vaelab.debug._trace.jaxprs import fresh_traces, open_jaxpr, silenced
from vaelab.debug._trace.locate import Frame, place_to_report
from vaelab.debug._trace.modules import module_scopes
from vaelab.debug._trace.patches import patched
from vaelab.debug._verify.spikes import advice_on_spike
from vaelab.debug.report import Origin

__all__ = ["Growth", "LossSpikeError", "SpikeReport"]

_LONGEST = 6
_GREW = 2.0  # what is less is not worth a word


@dataclass(frozen=True)
class Growth:
    """One operation on the way to the loss.

    Attributes:
        primitive: the operation, such as `"exp"`.
        file: the file of the user's line; None if there is none.
        line: its number.
        function: the function it is in.
        source: its text.
        module: the NNX path of the module, or None.
        inside: the line of a package that the user's line led to, if there is one.
        amplification: how much more its result grew than what went into it.
        before: the largest modulus of the result in the step before; None if there is
            no such step, and then the amplification is that of the step itself.
        after: the largest modulus of the result in the step whose loss leaps.
    """

    primitive: str
    file: str | None
    line: int | None
    function: str | None
    source: str | None
    module: str | None
    inside: Origin | None
    amplification: float
    before: float | None
    after: float


@dataclass(frozen=True)
class SpikeReport:
    """Where a leap of the loss begins.

    Attributes:
        loss: of the step.
        usual: the median of the losses before.
        largest: the operation that amplifies most; if none does, the one that an
            argument which has grown enters; else None.
        chain: the operations on the way to the loss that amplify, in their order.
        grown: the path and the growth of the arguments that have grown, most first.
        advice: what would have kept the loss from leaping; empty if nothing did.
        tried: how that was tried, and what the loss was.
    """

    loss: float
    usual: float
    largest: Growth | None
    chain: tuple[Growth, ...]
    grown: tuple[tuple[str, float], ...]
    advice: str = ""
    tried: str = ""

    def __str__(self) -> str:
        return spike_as_text(self)

    def _repr_html_(self) -> str:
        return spike_as_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


class LossSpikeError(ArithmeticError):
    """A step whose loss leaps, though everything is finite.

    Attributes:
        report: where the leap begins; None if there is no explanation.
        step: the number of the step, counted from 0.
    """

    def __init__(
        self, message: str, report: SpikeReport | None = None, step: int | None = None
    ) -> None:
        super().__init__(message)
        self.report = report
        self.step = step


Call = tuple[tuple[Any, ...], Mapping[str, Any]]


def explain_spike(
    step: Callable[..., Any], leap: Leap, call: Call, before: Call | None
) -> SpikeReport:
    """Compares a step whose loss leaps with the step before it.

    Args:
        step: the function.
        leap: its loss, and how to pick it from what the function returns.
        call: the arguments and keyword arguments of the step whose loss leaps.
        before: those of the step before; None if there is none.
    """

    @functools.wraps(step)
    def loss_of(*args: Any, **kwargs: Any) -> Any:
        return leap.pick(step(*args, **kwargs))

    now = PureCall(loss_of, call[0], dict(call[1]))
    then = PureCall(loss_of, before[0], dict(before[1])) if before else None
    with jax.debug_nans(False), jax.debug_infs(False):
        end, measures, run = _measured(now)
        known: dict[Any, float] = {}
        if then is not None:
            _, old, _ = _measured(then)
            # A step that took another branch of a cond cannot be compared with.
            if [m.name for m in old] == [m.name for m in measures]:
                known = {m.key: m.size for m in old}
        advice, tried = attempt(
            lambda: advice_on_spike(
                now, then, lambda leaves: float(run(*leaves)[0]), leap.loss, leap.usual
            ),
            ("", ""),
            [],
        )
    path = _path(end, known)
    chain = [_growth_of(measure, known) for measure in reversed(path)]
    kept = sorted(chain, key=lambda g: -g.amplification)[:_LONGEST]
    kept = [growth for growth in kept if growth.amplification >= _GREW]
    shown = tuple(g for g in chain if any(g is k for k in kept))
    grown = _grown(end, known)
    largest = next(iter(kept or (chain if grown else [])), None)
    return SpikeReport(leap.loss, leap.usual, largest, shown, grown, advice, tried)


@dataclass(eq=False, frozen=True)
class _Measure:
    """How large an array is.

    Attributes:
        key: the same for the same array of another call.
        size: its largest finite modulus.
        frame: where it is computed.
        eqn: the operation; None for an argument.
        parents: its operands.
        argument: the path of an argument.
    """

    key: Any
    size: float
    frame: Frame
    eqn: Any = None
    parents: tuple["_Measure", ...] = ()
    argument: str | None = None

    @property
    def name(self) -> str | None:
        """The operation, or the argument."""
        return self.argument if self.eqn is None else self.eqn.primitive.name


class _Measuring(Replay):
    """A replay in which each array carries its measure where others have a taint."""

    def __init__(self) -> None:
        super().__init__()
        self.measures: list[_Measure] = []

    def _equation(
        self, frame: Frame, eqn: Any, ins: list[Any], its: list[Any], live: list[bool]
    ) -> tuple[list[Any], list[Any]]:
        outs, marks = super()._equation(frame, eqn, ins, its, live)
        if any(marks):  # of a call, whose equations are measured
            return outs, marks
        parents = tuple(dict.fromkeys(m for mark in its for m in mark))
        size = max((largest(out) for out in outs), default=0.0)
        measure = _Measure(len(self.measures), size, frame, eqn, parents)
        self.measures.append(measure)
        return outs, [frozenset({measure})] * len(outs)


def _measured(
    call: PureCall,
) -> tuple[_Measure | None, list[_Measure], Callable[..., list[jax.Array]]]:
    """The measure of the loss, all that were taken on the way to it, and the call."""
    with fresh_traces(), patched(module_scopes):
        closed = jax.make_jaxpr(call.flat)(call.leaves)
    closed = silenced(closed)[0]
    jaxpr, consts = open_jaxpr(closed)
    top, replay = Frame(jaxpr), _Measuring()
    arguments = [
        _Measure(path, largest(x), top, argument=path)
        for x, path in zip(call.leaves, call.paths, strict=True)
    ]
    marks: list[Any] = [frozenset({measure}) for measure in arguments]
    wanted = [k == 0 for k in range(len(jaxpr.outvars))]
    _, found = replay.run(top, consts, call.leaves, marks, wanted)
    end: Any = next(iter(found[0]), None)
    return end, arguments + replay.measures, jax.jit(core.jaxpr_as_fun(closed))


def _growth(measure: _Measure, known: Mapping[Any, float]) -> float:
    """The ratio to the step before; without one, the size itself."""
    if not known:
        return measure.size
    before = known.get(measure.key, 0.0)
    return measure.size / before if before else 1.0


def _path(end: _Measure | None, known: Mapping[Any, float]) -> list[_Measure]:
    """From the loss back along what grew most, to where the growth begins."""
    path = []
    while end is not None and end.eqn is not None:
        path.append(end)
        if _growth(end, known) < _GREW and known:
            break
        end = max(end.parents, key=lambda m: _growth(m, known), default=None)
    return path


def _growth_of(measure: _Measure, known: Mapping[Any, float]) -> Growth:
    place = place_to_report(measure.frame, measure.eqn)
    return Growth(
        measure.eqn.primitive.name,
        place.file,
        place.line,
        place.function,
        place.source,
        place.module,
        place.inside,
        _growth(measure, known) / _accounted_for(measure, known),
        known.get(measure.key),
        measure.size,
    )


def _accounted_for(measure: _Measure, known: Mapping[Any, float]) -> float:
    """How much a result grows because its operands do."""
    least = 1.0 if known else float(np.finfo(np.float32).tiny)
    growths = [max(_growth(m, known), least) for m in measure.parents]
    if not growths:  # of constants alone
        return max(_growth(measure, known), least)
    name = measure.eqn.primitive.name
    if name in ("mul", "dot_general"):
        return math.prod(growths)
    power = {"square": 2, "integer_pow": measure.eqn.params.get("y", 1)}.get(name, 1)
    return max(growths) ** max(power, 1)


def _grown(
    end: _Measure | None, known: Mapping[Any, float]
) -> tuple[tuple[str, float], ...]:
    """The arguments of the loss that have grown."""
    found: dict[str, float] = {}
    todo, seen = [end] if end is not None and known else [], set()
    while todo:
        measure = todo.pop()
        if measure in seen:
            continue
        seen.add(measure)
        todo += measure.parents
        if measure.argument is not None and _growth(measure, known) >= _GREW:
            found[measure.argument] = _growth(measure, known)
    most = sorted(found.items(), key=lambda pair: -pair[1])
    return tuple(most[:_LONGEST])
