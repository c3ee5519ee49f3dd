"""Advice is tried before it is given.

The candidates are written into the user's functions, the call is traced anew with one
of them switched on, forward and backward pass alike, and run operation by operation.
The first one with which everything is finite is the advice.
"""

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.repairs import repairs_of
from vaelab.debug._diagnosis.sketch import Repair
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


def outcome(found: Any) -> Outcome:
    """Tries the repairs of the first events; `found` is what the replay has found."""
    roots = list(_roots(found))
    if not roots:
        return Outcome()
    first, repairs = roots[0]
    others = [
        r
        for e, r in roots[1:]
        if e.file == first.file and r and e.node is not first.node
    ]
    candidates = [*repairs, *itertools.chain(*others)]
    if not repairs:
        return Outcome()
    codes = [c for e, _ in roots if e.file == first.file for c in e.codes]
    try:
        variants = Variants(first.file, candidates, codes)
        with variants.installed():
            chosen, tried = _chosen(found, variants, repairs, others)
    except (Untestable, SyntaxError):
        return Outcome()
    failed = tuple(dict.fromkeys(candidates[k].what for k in tried))
    if chosen is None:
        return Outcome(failed=failed)
    changes = [change for k in chosen for change in candidates[k].changes]
    return Outcome(
        candidates[chosen[0]].what,
        _rewrites(first, changes),
        tuple(what for what in failed if what != candidates[chosen[0]].what),
    )


def _roots(found: Any) -> Iterator[tuple[Expression, list[Repair]]]:
    for story in found.stories[:_MOST_ROOTS]:
        event: Event = story.root
        if event.eqn is None:
            continue
        expression = expression_of(event.frame, event.eqn)
        if expression is not None:
            facts = Facts(found, found.link(event), event)
            yield expression, repairs_of(expression, facts)


def _chosen(
    found: Any, variants: Variants, repairs: list[Repair], others: list[list[Repair]]
) -> tuple[tuple[int, ...] | None, list[int]]:
    """The numbers of the repairs that help together, and of those that did not."""
    tried: list[int] = []
    starts = list(itertools.accumulate(map(len, others), initial=len(repairs)))[:-1]
    sets = [(k,) for k in range(len(repairs))]
    if others:
        sets = [s for k in range(len(repairs)) for s in ((k,), (k, *starts))]
    for numbers in sets[:_MOST_TRIALS]:
        with variants.tried(*numbers):
            if _is_finite(found):
                return numbers, tried
        tried.append(numbers[0])
    return None, tried


def _is_finite(found: Any) -> bool:
    """Whether the call as it is now has finite outputs."""
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
        values, _ = Replay().run(
            Frame(jaxpr), consts, call.leaves, [CLEAN] * len(call.leaves), wanted
        )
        return not any(
            any(kinds(x)) for x, needed in zip(values, wanted, strict=True) if needed
        )
    except Exception:  # a candidate may fail in any way: then it is none
        return False
    finally:
        call.out_paths, call.out_states = before


def _rewrites(
    expression: Expression, changes: list[tuple[Any, str]]
) -> tuple[Rewrite, ...]:
    """The statements that the changes are in, before and after."""
    statements: dict[Any, list[tuple[Any, str]]] = {}
    for node, code in changes:
        statements.setdefault(expression.statement_of(node), []).append((node, code))
    found = []
    for statement, inside in statements.items():
        first, last, old, new = _rewritten(expression, statement, inside)
        found.append(Rewrite(expression.file, first, last, old, new))
    return tuple(sorted(found, key=lambda r: r.first_line))


def _rewritten(
    expression: Expression, statement: Any, changes: list[tuple[Any, str]]
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
