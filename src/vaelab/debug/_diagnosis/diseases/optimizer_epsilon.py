"""An optimizer divides by a root of squares that is zero, and has no eps to add."""

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.words import entering, example, lost_epsilon


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if not f.in_optimizer or f.backward:
        return None
    divides = f.primitive == "div" and f.value(1) == 0
    if not divides and not (f.primitive == "rsqrt" and f.value(0) == 0):
        return None
    return (
        "The optimizer divides by the root of a mean of squared gradients, which is "
        f"zero: {example(f)}{entering(f)}{lost_epsilon(f)}.",
        "Give the optimizer an eps that its dtype can hold, such as "
        f"eps={'1e-4' if f.is_half else '1e-8'}"
        f"{', or keep its state in float32' if f.is_half else ''}.",
    )


DISEASE = Disease(_cause, Rank.CALL)
