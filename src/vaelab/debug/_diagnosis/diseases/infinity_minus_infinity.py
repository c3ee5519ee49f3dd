"""inf - inf, or inf + -inf."""

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.words import example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("sub", "add", "add_any"):
        return None
    if not np.isinf(f.value(0)) or not np.isinf(f.value(1)):
        return None
    return (
        f"inf - inf is NaN: {example(f)}.",
        "Find out where both became infinite; if one is a mask or a start value, "
        "use a large finite number instead of inf.",
    )


DISEASE = Disease(_cause, Rank.OPERATION)
