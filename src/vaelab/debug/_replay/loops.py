"""Loops, stepped through to the round in which something becomes non-finite.

Each round runs compiled. A round that returns something non-finite is run again one
equation at a time, until rounds repeat what earlier ones have shown. Where many in a
row tell nothing, the rest runs in one call up to the next that does; see `stretches`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from vaelab.debug._replay.arrays import bad_mask, kinds
from vaelab.debug._replay.events import CLEAN, Taint
from vaelab.debug._replay.shards import Shards
from vaelab.debug._replay.stretches import scan_stretch, while_stretch
from vaelab.debug._trace.jaxprs import open_jaxpr, scan_counts
from vaelab.debug._trace.locate import Frame

if TYPE_CHECKING:
    from vaelab.debug._replay.interpreter import Replay

__all__ = ["ENTERED"]

# So many rounds with the same pattern of NaNs and Infs are looked at in detail.
_ROUNDS_ALIKE = 3
# So many rounds are looked at in detail though nothing bad comes out of them.
_CURIOUS_ROUNDS = 64
# So many rounds in a row tell nothing before others are taken in one call.
_PATIENCE = 32
_NO_END = np.iinfo(np.int32).max


class _Rounds:
    """The rounds of one loop.

    Args:
        replay: the replay that enters the loop.
        frame: the jaxpr that the loop is in.
        eqn: the loop.
        kind: `"scan"` or `"while"`.
        closed: the jaxpr of one round.
        carried: which of its operands, and of its results, are carried on.
    """

    def __init__(
        self,
        replay: "Replay",
        frame: Frame,
        eqn: Any,
        kind: str,
        closed: Any,
        carried: tuple[slice, slice],
    ) -> None:
        self.replay, self.frame, self.eqn, self.kind = replay, frame, eqn, kind
        self.closed, self.carried = closed, carried
        self.jaxpr, self.consts = open_jaxpr(closed)
        self.seen: dict[Any, list[list[Taint]]] = {}
        self.curious_rounds = _CURIOUS_ROUNDS
        self.steady: Any = None
        self.in_a_row = 0

    def run(
        self, i: int, args: list[Any], taints: list[Taint]
    ) -> tuple[list[Any], list[Taint]]:
        """Runs round i; returns what it returns, and the taints."""
        frame = Frame(self.jaxpr, self.frame, self.eqn, self.kind, iteration=i)
        watch, events = self.replay.watch, self.replay.events
        is_watched = watch is not None and frame.key in watch.prefixes
        is_curious = events is not None and self.replay.curious and self.curious_rounds
        if is_watched or is_curious:
            self.curious_rounds -= bool(is_curious)
            self._tells_something()
            return self.replay.run(frame, self.consts, args, taints)
        outs = self.replay.call(self.closed, args)
        if events is None:
            self._tells_nothing(())
            return outs, [CLEAN] * len(outs)
        bad = [kinds(out) for out in outs]
        pattern = tuple(map(kinds, args)), tuple(bad)
        if not any(map(any, bad)):
            self._tells_nothing(pattern)
            return outs, [CLEAN] * len(outs)
        known = self.seen.setdefault(pattern, [])
        if len(known) >= _ROUNDS_ALIKE:
            self._tells_nothing(pattern)
            return outs, known[-1]
        self._tells_something()
        stepped, new = self.replay.run(frame, self.consts, args, taints)
        inherited = CLEAN.union(*taints)
        new = [
            CLEAN
            if not any(kind)
            else taint
            or inherited
            or events.compiled_only(self.frame, self.eqn, args, taints, out)
            for kind, taint, out in zip(bad, new, outs, strict=True)
        ]
        known.append(new)
        return outs, new

    def _tells_something(self) -> None:
        self.steady, self.in_a_row = None, 0

    def _tells_nothing(self, pattern: Any) -> None:
        self.in_a_row = self.in_a_row + 1 if pattern == self.steady else 1
        self.steady = pattern

    def skipped(
        self,
        number: int,
        stop: int,
        carry: list[Any],
        around: Any,
        others: slice,
        make: Callable[[], Any],
    ) -> tuple[int, list[Any]]:
        """Takes rounds that tell nothing, if many did so before.

        Args:
            number: of the next round, in the order in which they are taken.
            stop: the round before which to stop at the latest.
            carry: what it is given by the round before.
            around: what all rounds are given.
            others: which operands differ from round to round, and are not carried.
            make: makes the compiled call.

        Returns:
            The number of the next round then, and what it is given.
        """
        world = self.replay.world
        if isinstance(world, Shards) or self.in_a_row < _PATIENCE or stop <= number:
            return number, carry
        self.in_a_row, expected = 0, None
        if self.replay.events is not None:
            ins, outs = self.steady
            taken, kept = self.carried
            if ins[taken] != outs[kept]:
                return number, carry
            rest = outs[kept.stop :]
            expected = np.array([*outs[kept], *ins[others], *rest], bool).reshape(-1, 2)
        stretch = world.stretch(self.closed, make)
        number, carry = stretch(np.int32(number), stop, carry, around, expected)
        return int(number), list(carry)

    def next_watched(self, number: int, place: Callable[[int], int], end: int) -> int:
        """The next round that is watched; the end if none is, or all are events'."""
        watch = self.replay.watch
        if watch is None:
            return end
        key = self.frame.key
        inside = {
            prefix[len(key)][1]
            for prefix in watch.prefixes
            if len(prefix) > len(key)
            and prefix[: len(key)] == key
            and prefix[len(key)][0] == id(self.eqn)
        }
        later = (place(i) for i in inside if i is not None)
        return min((k for k in later if k >= number), default=end)


def _scan(
    replay: "Replay", frame: Frame, eqn: Any, ins: list[Any], its: list[Taint]
) -> tuple[list[Any], list[Taint]]:
    num_consts, num_carry = scan_counts(eqn)
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    split = num_consts + num_carry
    consts, carry, xs = ins[:num_consts], ins[num_consts:split], ins[split:]
    const_taints, taints, xs_taints = (
        its[:num_consts],
        its[num_consts:split],
        its[split:],
    )
    closed = eqn.params["jaxpr"]
    carried = slice(num_consts, split), slice(0, num_carry)
    rounds = _Rounds(replay, frame, eqn, "scan", closed, carried)
    ys: list[list[Any]] = [[] for _ in eqn.outvars[num_carry:]]
    ys_taints: list[Taint] = [CLEAN] * len(ys)

    def place(number: int) -> int:
        """The position in `xs` of a round, and the other way around."""
        return length - 1 - number if reverse else number

    number = 0
    while number < length:
        stop = rounds.next_watched(number, place, length)
        number, carry = rounds.skipped(
            number,
            stop,
            carry,
            (consts, xs),
            slice(split, None),
            lambda: scan_stretch(closed, num_carry, length, reverse),
        )
        if number >= length:
            break
        i = place(number)
        number += 1
        elements = [
            replay.world.element(x, i, atom)
            for x, atom in zip(xs, eqn.invars[split:], strict=True)
        ]
        element_taints = [
            taint if taint and any(kinds(x)) else CLEAN
            for x, taint in zip(elements, xs_taints, strict=True)
        ]
        outs, new = rounds.run(
            i,
            [*consts, *carry, *elements],
            [*const_taints, *taints, *element_taints],
        )
        carry, taints = outs[:num_carry], new[:num_carry]
        ys_taints = [
            old | mark for old, mark in zip(ys_taints, new[num_carry:], strict=True)
        ]
        if isinstance(replay.world, Shards):
            for y, out in zip(ys, outs[num_carry:], strict=True):
                y.insert(0 if reverse else len(y), out)
        if replay.watch is not None and replay.watch.done:
            break
    stacked: list[Any] = [None] * len(ys)
    if isinstance(replay.world, Shards):
        stacked = [replay.world.stacked(y) if y else None for y in ys]
    return [*carry, *stacked], [*taints, *ys_taints]


def _while(
    replay: "Replay", frame: Frame, eqn: Any, ins: list[Any], its: list[Taint]
) -> tuple[list[Any], list[Taint]]:
    params = eqn.params
    in_cond, in_body = params["cond_nconsts"], params["body_nconsts"]
    split = in_cond + in_body
    cond_consts, consts, carry = ins[:in_cond], ins[in_cond:split], ins[split:]
    const_taints, taints = its[in_cond:split], its[split:]
    cond, body = params["cond_jaxpr"], params["body_jaxpr"]
    carried = slice(in_body, None), slice(0, len(carry))
    rounds = _Rounds(replay, frame, eqn, "while", body, carried)
    is_batched = bool(cond.out_avals[0].shape)
    i = 0
    while True:
        if not is_batched:
            i, carry = rounds.skipped(
                i,
                rounds.next_watched(i, int, _NO_END),
                carry,
                (cond_consts, consts),
                slice(0, 0),
                lambda: while_stretch(cond, body),
            )
        goes_on = replay.call(cond, [*cond_consts, *carry])[0]
        if not np.asarray(goes_on).any():
            break
        outs, new = rounds.run(i, [*consts, *carry], [*const_taints, *taints])
        if is_batched:  # a loop over a batch, some rows of which have finished
            pairs = zip(carry, taints, outs, new, strict=True)
            chosen = [_chosen(np.asarray(goes_on), *pair) for pair in pairs]
            outs, new = [out for out, _ in chosen], [taint for _, taint in chosen]
        carry, taints = outs, new
        i += 1
        if replay.watch is not None and replay.watch.done:
            break
    return list(carry), list(taints)


def _chosen(
    goes_on: np.ndarray, old: Any, old_taint: Taint, new: Any, new_taint: Taint
) -> tuple[Any, Taint]:
    """What a batched loop carries on: new rows where it goes on, else the old ones."""
    mask = goes_on.reshape(goes_on.shape + (1,) * (np.ndim(new) - goes_on.ndim))
    taint = CLEAN
    if old_taint and (bad_mask(old) & ~mask).any():
        taint |= old_taint
    if new_taint and (bad_mask(new) & mask).any():
        taint |= new_taint
    return jnp.where(mask, new, old), taint


def _shard_map(
    replay: "Replay", frame: Frame, eqn: Any, ins: list[Any], its: list[Taint]
) -> tuple[list[Any], list[Taint]]:
    shards = Shards(eqn)
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    child = Frame(jaxpr, frame, eqn, "shard_map")
    return replay.within(shards).run(child, consts, shards.split(ins), its)


ENTERED: dict[str, Any] = {"scan": _scan, "while": _while, "shard_map": _shard_map}
