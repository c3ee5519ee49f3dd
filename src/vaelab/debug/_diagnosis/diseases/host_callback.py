"""A function on the host returned a NaN or Inf."""

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.words import entering


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("pure_callback", "io_callback"):
        return None
    return (
        f"The function on the host, called by {f.primitive}, returned a "
        f"{f.link.kind}; JAX did not compute it{entering(f)}.",
        "Look into that function with the operands above.",
    )


DISEASE = Disease(_cause, Rank.OPERATION)
