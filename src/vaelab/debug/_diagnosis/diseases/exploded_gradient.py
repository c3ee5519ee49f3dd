"""A gradient that is finite and too large for what the optimizer does with it."""

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.words import entering


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if not f.in_optimizer or f.link.kind != "inf":
        return None
    largest = f.largest_operand
    if not largest or (largest < 10 and f.limit > 1e30):
        return None
    shown = f": {f.link.example}" if f.link.example else ""
    return (
        f"The gradient exploded: it is as large as {largest:.4g} where the "
        f"optimizer takes {f.primitive} of it, which overflows {f.dtype}{shown}"
        f"{entering(f)}.",
        "Find out why the gradient grew, lower the learning rate, or clip it with "
        "optax.clip_by_global_norm before the optimizer.",
    )


DISEASE = Disease(_cause, Rank.RANGE, before=("overflow",))
