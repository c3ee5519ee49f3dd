"""What is right and what is wrong in a report on a program."""

import re
from typing import Any

from ._registry import UNSTATED, Program, agrees

__all__ = ["judge"]

# Words of an expectation, and other spellings of them that a report may use. The 0 of
# "between 0 and 1" is a bound, and says of no number that it is zero.
SPELLINGS = {
    "zero": r"zero|(?<![\d.])(?<!between )0(?![\d.])",
    "negative": "negative|below 0",
    "overflow": "overflow|does not fit|do not fit",
}


def judge(program: Program, report: Any) -> dict[str, bool]:
    """For each expectation that a failing program states, whether the report meets it.

    A cause is right if it contains the program's words, each in one of its spellings,
    if it names the divisor that is zero or the line that made it, and if neither cause
    nor advice contains a word that leads astray.
    """
    if report is None:
        report = _Silence()
    verdict = {
        "line": (report.file, report.line) == (program.file, program.line),
        "direction": agrees(report.direction, program.direction),
        "kind": agrees(report.kind, program.kind),
    }
    for field in ("primitive", "module", "iteration"):
        expected = getattr(program, field)
        if expected != UNSTATED:
            verdict[field] = agrees(getattr(report, field), expected)
    cause, advice = report.cause.lower(), report.advice.lower()
    expected = list(program.cause)
    if program.zero is not None:
        expected.append(f"line {program.zero}|{program.zero_name}")
    verdict["cause"] = all(_says(cause, words) for words in expected) and not any(
        word.lower() in f"{cause} {advice}" for word in program.never
    )
    return verdict


def _says(cause: str, words: str) -> bool:
    """Whether a cause contains one of `"a|b"` as a word, or in another spelling."""
    spelled = [SPELLINGS.get(w, re.escape(w.lower())) for w in words.split("|")]
    return any(re.search(pattern, cause) for pattern in spelled)


class _Silence:
    """What a report that did not come says."""

    file = line = direction = kind = primitive = module = iteration = None
    cause = advice = ""
