"""0 * inf: a mask that multiplies does not remove an infinite value."""

from collections.abc import Iterator

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    a, b = f.value(0), f.value(1)
    if f.primitive != "mul" or 0 not in (a, b) or not (np.isinf(a) or np.isinf(b)):
        return None
    return (
        f"0 * inf is NaN: {example(f)}; multiplying by zero does not remove an "
        f"infinite value{_of_constant(f)}.",
        "Select with jnp.where(mask, x, 0) instead of multiplying with a mask, and "
        "make the value finite before a derivative is taken.",
    )


def _of_constant(f: Facts) -> str:
    """Says that a number of the user's does not fit into half precision."""
    if not f.is_half or f.event.eqn is None:
        return ""
    if not any(np.isinf(f.value(k)) and f.maker(k).is_constant for k in (0, 1)):
        return ""
    return f"; the constant is infinite in {f.dtype}, which ends at {f.limit:.4g}"


def _selected(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if facts.is_overflow:
        return
    a, b = called.args
    for mask, values in ((a, b), (b, a)):
        first, later = s.twice(mask)
        masked = f"{s.jnp}.where({later} != 0, {s.plain(values)}, 0)"
        yield "values that are selected, not multiplied by 0", f"({first} * {masked})"


DISEASE = Disease(
    _cause, Rank.OPERATION, remedies={"*": _selected, "multiply": _selected}
)
