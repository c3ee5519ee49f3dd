"""What `explain` returns: a report that reads like a sentence and prints as a block.

A `NonFiniteReport` describes the first link of a chain of events, for example an Inf
that was born in one operation and became a NaN in another. Each `Link` knows its place
in the user's source, and an `ArraySummary` of each array that went in and came out.
"""

import sys
import textwrap
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from vaelab.debug._card import card

__all__ = [
    "ArraySummary",
    "Link",
    "NonFiniteError",
    "NonFiniteReport",
    "Origin",
    "Rewrite",
]


_WIDTH = 78


@dataclass(frozen=True)
class Origin:
    """Where an array was computed.

    Attributes:
        file: the file of the user's line; None for an argument or a constant.
        line: its number.
        source: its text.
        module: the NNX path of the module, such as `encoder.linear`.
        primitive: the operation, such as `exp`; None for an argument or a constant.
        argument: the path of the argument, such as `batch['image']`.
    """

    file: str | None = None
    line: int | None = None
    source: str | None = None
    module: str | None = None
    primitive: str | None = None
    argument: str | None = None

    def __str__(self) -> str:
        if self.argument is not None:
            return f"argument {self.argument}"
        if self.primitive is None:
            return "a constant"
        module = f" in module {self.module}" if self.module else ""
        if self.file is None:
            return f"{self.primitive}{module}"
        source = f": {self.source}" if self.source else ""
        return f"line {self.line}{module}{source}"


@dataclass(frozen=True)
class ArraySummary:
    """An array in a few numbers.

    Attributes:
        shape: its shape.
        dtype: the name of its dtype.
        min: the smallest finite element (of complex numbers, the smallest modulus);
            None if there is no finite one.
        max: the largest finite element.
        zeros: how many elements are zero.
        nans: how many are NaN.
        infs: how many are infinite.
        index: where the operation's result first goes wrong.
        value: the element there, if the operation acts element by element.
        origin: where the array was computed; None for a result.
    """

    shape: tuple[int, ...]
    dtype: str
    min: float | None = None
    max: float | None = None
    zeros: int = 0
    nans: int = 0
    infs: int = 0
    index: tuple[int, ...] | None = None
    value: complex | None = None
    origin: Origin | None = None

    def __str__(self) -> str:
        parts = [f"{self.dtype}[{', '.join(map(str, self.shape))}]"]
        if self.min is not None and self.max is not None:
            same = self.min == self.max
            parts.append(
                f"= {self.min:.4g}" if same else f"{self.min:.4g} to {self.max:.4g}"
            )
        for count, word in (
            (self.zeros, "zero"),
            (self.nans, "nan"),
            (self.infs, "inf"),
        ):
            if count:
                parts.append(f"({count} {word})")
        return " ".join(parts)


@dataclass(frozen=True)
class Link:
    """One event of a chain: an operation that made a NaN or an Inf.

    Attributes:
        kind: `"nan"` or `"inf"`.
        primitive: the operation, such as `"log"`.
        file: the file of the user's line, the innermost one outside of the libraries.
        line: its number.
        function: the function it is in.
        source: its text.
        direction: `"forward"` or `"backward"`.
        module: the NNX path of the module, such as `"encoder.linear"`, or None.
        iteration: of each enclosing loop, outermost first, counted from 0. For a scan
            it is the position in `xs`.
        operands: what went in.
        result: what came out.
        line_inputs: the values that enter the source line from other lines.
        library: file, line and function within an installed package, if the operation
            is in one, below the user's line.
    """

    kind: str
    primitive: str
    file: str | None
    line: int | None
    function: str | None
    source: str | None
    direction: str
    module: str | None
    iteration: tuple[int, ...]
    operands: tuple[ArraySummary, ...]
    result: ArraySummary
    line_inputs: tuple[ArraySummary, ...] = ()
    library: str | None = None

    @property
    def example(self) -> str:
        """The first bad element as a formula, such as `div(1, 0) = inf`."""
        values = [operand.value for operand in self.operands]
        if not values or self.result.value is None or None in values:
            return ""
        shown = ", ".join(map(_number, values))
        return f"{self.primitive}({shown}) = {_number(self.result.value)}"

    @property
    def place(self) -> str:
        """The file, the line and the function, in words."""
        if self.file is None:
            return "no line of yours"
        function = f" in {self.function}" if self.function else ""
        cell = _cell_number(self.file)
        if cell is not None:
            return f"cell {cell}, line {self.line}{function}"
        return f"{Path(self.file).name}:{self.line}{function}"

    @property
    def circumstances(self) -> str:
        """Direction, module and iteration in words."""
        words = [f"in the {self.direction} pass"]
        if self.module:
            words.append(f"module {self.module}")
        if self.iteration:
            loops = ", ".join(map(str, self.iteration))
            words.append(f"loop iteration {loops}")
        return ", ".join(words)


@dataclass(frozen=True)
class Rewrite:
    """Lines of the user's source, and what to write instead.

    Attributes:
        file: the file.
        first_line: the number of the first of the lines.
        last_line: the number of the last one.
        old: the lines as they are.
        new: the lines to write instead.
    """

    file: str
    first_line: int
    last_line: int
    old: str
    new: str


@dataclass(frozen=True)
class NonFiniteReport:
    """Why a call has non-finite outputs.

    `kind` to `line_inputs` describe the first link of the chain; see `Link`.

    Attributes:
        chain: the events from the first one to the outputs.
        outputs: the paths of the non-finite outputs that the first event reaches.
        others: other, independent first events.
        inputs: the paths of arguments that were non-finite before the first operation,
            and matter.
        cause: why, in a sentence.
        advice: what to do about it.
        tried: what came of it when it was tried.
        rewrites: the advice as lines of source, where it is one.
        notes: what else there is to know, such as a part that could not be explained.
    """

    kind: str
    primitive: str
    file: str | None
    line: int | None
    function: str | None
    source: str | None
    direction: str
    module: str | None
    iteration: tuple[int, ...]
    operands: tuple[ArraySummary, ...]
    result: ArraySummary
    line_inputs: tuple[ArraySummary, ...]
    library: str | None
    chain: tuple[Link, ...]
    outputs: tuple[str, ...]
    others: tuple[Link, ...]
    inputs: tuple[str, ...]
    cause: str
    advice: str
    tried: str = ""
    rewrites: tuple[Rewrite, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        link = self.chain[0]
        lines = _wrapped(f"{_shown_kind(link)}: {_headline(link)}, {link.place}")
        if link.source:
            lines.append(f"    {link.source}")
        lines += _wrapped(f"cause:  {self.cause}")
        lines += _wrapped(f"advice: {self.advice}")
        if self.tried:
            lines += _wrapped(f"        ({self.tried})")
        told: set[str] = set()
        for i, link in enumerate(self.chain):
            lines += _link_lines(link, "first" if i == 0 else "then", told)
        if self.inputs:
            lines += _wrapped(f"non-finite before the call: {_listed(self.inputs)}")
        lines += _wrapped(f"reaches {_counted(self.outputs)}: {_listed(self.outputs)}")
        for link in self.others:
            lines += _wrapped(
                f"also {link.kind}: {link.primitive} {link.circumstances}, "
                f"{link.place}: {link.source}"
            )
        for note in self.notes:
            lines += _wrapped(f"note:   {note}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for i, link in enumerate(self.chain):
            word = "first" if i == 0 else "then"
            rows.append((f"<b>{word} {_shown_kind(link)}</b>", escape(_headline(link))))
            rows.append(("line", escape(link.place) + _code(link.source)))
            rows += [(f"operand {k}", _cell(a)) for k, a in enumerate(link.operands)]
            rows += [("enters the line", _cell(a)) for a in link.line_inputs]
            rows.append(("result", _cell(link.result)))
        if self.inputs:
            rows.append(("non-finite before the call", escape(_listed(self.inputs))))
        rows.append(("reaches", escape(_listed(self.outputs))))
        for link in self.others:
            words = f"{_headline(link)}, {link.place}"
            rows.append((f"also {link.kind}", escape(words) + _code(link.source)))
        rows += [("note", escape(note)) for note in self.notes]
        first = self.chain[0]
        headline = f"{_shown_kind(first)}: {_headline(first)}"
        return card(headline, first.place, self, rows)


class NonFiniteError(FloatingPointError):
    """A NaN or an Inf that was caught, with its explanation.

    Args:
        message: what happened.
        report: the explanation, if there is one.
        step: the number of the training step, counted from 0, if it is known.

    Attributes:
        result: what a training run had until then, if one was under way.
    """

    def __init__(
        self,
        message: str,
        report: NonFiniteReport | None = None,
        step: int | None = None,
    ) -> None:
        super().__init__(message)
        self.report = report
        self.step = step
        self.result: Any = None


def _cell_number(file: str) -> str | None:
    """The number of the notebook's cell that a file stands for, if it does."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    name = getattr(getattr(shell, "compile", None), "format_code_name", None)
    found = name(file) if name is not None else None
    if not found or len(found) != 2:
        return None
    return str(found[1]).removeprefix("In[").removesuffix("]")


def _wrapped(text: str) -> list[str]:
    """A paragraph of the report; lines of code in it stay whole."""
    lines: list[str] = []
    for k, part in enumerate(text.split("\n")):
        if k:
            lines.append(f"        {part.strip()}")
        else:
            lines += textwrap.wrap(
                part,
                _WIDTH,
                subsequent_indent=" " * 8,
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines


def _link_lines(link: Link, word: str, told: set[str]) -> list[str]:
    lines = _wrapped(f"{word} {_shown_kind(link)}: {_headline(link)}")
    if link.file is not None:
        cell = _cell_number(link.file)
        where = f"{link.file}:{link.line}" if cell is None else f"cell {cell}"
        lines.append(f"  {where} in {link.function}")
        if link.library:
            lines.append(f"  which calls {link.library}")
        if link.source:
            lines.append(f"    {link.source}")
            told.add(f"{link.line}{link.source}")
    if link.example:
        index = list(link.result.index or ())
        lines.append(f"  {link.example}, first at index {index}")
    for k, array in enumerate(link.operands):
        lines += _wrapped(f"  operand {k}: {_traced(array, told)}")
    lines += _wrapped(f"  result:    {link.result}")
    for array in link.line_inputs:
        lines += _wrapped(f"  enters the line: {_traced(array, told)}")
    return lines


def _headline(link: Link) -> str:
    return f"{link.primitive} {link.circumstances}"


def _shown_kind(link: Link) -> str:
    return {"nan": "NaN", "inf": "Inf"}.get(link.kind, link.kind)


def _traced(array: ArraySummary, told: set[str]) -> str:
    """An array and where it is from; no statement is printed twice."""
    origin = array.origin
    if origin is None:
        return str(array)
    if origin.source is not None:
        key = f"{origin.line}{origin.source}"
        if key in told:
            origin = replace(origin, source=None)
        told.add(key)
    return f"{array}, from {origin}"


def _cell(array: ArraySummary) -> str:
    value = "" if array.value is None else f", {_number(array.value)} there"
    return escape(_traced(array, set()) + value)


def _code(source: str | None) -> str:
    return f"<br><code>{escape(source)}</code>" if source else ""


def _counted(paths: tuple[str, ...]) -> str:
    return f"{len(paths)} output" + "s" * (len(paths) != 1)


def _listed(paths: tuple[str, ...], most: int = 5) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def _number(value: complex | None) -> str:
    if value is None:
        return "?"
    return f"{value:.4g}" if isinstance(value, (complex, float)) else str(value)
