"""Phrases that the text and the page share."""

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vaelab.debug._places import place_in_words

if TYPE_CHECKING:
    from vaelab.debug.report import ArraySummary, Link, NonFiniteReport, Origin
    from vaelab.debug.spikes import Growth, SpikeReport

__all__ = [
    "Statements",
    "arrays",
    "cause_of_spike",
    "counted",
    "headline",
    "headline_of_spike",
    "kind",
    "listed",
    "number",
    "parts",
    "place",
    "there",
    "tried",
]


def kind(link: "Link | NonFiniteReport") -> str:
    """`NaN` or `Inf`."""
    return {"nan": "NaN", "inf": "Inf"}.get(link.kind, link.kind)


def headline(link: "Link | NonFiniteReport") -> str:
    """What happened where: `Inf from exp at train.py:6 in softmax, forward pass`."""
    words = f"{kind(link)} from {link.primitive} at {place(link)}"
    return f"{words}, {circumstances(link)}"


def place(link: "Link | NonFiniteReport | Growth") -> str:
    """The user's line, and the library's line inside of it."""
    if link.file is None:
        words = "no line of yours"
    else:
        words = place_in_words(link.file, link.line)
        words += f" in {link.function}" if link.function else ""
    if link.inside is None or link.inside.file is None:
        return words
    inside = place_in_words(link.inside.file, link.inside.line)
    yours = "your line " if link.file is not None else ""
    return f"{yours}{words}, inside {inside}"


def circumstances(link: "Link | NonFiniteReport") -> str:
    """Direction, module and iteration."""
    words = [f"{link.direction} pass"]
    if link.module:
        words.append(f"module {link.module}")
    if link.iteration:
        words.append("loop iteration " + ", ".join(map(str, link.iteration)))
    return ", ".join(words)


def arrays(link: "Link") -> Iterator[tuple[str, "ArraySummary"]]:
    """What went in and came out, each array once."""
    known = []
    for k, operand in enumerate(link.operands):
        known.append((operand.origin, operand.shape, operand.min, operand.max))
        yield f"operand {k}", operand
    yield "result", link.result
    for entering in link.line_inputs:
        same = (entering.origin, entering.shape, entering.min, entering.max)
        if same not in known:
            yield "enters the line", entering


def there(array: "ArraySummary") -> str:
    """The element of an array where the result is bad, unless all are alike."""
    if array.value is None or (array.min == array.max and not array.nans + array.infs):
        return ""
    return f", {number(array.value)} there"


class Statements:
    """Says of a line of source whether its statement was shown before.

    Args:
        file: the file that need not be named.
    """

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.shown: set[tuple[str | None, int | None]] = set()

    def first(self, file: str | None, line: int | None) -> bool:
        """Whether this line comes up for the first time."""
        new = (file, line) not in self.shown
        self.shown.add((file, line))
        return new

    def origin(self, origin: "Origin | None") -> str:
        """Where an array comes from, with the statement if it is new."""
        if origin is None:
            return ""
        if origin.file is None:
            return f", from {origin}"
        words = f"line {origin.line}"
        if origin.file != self.file:
            words = place_in_words(origin.file, origin.line)
        words += f" in module {origin.module}" if origin.module else ""
        if self.first(origin.file, origin.line) and origin.source:
            words += f": {origin.source}"
        return f", from {words}"


def parts(report: "NonFiniteReport") -> list[tuple[str, str]]:
    """Takes an advice apart into `("prose", ...)` and `("code", ...)`, in its order.

    Lines that are to be written instead of the user's are code, and so is what is
    indented, or is Python as a whole.
    """
    advice = report.advice
    if report.rewrites:
        prose = [line for line in advice.splitlines() if not line.startswith(" ")]
        found = [("prose", line) for line in prose]
        found[1:1] = _rewritten(report)
        return found
    if _is_code(advice):
        return [("code", textwrap.dedent(advice).strip("\n"))]
    found = []
    for line in advice.splitlines():
        what = "code" if line.startswith("    ") and line.strip() else "prose"
        if found and (found[-1][0] == what or not line.strip()):
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
        elif line.strip():
            found.append((what, line))
    return [
        (what, textwrap.dedent(text).strip("\n") if what == "code" else text.strip())
        for what, text in found
    ]


def _rewritten(report: "NonFiniteReport") -> Iterator[tuple[str, str]]:
    """The lines to write, after their numbers where these need saying."""
    for rewrite in report.rewrites:
        if len(report.rewrites) > 1 or rewrite.first_line != report.line:
            place = f"line {rewrite.first_line}"
            if rewrite.file != report.file:
                place = place_in_words(rewrite.file, rewrite.first_line)
            yield "prose", f"{place}:"
        yield "code", textwrap.dedent(rewrite.new).strip("\n")


def _is_code(text: str) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(text).strip())
    except SyntaxError:
        return False
    # A single name or a string is a word, not a program.
    trivial = (ast.Name, ast.Constant)
    return not all(
        isinstance(node, ast.Expr) and isinstance(node.value, trivial)
        for node in tree.body
    )


def tried(report: "NonFiniteReport | SpikeReport") -> str:
    """What came of the advice, without the word that stands beside it anyway."""
    return re.sub("^tried[:,] ", "", report.tried)


def counted(paths: Sequence[str]) -> str:
    """`3 outputs`."""
    return f"{len(paths)} output" + "s" * (len(paths) != 1)


def listed(paths: Sequence[str], most: int = 5) -> str:
    """The first few of many."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def number(value: complex | None) -> str:
    """A value in four digits."""
    if value is None:
        return "?"
    return f"{value:.4g}" if isinstance(value, (complex, float)) else str(value)


def headline_of_spike(report: "SpikeReport") -> str:
    """From where to where the loss leaps, and at which operation."""
    head = f"The loss leaps to {number(report.loss)} from {number(report.usual)}"
    top = report.largest
    if top is not None:
        head += f": {top.primitive} at {place(top)}"
        head += f", module {top.module}" if top.module else ""
    return head


def cause_of_spike(report: "SpikeReport") -> str:
    """How much the operation amplifies, and which arguments have grown."""
    top, found = report.largest, []
    if top is not None and top.before is None:
        found.append(
            f"its result is {top.amplification:.3g} times as large as what goes in; "
            "there was no step before to compare with"
        )
    elif top is not None:
        more = f"{top.amplification:.3g} times more than what goes in accounts for"
        found.append(
            f"its result grew from {top.before:.3g} to {top.after:.3g} at most since "
            f"the step before, {more if report.chain else 'as what goes in did'}"
        )
    else:
        found.append("no single operation amplifies")
    grown = [f"{path} grew {growth:.3g}-fold" for path, growth in report.grown]
    if grown:
        found.append("of the arguments, " + ", ".join(grown))
    elif top is None or top.before is not None:
        found.append("no argument has grown to twice its size")
    return "; ".join(found) + "."
