"""What `explain` returns: a report that reads like a sentence and prints as a block.

A `NonFiniteReport` describes the first link of a chain of events, for example an Inf
that was born in one operation and became a NaN in another. Each `Link` knows its place
in the user's source, and an `ArraySummary` of each array that went in and came out.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vaelab.debug._show import words
from vaelab.debug._show.figure import report_as_figure
from vaelab.debug._show.html import report_as_html
from vaelab.debug._show.text import report_as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ArraySummary",
    "Bin",
    "Link",
    "NonFiniteError",
    "NonFiniteReport",
    "Origin",
    "Rewrite",
]


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


class Bin(NamedTuple):
    """The elements of an array that are of about one size.

    Attributes:
        sign: 1, -1, or 0 for the elements that are zero.
        power: their modulus is at least 10 ** power, and below 10 ** (power + 1/4).
        total: how many there are.
        bad: how many of them gave a result that is not finite, if that is known.
    """

    sign: int
    power: float
    total: int
    bad: int


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
        bins: how the finite elements are distributed, the smallest modulus first.
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
    bins: tuple[Bin, ...] = field(default=(), repr=False)

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
        file: the file of the user's line, the innermost one outside of the packages
            that are installed; where there is none, that of a package's line.
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
        inside: the line of a package that the user's line led to, if there is one.
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
    inside: Origin | None = None

    @property
    def example(self) -> str:
        """The first bad element as a formula, such as `div(1, 0) = inf`."""
        values = [operand.value for operand in self.operands]
        if not values or self.result.value is None or None in values:
            return ""
        shown = ", ".join(map(words.number, values))
        return f"{self.primitive}({shown}) = {words.number(self.result.value)}"

    @property
    def place(self) -> str:
        """The user's line in words, and the library's line inside of it."""
        return words.place(self)


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

    `kind` to `inside` describe the first link of the chain; see `Link`.

    Attributes:
        chain: the events from the first one to the outputs.
        outputs: the paths of the non-finite outputs that the first event reaches.
        others: other, independent first events.
        inputs: the paths of arguments that were non-finite before the first operation,
            and matter.
        cause: why, in a sentence.
        advice: what to do about it.
        tried: what came of it when it was tried; empty if it was not.
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
    inside: Origin | None
    chain: tuple[Link, ...]
    outputs: tuple[str, ...]
    others: tuple[Link, ...]
    inputs: tuple[str, ...]
    cause: str
    advice: str
    tried: str = ""
    rewrites: tuple[Rewrite, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The user's line in words, and the library's line inside of it."""
        return words.place(self)

    def __str__(self) -> str:
        return report_as_text(self)

    def _repr_html_(self) -> str:
        return report_as_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # in a terminal's IPython

    def plot(
        self, *, axes: Any = None, figsize: tuple[float, float] | None = None
    ) -> "Figure":
        """Shows how the values are distributed that went into the first operation.

        A strip for each operand, and for each array that enters its line: elements by
        their size on a logarithmic axis, negative ones downwards; those that made the
        result non-finite are red.

        Args:
            axes: an array of matplotlib axes to draw into, one for each array, or None.
            figsize: width and height in inches, or None.

        Returns:
            The figure.

        Raises:
            ValueError: there are too few `axes`, or no array to draw.

        >>> import jax.numpy as jnp
        >>> from vaelab.debug import explain
        >>> report = explain(jnp.log, jnp.array([-1.0, 1.0, 2.0]))
        >>> len(report.plot().axes)
        1
        """
        return report_as_figure(self, axes, figsize)


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
