"""The operations one by one are finite, and what the compiler made of them is not."""

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if not f.event.compiled_only:
        return None
    return (
        "Only the compiled form is non-finite; the same operations, run one by "
        "one, are finite.",
        "The value is at the edge of what its type can hold, and the compiler "
        "reorders operations: scale the values, or compute in float32 or float64.",
    )


DISEASE = Disease(_cause, Rank.SOURCE)
