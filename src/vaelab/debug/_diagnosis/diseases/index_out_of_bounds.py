"""An index beyond the end of an array, where JAX fills in NaN."""

import ast
from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.remedy import without
from vaelab.debug._diagnosis.sketch import Called, Sketch


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive != "gather":
        return None
    return (
        "An index is out of bounds, and JAX fills in NaN for such elements.",
        "Check the indices against the array's length.",
    )


def _clipped(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    text = ast.unparse(without(s.node, "mode"))
    yield "indices within bounds", f'{text[:-1]}, mode="clip")'


DISEASE = Disease(
    _cause,
    Rank.OPERATION,
    remedies=dict.fromkeys(("take", "take_along_axis", "get"), _clipped),
)
