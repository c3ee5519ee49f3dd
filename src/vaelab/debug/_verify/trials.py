"""Advice is tried before it is given.

The candidates are written into the user's functions, the call is traced anew with one
of them switched on, forward and backward pass alike, and run operation by operation.
The advice is the first one with which everything is finite, and what was finite before
stays as it was.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.repairs import repairs_of
from vaelab.debug._diagnosis.sketch import Repair
from vaelab.debug._lineage.findings import Findings
from vaelab.debug._replay.events import Event
from vaelab.debug._trace.jaxprs import operations
from vaelab.debug._trace.source import Expression, expression_of
from vaelab.debug._verify.rewrites import rewrites_of
from vaelab.debug._verify.variants import Untestable, Variants
from vaelab.debug._verify.verdict import Verdict, new_key, verdict_of
from vaelab.debug.report import Rewrite

__all__ = ["Outcome", "outcome"]

_MOST_TRIALS, _FEWEST_TRIALS = 12, 4
_MOST_AFTER = 4  # once a first fault is repaired, of a second one
_OF_A_SECOND_LOOK = 2  # trials take as long
_MOST_OPERATIONS = 3000  # in all trials together
_MOST_ROOTS = 3


@dataclass(frozen=True)
class Outcome:
    """What came of the trials.

    Attributes:
        what: the idea behind the repair that helped; None if none did.
        rewrites: what to write.
        failed: the ideas that were tried in vain.
        changes: whether it changes what was finite before.
    """

    what: str | None = None
    rewrites: tuple[Rewrite, ...] = ()
    failed: tuple[str, ...] = ()
    changes: bool = False


def outcome(found: Findings) -> Outcome:
    """Tries the repairs of the first events; `found` is what the replay has found."""
    roots = list(_roots(found))
    if not roots:
        return Outcome()
    first, repairs = roots[0]
    others = [more for e, more in roots[1:] if more and e.node is not first.node]
    candidates = [*repairs, *itertools.chain(*others)]
    budget = _budget(found)
    with contextlib.ExitStack() as stack:
        testable, _ = _installed(stack, candidates)
        verdicts = _tried(found, _sets(repairs, others, testable)[:budget])
    budget -= len(verdicts)
    best = _best(verdicts)
    failed = tuple(
        dict.fromkeys(
            candidates[numbers[0]].what
            for numbers, verdict in verdicts.items()
            if verdict is Verdict.BAD
        )
    )
    if best is not None:
        return _outcome([candidates[k] for k in best], verdicts[best], failed)
    for repair in [repairs[k] for k in sorted(testable & set(range(len(repairs))))][:2]:
        budget -= _OF_A_SECOND_LOOK
        for more in _after(found, first, repair) if budget > 0 else ():
            with contextlib.ExitStack() as stack:
                testable, _ = _installed(stack, [repair, *more])
                numbers = sorted(testable - {0})[: min(budget, _MOST_AFTER)]
                verdicts = _tried(found, [(0, k) for k in numbers])
            budget -= len(verdicts)
            best = _best(verdicts)
            if best is not None:
                both = [repair, more[best[1] - 1]]
                return _outcome(both, verdicts[best], failed)
    return Outcome(failed=failed)


def _outcome(
    chosen: list[Repair], verdict: Verdict, failed: tuple[str, ...]
) -> Outcome:
    what = chosen[0].what
    failed = tuple(idea for idea in failed if idea != what)
    return Outcome(what, rewrites_of(chosen), failed, verdict is Verdict.FINITE)


def _sets(
    repairs: list[Repair], others: list[list[Repair]], testable: set[int]
) -> list[tuple[int, ...]]:
    """The numbers of repairs to be tried together: with the first one of each other."""
    starts = list(itertools.accumulate(map(len, others), initial=len(repairs)))[:-1]
    sets = [(k,) for k in range(len(repairs))]
    if others:
        sets = [s for k in range(len(repairs)) for s in ((k,), (k, *starts))]
    return [numbers for numbers in sets if testable.issuperset(numbers)][:_MOST_TRIALS]


def _budget(found: Findings) -> int:
    """How many trials a call is worth: fewer of a large one, each of which takes long.

    It goes by the number of operations, so that it is the same on every machine.
    """
    budget = _MOST_OPERATIONS // max(operations(found.jaxpr), 1)
    return min(max(budget, _FEWEST_TRIALS), _MOST_TRIALS + 2 * _MOST_AFTER)


def _tried(
    found: Findings, sets: list[tuple[int, ...]]
) -> dict[tuple[int, ...], Verdict]:
    """What the trials come to, up to the first good one."""
    verdicts: dict[tuple[int, ...], Verdict] = {}
    for numbers in sets:
        with Variants.tried(*numbers):
            verdicts[numbers] = verdict_of(found)
        if verdicts[numbers] is Verdict.GOOD:
            break
    return verdicts


def _best(verdicts: dict[tuple[int, ...], Verdict]) -> tuple[int, ...] | None:
    """The first of the best trials; None if none helped."""
    best = max(verdicts, key=verdicts.__getitem__, default=())
    return best if verdicts.get(best) else None


def _after(found: Findings, first: Expression, repair: Repair) -> list[list[Repair]]:
    """What fails next, once the first fault is repaired: the repairs of that one."""
    with contextlib.ExitStack() as stack:
        _, installed = _installed(stack, [repair])
        with Variants.tried(0):
            try:
                following = found.again(new_key())
            except Exception:  # a candidate may fail in any way: then it is none
                return []
        if following is None:
            return []
        changed = {id(new): old for v in installed for old, new in v.exchanges.values()}
        for expression, repairs in _roots(following):
            if expression.node is not first.node and repairs:
                codes = tuple(changed.get(id(c), c) for c in expression.codes)
                return [
                    [
                        r._replace(expression=replace(r.expression, codes=codes))
                        for r in repairs
                        if r.expression.file == expression.file
                    ]
                ]
    return []


def _installed(
    stack: contextlib.ExitStack, candidates: list[Repair]
) -> tuple[set[int], list[Variants]]:
    """Writes the candidates into the functions; returns which of them could be."""
    testable: set[int] = set()
    installed = []
    for file in dict.fromkeys(repair.expression.file for repair in candidates):
        there = {k: r for k, r in enumerate(candidates) if r.expression.file == file}
        running = dict.fromkeys(c for r in there.values() for c in r.expression.codes)
        try:
            variants = Variants(file, there, list(running))
            stack.enter_context(variants.installed())
        except (Untestable, SyntaxError):
            continue
        testable |= there.keys()
        installed.append(variants)
    return testable, installed


def _roots(found: Findings) -> Iterator[tuple[Expression, list[Repair]]]:
    for story in found.stories[:_MOST_ROOTS]:
        event: Event = story.root
        is_argument = event.source is not None and event.source.argument is not None
        if event.eqn is None or is_argument:
            continue
        expression = expression_of(event.frame, event.eqn)
        if expression is not None:
            facts = Facts(found, found.link(event), event)
            yield expression, repairs_of(expression, facts)
