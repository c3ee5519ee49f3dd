"""Loops, stepped through to the round in which something becomes non-finite.

Each round runs compiled. A round that returns something non-finite is run again one
equation at a time, until rounds repeat what earlier ones have shown.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vaelab.debug._replay.arrays import bad_mask, kinds
from vaelab.debug._replay.events import CLEAN, Taint
from vaelab.debug._replay.shards import Shards
from vaelab.debug._trace.jaxprs import open_jaxpr, scan_counts
from vaelab.debug._trace.locate import Frame

__all__ = ["ENTERED"]

# So many rounds with the same pattern of NaNs and Infs are looked at in detail.
_ROUNDS_ALIKE = 3
# So many rounds are looked at in detail though nothing bad comes out of them.
_CURIOUS_ROUNDS = 64


class _Rounds:
    """The rounds of one loop."""

    def __init__(self, replay: Any, frame: Frame, eqn: Any, kind: str, closed: Any):
        self.replay, self.frame, self.eqn, self.kind = replay, frame, eqn, kind
        self.closed = closed
        self.jaxpr, self.consts = open_jaxpr(closed)
        self.seen: dict[Any, list[list[Taint]]] = {}
        self.curious_rounds = _CURIOUS_ROUNDS

    def run(
        self, i: int, args: list[Any], taints: list[Taint]
    ) -> tuple[list[Any], list[Taint]]:
        """Runs round i; returns what it returns, and the taints."""
        frame = Frame(self.jaxpr, self.frame, self.eqn, self.kind, iteration=i)
        watch = self.replay.watch
        if watch is not None and frame.key in watch.prefixes:
            return self.replay.run(frame, self.consts, args, taints)
        outs = self.replay.call(self.closed, args)
        if self.replay.events is None:
            return outs, [CLEAN] * len(outs)
        bad = [kinds(out) for out in outs]
        if self.replay.curious and self.curious_rounds:
            self.curious_rounds -= 1
            return self.replay.run(frame, self.consts, args, taints)
        if not any(map(any, bad)):
            return outs, [CLEAN] * len(outs)
        pattern = (tuple(map(kinds, args)), tuple(bad))
        known = self.seen.setdefault(pattern, [])
        if len(known) >= _ROUNDS_ALIKE:
            return outs, known[-1]
        stepped, new = self.replay.run(frame, self.consts, args, taints)
        inherited = CLEAN.union(*taints)
        new = [
            CLEAN
            if not any(kind)
            else taint
            or inherited
            or self.replay.events.compiled_only(frame.parent, self.eqn, args, taints, o)
            for kind, taint, o in zip(bad, new, outs, strict=True)
        ]
        known.append(new)
        return outs, new


def _scan(
    replay: Any, frame: Frame, eqn: Any, ins: list[Any], its: list[Taint]
) -> tuple[list[Any], list[Taint]]:
    num_consts, num_carry = scan_counts(eqn)
    split = num_consts + num_carry
    consts, carry, xs = ins[:num_consts], ins[num_consts:split], ins[split:]
    const_taints, taints, xs_taints = (
        its[:num_consts],
        its[num_consts:split],
        its[split:],
    )
    rounds = _Rounds(replay, frame, eqn, "scan", eqn.params["jaxpr"])
    ys: list[list[Any]] = [[] for _ in eqn.outvars[num_carry:]]
    ys_taints: list[Taint] = [CLEAN] * len(ys)
    order = range(eqn.params["length"])
    for i in reversed(order) if eqn.params["reverse"] else order:
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
        if replay.world.stepping:
            for y, out in zip(ys, outs[num_carry:], strict=True):
                y.insert(0 if eqn.params["reverse"] else len(y), out)
        if replay.watch is not None and replay.watch.done:
            break
    stacked = [replay.world.stacked(y) if y else None for y in ys]
    return [*carry, *stacked], [*taints, *ys_taints]


def _while(
    replay: Any, frame: Frame, eqn: Any, ins: list[Any], its: list[Taint]
) -> tuple[list[Any], list[Taint]]:
    params = eqn.params
    in_cond, in_body = params["cond_nconsts"], params["body_nconsts"]
    split = in_cond + in_body
    cond_consts, consts, carry = ins[:in_cond], ins[in_cond:split], ins[split:]
    const_taints, taints = its[in_cond:split], its[split:]
    rounds = _Rounds(replay, frame, eqn, "while", params["body_jaxpr"])
    i = 0
    while True:
        goes_on = replay.call(params["cond_jaxpr"], [*cond_consts, *carry])[0]
        if not np.asarray(goes_on).any():
            break
        outs, new = rounds.run(i, [*consts, *carry], [*const_taints, *taints])
        if np.ndim(goes_on):  # a loop over a batch, some rows of which have finished
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
    replay: Any, frame: Frame, eqn: Any, ins: list[Any], its: list[Taint]
) -> tuple[list[Any], list[Taint]]:
    shards = Shards(eqn)
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    child = Frame(jaxpr, frame, eqn, "shard_map")
    return replay.within(shards).run(child, consts, shards.split(ins), its)


ENTERED: dict[str, Any] = {"scan": _scan, "while": _while, "shard_map": _shard_map}
