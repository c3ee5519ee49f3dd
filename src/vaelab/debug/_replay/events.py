"""The births of NaNs and Infs, and which of them each array descends from.

A *taint* is the set of events and sources that an array's non-finite elements descend
from. What matters is this lineage and not the order in time: a masked NaN may come
first and never reach an output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaelab.debug._replay.arrays import (
    Kinds,
    bad_mask,
    first_bad,
    kinds,
    summary,
    value_at,
)
from vaelab.debug._trace.locate import Frame
from vaelab.debug.report import ArraySummary

__all__ = ["CLEAN", "Event", "Events", "Source", "Taint"]

# The result's element at an index depends on the operands' elements there alone.
_ELEMENTWISE = frozenset(
    """abs acos acosh add add_any asin asinh atan atan2 atanh cbrt ceil clamp complex
    conj convert_element_type copy copy_p cos cosh digamma div erf erf_inv erfc exp exp2
    expm1 floor imag integer_pow lgamma log log1p logistic max min mul neg nextafter pow
    real reduce_precision rem round rsqrt select_n sign sin sinh sqrt square sub tan
    tanh""".split()
)


# Their results are finite whatever goes in, and decide what the program does next.
_COMPARISONS = frozenset("argmax argmin eq ge gt is_finite le lt ne".split())


@dataclass(eq=False, frozen=True)
class Source:
    """A non-finite value that no operation made: an argument or a constant.

    Attributes:
        kind: `"nan"` or `"inf"`.
        argument: its path; None for a constant of the program.
        leaf: its number among the arguments.
    """

    kind: str
    argument: str | None = None
    leaf: int | None = None


Taint = frozenset["Event | Source"]
CLEAN: Taint = frozenset()
Bind = Callable[[Any, list[Any]], list[Any]]


@dataclass(eq=False)
class Event:
    """An operation whose result is non-finite in a new way.

    Attributes:
        number: events are counted in the order in which they happen.
        kind: `"nan"` or `"inf"`.
        frame: the jaxpr that the operation is in, and the calls and loops around.
        eqn: the operation.
        parents: what its non-finite operands descend from; empty for a birth.
        operands: what went in.
        result: what came out.
        source: the argument or constant, if the event is that it was used first here.
        compiled_only: the compiled operation is non-finite, its parts one by one are
            not.
    """

    number: int
    kind: str
    frame: Frame
    eqn: Any
    parents: Taint
    operands: tuple[ArraySummary, ...]
    result: ArraySummary
    source: Source | None = None
    compiled_only: bool = False

    @property
    def primitive(self) -> str:
        """The operation's name."""
        return self.eqn.primitive.name if self.eqn is not None else "return"

    @property
    def is_constant(self) -> bool:
        """Whether it only says that a constant of the program is non-finite."""
        return self.source is not None and self.source.argument is None


class Events:
    """Collects events; an operation in a loop counts once, in its first iteration."""

    def __init__(self) -> None:
        self.found: dict[Any, Event] = {}
        self.steering: Taint = CLEAN  # what comparisons were asked about

    def taints(
        self,
        frame: Frame,
        eqn: Any,
        ins: list[Any],
        its: list[Taint],
        outs: list[Any],
        bind: Bind,
    ) -> list[Taint]:
        """The taint of each result of one operation; `bind` runs it again."""
        out_kinds = [kinds(out) for out in outs]
        if eqn.primitive.name in _COMPARISONS:
            bad = [t for x, t in zip(ins, its, strict=True) if any(kinds(x))]
            self.steering = self.steering.union(*bad)
        return [
            self._taint(frame, eqn, ins, its, outs, k, bind) if any(kind) else CLEAN
            for k, kind in enumerate(out_kinds)
        ]

    def compiled_only(
        self, frame: Frame, eqn: Any, ins: list[Any], its: list[Taint], out: Any
    ) -> Taint:
        """The taint of a result that only the compiled operation makes non-finite."""
        kind = "nan" if kinds(out)[0] else "inf"
        parents = CLEAN.union(*its)
        key = (frame.static_key, id(eqn), kind, "compiled")
        return frozenset(
            {self._event(key, kind, frame, eqn, parents, ins, out, compiled_only=True)}
        )

    def compiled_result(self, frame: Frame, eqn: Any, value: Any) -> Taint:
        """The taint of an output that only the compiled call makes non-finite.

        Args:
            frame: where the output is computed.
            eqn: the operation that does; None if there is none.
            value: the output of the compiled call.
        """
        kind = "nan" if kinds(value)[0] else "inf"
        index = first_bad(value, kind, None)
        result = summary(value, index, value_at(value, index, np.shape(value)))
        made = (len(self.found), kind, frame, eqn, CLEAN, (), result, None, True)
        key = (frame.static_key, id(eqn), "result")
        return frozenset({self.found.setdefault(key, Event(*made))})

    def returned(self, frame: Frame, taint: Taint, value: Any) -> Taint:
        """The taint of an output, in which unused sources count as events."""
        found: Taint = CLEAN
        for item in taint:
            if isinstance(item, Source):
                key = ("returned", item)
                made = (len(self.found), item.kind, frame, None, CLEAN, ())
                event = Event(*made, summary(value), item)
                item = self.found.setdefault(key, event)
            found |= {item}
        return found

    def _taint(
        self,
        frame: Frame,
        eqn: Any,
        ins: list[Any],
        its: list[Taint],
        outs: list[Any],
        k: int,
        bind: Bind,
    ) -> Taint:
        out = outs[k]
        in_kinds = [kinds(x) for x in ins]
        birth = _birth(eqn, ins, in_kinds, outs, k, bind)
        taint: Taint = CLEAN
        place = (frame.static_key, id(eqn))
        if birth.fresh is not None:
            kind = "nan" if (np.isnan(np.asarray(out)) & birth.fresh).any() else "inf"
            new = self._event(
                (*place, kind, "birth"), kind, frame, eqn, CLEAN, ins, out, birth.fresh
            )
            taint |= {new}
        inherited: Taint = CLEAN
        for j in birth.heirs:
            for item in its[j]:
                if isinstance(item, Source):
                    key = (*place, item.kind, item.argument)
                    item = self._event(
                        key, item.kind, frame, eqn, CLEAN, ins, out, source=item
                    )
                inherited |= {item}
        if birth.turned is not None:
            new = self._event(
                (*place, "nan", "turned"),
                "nan",
                frame,
                eqn,
                inherited,
                ins,
                out,
                birth.turned,
            )
            taint |= {new}
        if birth.carried:
            taint |= _of_kinds(inherited, kinds(out))
        return taint

    def _event(
        self,
        key: Any,
        kind: str,
        frame: Frame,
        eqn: Any,
        parents: Taint,
        ins: list[Any],
        out: Any,
        among: np.ndarray | None = None,
        **more: Any,
    ) -> Event:
        if key not in self.found:
            index = first_bad(out, kind, among)
            shape = np.shape(out)
            pointwise = eqn.primitive.name in _ELEMENTWISE
            values = [value_at(x, index, shape) if pointwise else None for x in ins]
            bad = (bad_mask(out) if among is None else among) if pointwise else None
            self.found[key] = Event(
                len(self.found),
                kind,
                frame,
                eqn,
                parents,
                tuple(
                    summary(x, index, value, bad=bad)
                    for x, value in zip(ins, values, strict=True)
                ),
                summary(out, index, value_at(out, index, shape)),
                **more,
            )
        return self.found[key]


def _of_kinds(taint: Taint, kinds_of_out: Kinds) -> Taint:
    """Without the events whose kind the result has none of: those were masked."""
    nan, inf = kinds_of_out
    kept = frozenset(t for t in taint if (nan if t.kind == "nan" else inf))
    return kept or taint


@dataclass(frozen=True)
class _Birth:
    """What is new about a result.

    Attributes:
        fresh: the elements that are non-finite though nothing that went in was.
        turned: the elements that are NaN though what went in was Inf at most.
        carried: whether there are others, which were like that before.
        heirs: the operands that these, and `turned`, come from.
    """

    fresh: np.ndarray | None
    turned: np.ndarray | None
    carried: bool
    heirs: list[int]


def _birth(
    eqn: Any,
    ins: list[Any],
    in_kinds: list[Kinds],
    outs: list[Any],
    k: int,
    bind: Bind,
) -> _Birth:
    out = np.asarray(outs[k])
    bad = bad_mask(outs[k])
    suspects = [j for j, kind in enumerate(in_kinds) if any(kind)]
    if not suspects:
        return _Birth(bad, None, False, [])
    if eqn.primitive.name in _ELEMENTWISE:
        masks = {j: _aligned(bad_mask(ins[j]), out.shape) for j in suspects}
        nans = {j: _aligned(np.isnan(np.asarray(ins[j])), out.shape) for j in suspects}
        if eqn.primitive.name == "select_n":
            which = _aligned(np.asarray(ins[0]).astype(int), out.shape)
            masks = {j: mask & (which == j - 1) for j, mask in masks.items()}
            nans = {j: mask & (which == j - 1) for j, mask in nans.items()}
        before = np.any(list(masks.values()), axis=0)
        nan_before = np.any(list(nans.values()), axis=0)
        fresh, turned = bad & ~before, np.isnan(out) & before & ~nan_before
        heirs = [j for j in suspects if (masks[j] & bad).any()]
        return _Birth(
            fresh if fresh.any() else None,
            turned if turned.any() else None,
            bool((bad & before & ~turned).any()),
            heirs,
        )
    heirs = _heirs(eqn, ins, suspects, k, bind) if len(suspects) > 1 else suspects
    nan_in = any(in_kinds[j][0] for j in heirs)
    turned = np.isnan(out) if np.isnan(out).any() and not nan_in else None
    return _Birth(None, turned, turned is None or bool((bad & ~turned).any()), heirs)


def _heirs(
    eqn: Any, ins: list[Any], suspects: list[int], k: int, bind: Bind
) -> list[int]:
    """The non-finite operands that matter: alone, each spoils the result."""
    found = []
    for j in suspects:
        alone = [
            _finite(x) if i in suspects and i != j else x for i, x in enumerate(ins)
        ]
        try:
            if any(kinds(bind(eqn, alone)[k])):
                found.append(j)
        except Exception:  # some operations cannot be run apart: then all of them count
            return suspects
    return found or suspects


def _finite(array: Any) -> Any:
    values = np.asarray(array)
    return np.where(np.isfinite(values), values, np.ones((), values.dtype)).astype(
        values.dtype
    )


def _aligned(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of an operand as one of the result; shards have a leading axis."""
    if mask.ndim and mask.ndim < len(shape):
        mask = mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    return np.broadcast_to(mask, shape)
