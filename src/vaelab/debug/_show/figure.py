"""A picture of what went into the operation that failed.

One strip for each array: how many elements are of which size, on a logarithmic axis,
positive ones upwards and negative ones downwards, with zeros at the left end and Inf
and NaN at the right one. What is red made the result non-finite.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from vaelab.debug._show import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vaelab.debug.report import ArraySummary, NonFiniteReport

__all__ = ["report_as_figure"]

_GOOD, _BAD = "0.6", "tab:red"
_DECADES = 4  # shown at least, so that a few close values are a narrow peak
_TICKS = 4


def report_as_figure(
    report: "NonFiniteReport", axes: Any, figsize: tuple[float, float] | None
) -> "Figure":
    """Draws a strip for each array; see `NonFiniteReport.plot`."""
    found = [
        (name, array)
        for name, array in words.arrays(report.chain[0])
        if name != "result" and (array.bins or array.nans or array.infs)
    ]
    if not found:
        raise ValueError(
            f"{report.primitive} has no operands of numbers: there is nothing to draw"
        )
    if axes is None:
        from matplotlib import pyplot

        size = figsize or (6.4, 0.3 + 0.9 * len(found))
        options = {"figsize": size, "squeeze": False, "layout": "constrained"}
        axes = pyplot.subplots(len(found), 1, **options)[1]
    axes = np.asarray(axes).ravel()
    if len(axes) < len(found):
        raise ValueError(f"axes has {len(axes)} axes: {len(found)} arrays need as many")
    statements = words.Statements(report.file)
    for axis, (name, array) in zip(axes, found, strict=False):
        _strip(axis, array)
        origin = statements.origin(array.origin).partition(": ")[0]
        title = f"{name}: {array}{words.there(array)}{origin}"
        axis.set_title(title, fontsize="small", loc="left")
    return axes[0].figure


def _strip(axis: Any, array: "ArraySummary") -> None:
    sized = [b for b in array.bins if b.sign]
    low = math.floor(min((b.power for b in sized), default=0.0))
    high = math.ceil(max((b.power for b in sized), default=0.0) + 0.25)
    spare = max(_DECADES - (high - low), 0)
    low, high = low - spare // 2, high + spare - spare // 2
    for b in sized:
        for count, colour in ((b.total, _GOOD), (b.bad, _BAD)):
            place = b.power + 0.125
            axis.bar(place, b.sign * _height(count), 0.25, color=colour)
    places = {}
    for b in array.bins:
        if not b.sign:
            places[low - 1] = "0"
            axis.bar(low - 1, _height(b.total), 0.5, color=_BAD if b.bad else _GOOD)
    for k, (count, name) in enumerate(((array.infs, "inf"), (array.nans, "nan"))):
        if count:
            places[high + 1 + k] = name
            axis.bar(high + 1 + k, _height(count), 0.5, color=_BAD)
    value = array.value
    if value is not None and value != 0 and np.isfinite(value):
        way = -1 if isinstance(value, (int, float)) and value < 0 else 1
        axis.plot(math.log10(abs(value)), 0, "^" if way < 0 else "v", color=_BAD)
    step = math.ceil((high - low) / _TICKS)
    places |= {k: f"$10^{{{k}}}$" for k in range(low, high + 1, step)}
    axis.set_xticks(list(places), list(places.values()))
    ends = min(low, *places) - 0.6, max(high, *places) + 0.6
    axis.set(xlim=ends, yticks=[])
    axis.axhline(0, color="lightgrey", linewidth=0.8, zorder=0)
    axis.spines[:].set_color("lightgrey")


def _height(count: int) -> float:
    """One bad element among a million must be seen, too."""
    return math.log2(1 + count)
