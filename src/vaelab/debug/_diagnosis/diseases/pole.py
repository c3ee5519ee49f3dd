"""lgamma and its derivatives at zero or at a negative whole number."""

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.remedy import positive
from vaelab.debug._diagnosis.words import entering, example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("lgamma", "digamma", "polygamma") or f.value(0) > 0:
        return None
    return (
        f"{f.primitive} has a pole at {number(f.value(0))}: {example(f)}{entering(f)}.",
        "Keep the argument above 0 by a floor that fits the dtype.",
    )


DISEASE = Disease(
    _cause,
    Rank.OPERATION,
    remedies=dict.fromkeys(("lgamma", "gammaln", "digamma"), positive),
)
