"""Advice is tried before it is given.

The candidates are written into the user's functions, the call is traced anew with one
of them switched on, forward and backward pass alike, and run operation by operation.
The first one with which everything is finite is the advice.
"""

import ast
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.extend import core

from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.repairs import repairs_of
from vaelab.debug._diagnosis.sketch import Repair
from vaelab.debug._lineage.findings import Findings
from vaelab.debug._replay.arrays import kinds
from vaelab.debug._replay.events import CLEAN, Event
from vaelab.debug._replay.interpreter import Replay
from vaelab.debug._trace.jaxprs import fresh_traces, open_jaxpr, silenced
from vaelab.debug._trace.locate import Frame
from vaelab.debug._trace.source import Expression, expression_of
from vaelab.debug._verify.variants import Untestable, Variants
from vaelab.debug.report import Rewrite

__all__ = ["Outcome", "outcome"]

_MOST_TRIALS = 12
_MOST_ROOTS = 3
_number = itertools.count()


@dataclass(frozen=True)
class Outcome:
    """What came of the trials.

    Attributes:
        what: the idea behind the repair that helped; None if none did.
        rewrites: what to write.
        failed: the ideas that were tried in vain.
    """

    what: str | None = None
    rewrites: tuple[Rewrite, ...] = ()
    failed: tuple[str, ...] = ()


def outcome(found: Findings) -> Outcome:
    """Tries the repairs of the first events; `found` is what the replay has found."""
    roots = list(_roots(found))
    if not roots:
        return Outcome()
    first, repairs = roots[0]
    others = [more for e, more in roots[1:] if more and e.node is not first.node]
    candidates = [*repairs, *itertools.chain(*others)]
    with contextlib.ExitStack() as stack:
        testable, _ = _installed(stack, candidates)
        chosen, tried = _chosen(found, repairs, others, testable)
    if chosen is not None:
        return _outcome([candidates[k] for k in chosen], candidates, tried)
    for repair in [repairs[k] for k in sorted(testable & set(range(len(repairs))))][:2]:
        for more in _after(found, first, repair):
            with contextlib.ExitStack() as stack:
                testable, _ = _installed(stack, [repair, *more])
                for k in sorted(testable - {0})[:4]:
                    with Variants.tried(0, k):
                        if _is_finite(found):
                            return _outcome([repair, more[k - 1]], candidates, tried)
    return Outcome(failed=tuple(dict.fromkeys(candidates[k].what for k in tried)))


def _outcome(
    chosen: list[Repair], candidates: list[Repair], tried: list[int]
) -> Outcome:
    what = chosen[0].what
    failed = dict.fromkeys(candidates[k].what for k in tried)
    failed.pop(what, None)
    return Outcome(what, _rewrites(chosen), tuple(failed))


def _after(found: Findings, first: Expression, repair: Repair) -> list[list[Repair]]:
    """What fails next, once the first fault is repaired: the repairs of that one."""
    with contextlib.ExitStack() as stack:
        _, installed = _installed(stack, [repair])
        with Variants.tried(0):
            try:
                following = found.again(f"trial {next(_number)}")
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


def _chosen(
    found: Findings,
    repairs: list[Repair],
    others: list[list[Repair]],
    testable: set[int],
) -> tuple[tuple[int, ...] | None, list[int]]:
    """The numbers of the repairs that help together, and of those that did not."""
    tried: list[int] = []
    starts = list(itertools.accumulate(map(len, others), initial=len(repairs)))[:-1]
    sets = [(k,) for k in range(len(repairs))]
    if others:
        sets = [s for k in range(len(repairs)) for s in ((k,), (k, *starts))]
    sets = [numbers for numbers in sets if testable.issuperset(numbers)]
    for numbers in sets[:_MOST_TRIALS]:
        with Variants.tried(*numbers):
            if _is_finite(found):
                return numbers, tried
        tried.append(numbers[0])
    return None, tried


def _is_finite(found: Findings) -> bool:
    """Whether the call as it is now has finite outputs.

    It runs operation by operation, which costs far less than a compilation. In half
    precision the compiled call, whose sums are taken in other types, has the last word.
    """
    call = found.call
    before = list(call.out_paths), list(call.out_states)
    try:
        with fresh_traces(f"trial {next(_number)}"):
            closed = jax.make_jaxpr(call.flat)(call.leaves)
        closed, _ = silenced(closed)
        jaxpr, consts = open_jaxpr(closed)
        if list(call.out_paths) != before[0]:
            return False
        wanted = [not bad or k in found.suspects for k, bad in enumerate(found.bad)]
        clean = [CLEAN] * len(call.leaves)
        values, _ = Replay().run(Frame(jaxpr), consts, call.leaves, clean, wanted)
        if not _all_finite(values, wanted):
            return False
        root = found.root
        if "float32" in root.result.dtype and not root.compiled_only:
            return True
        outs = jax.jit(core.jaxpr_as_fun(closed))(*call.leaves)
        return _all_finite(outs, wanted)
    except Exception:  # a candidate may fail in any way: then it is none
        return False
    finally:
        call.out_paths, call.out_states = before


def _all_finite(values: list[Any], wanted: list[bool]) -> bool:
    pairs = zip(values, wanted, strict=True)
    return not any(any(kinds(x)) for x, is_wanted in pairs if is_wanted)


def _rewrites(repairs: list[Repair]) -> tuple[Rewrite, ...]:
    """The statements that the changes are in, before and after."""
    found = []
    for file in dict.fromkeys(repair.expression.file for repair in repairs):
        there = [r for r in repairs if r.expression.file == file]
        expression = there[0].expression
        statements: dict[Any, dict[Any, str]] = {}
        for node, code in [change for r in there for change in r.changes]:
            statements.setdefault(expression.statement_of(node), {})[node] = code
        for inside in statements.values():
            lines = _rewritten(expression, list(inside.items()))
            found.append(Rewrite(expression.file, *lines))
    return tuple(sorted(found, key=lambda r: r.first_line))


def _rewritten(
    expression: Expression, changes: list[tuple[Any, str]]
) -> tuple[int, int, str, str]:
    """The lines that the changes touch, as they are and as they become."""
    first = min(node.lineno for node, _ in changes)
    last = max(node.end_lineno for node, _ in changes)
    lines = expression.lines[first - 1 : last]
    text = "".join(lines)
    starts = np.cumsum([0, *(len(line) for line in lines)])

    def place(line: int, column: int) -> int:
        encoded = lines[line - first].encode()[:column]
        return int(starts[line - first]) + len(encoded.decode())

    spans = sorted(
        (
            (place(n.lineno, n.col_offset), place(n.end_lineno, n.end_col_offset), code)
            for n, code in changes
        ),
        reverse=True,
    )
    new = text
    for start, end, code in spans:
        new = new[:start] + _fitting(code, text, start, end) + new[end:]
    return first, last, text.rstrip("\n"), new.rstrip("\n")


def _fitting(code: str, text: str, start: int, end: int) -> str:
    """A replacement in parentheses, where the expression around might tear it apart."""
    tree = ast.parse(code, mode="eval").body
    atoms = (ast.Call, ast.Name, ast.Attribute, ast.Subscript, ast.Constant)
    before = text[:start].rstrip()
    alone = before.endswith(("=", "(", ",", "return", ":")) and text[end:].lstrip()[
        :1
    ] in ("", ")", ",", "#", "]")
    if isinstance(tree, atoms) or alone or code.startswith("("):
        return code
    return f"({code})"
