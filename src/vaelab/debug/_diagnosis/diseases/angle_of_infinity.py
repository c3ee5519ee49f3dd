"""The sine, cosine or tangent of infinity."""

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("sin", "cos", "tan") or not np.isinf(f.value(0)):
        return None
    return (
        f"{f.primitive} of inf is NaN.",
        "Find out where its argument became infinite.",
    )


DISEASE = Disease(_cause, Rank.OPERATION)
