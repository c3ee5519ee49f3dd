"""A report as a block for a terminal, 78 columns wide."""

import textwrap
from typing import TYPE_CHECKING

from vaelab.debug._places import is_cell, place_in_words
from vaelab.debug._show import words

if TYPE_CHECKING:
    from vaelab.debug.report import Link, NonFiniteReport
    from vaelab.debug.spikes import SpikeReport

__all__ = ["WIDTH", "labelled", "report_as_text", "spike_as_text", "wrapped"]

WIDTH = 78
_HANGING = 8  # the length of the longest label


def report_as_text(report: "NonFiniteReport") -> str:
    """What and where, why, what to do; then the chain."""
    lines = wrapped(words.headline(report), hanging=4)
    lines += labelled("cause:", report.cause)
    lines += _advice(words.parts(report))
    if report.tried:
        lines += labelled("tried:", words.tried(report))
    lines.append("")
    statements = words.Statements(report.file)
    for i, link in enumerate(report.chain):
        lines += _link(link, "first" if i == 0 else "then", statements)
    if report.inputs:
        inputs = words.listed(report.inputs)
        lines += wrapped(f"non-finite before the call: {inputs}", hanging=4)
    outputs = words.listed(report.outputs)
    lines += wrapped(f"reaches {words.counted(report.outputs)}: {outputs}", hanging=4)
    for link in report.others:
        lines += wrapped(f"also {words.headline(link)}", hanging=4)
        if statements.first(link.file, link.line) and link.source:
            lines += wrapped(link.source, indent=4, hanging=8)
    for note in report.notes:
        lines += wrapped(f"note: {note}", hanging=4)
    return "\n".join(lines)


def _advice(parts: list[tuple[str, str]]) -> list[str]:
    first, *rest = parts or [("prose", "")]
    what, text = first
    if what == "code" and "\n" not in text:
        lines = [f"{'advice:':<{_HANGING}}{text}"]  # to be pasted: never broken
    elif what == "code":
        lines = ["advice:", *textwrap.indent(text, " " * _HANGING).splitlines()]
    else:
        lines = labelled("advice:", text)
    for what, text in rest:
        if what == "code":
            lines += textwrap.indent(text, " " * _HANGING).splitlines()
        else:
            lines += wrapped(text, indent=_HANGING, hanging=_HANGING)
    return lines


def _link(link: "Link", order: str, statements: words.Statements) -> list[str]:
    event = f"{order} {words.kind(link)}: {link.primitive}"
    lines = wrapped(f"{event}, {words.circumstances(link)}", hanging=4)
    if link.file is not None and statements.first(link.file, link.line):
        lines += wrapped(
            f"{_path(link.file, link.line)} in {link.function}", indent=2, hanging=4
        )
        lines += wrapped(link.source or "", indent=4, hanging=8)
    elif link.file is not None:
        lines.append(f"  at {place_in_words(link.file, link.line)} again")
    inside = link.inside
    if inside is not None and inside.file is not None:
        place = place_in_words(inside.file, inside.line)
        lines += wrapped(f"inside {place}", indent=2, hanging=4)
        if statements.first(inside.file, inside.line):
            lines += wrapped(inside.source or "", indent=4, hanging=8)
    if link.example:
        index = list(link.result.index or ())
        lines += wrapped(f"{link.example}, first at index {index}", indent=2, hanging=4)
    for name, array in words.arrays(link):
        label = "result:   " if name == "result" else f"{name}:"
        lines += wrapped(
            f"{label} {array}{statements.origin(array.origin)}", indent=2, hanging=6
        )
    return lines


def _path(file: str, line: int | None) -> str:
    """The whole path, which terminals and editors open; of a cell its number."""
    return place_in_words(file, line) if is_cell(file) else f"{file}:{line}"


def labelled(label: str, text: str) -> list[str]:
    """A paragraph beside its label."""
    return wrapped(f"{label:<{_HANGING}}{text}", hanging=_HANGING)


def wrapped(text: str, *, indent: int = 0, hanging: int = 0) -> list[str]:
    """Lines of 78 columns at most, but that a word is never broken.

    Args:
        text: one paragraph.
        indent: blanks before the first line.
        hanging: blanks before the others.
    """
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def spike_as_text(report: "SpikeReport") -> str:
    """Where the leap begins; then the operations that amplify, up to the loss."""
    top = report.largest
    lines = wrapped(words.headline_of_spike(report), hanging=4)
    lines += labelled("cause:", words.cause_of_spike(report))
    if report.advice:
        lines += labelled("advice:", report.advice)
    if report.tried:
        lines += labelled("tried:", words.tried(report))
    if report.chain:
        lines += ["", "what amplifies, on the way to the loss:"]
    statements = words.Statements(top.file if top else None)
    for growth in report.chain:
        module = f", module {growth.module}" if growth.module else ""
        times = f"{growth.primitive}, {growth.amplification:.3g} times"
        lines += wrapped(f"{times}, {words.place(growth)}{module}", indent=2, hanging=4)
        if growth.source and statements.first(growth.file, growth.line):
            lines += wrapped(growth.source, indent=4, hanging=8)
    return "\n".join(lines)
