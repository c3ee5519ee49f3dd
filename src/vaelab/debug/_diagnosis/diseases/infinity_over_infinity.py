"""inf / inf."""

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.words import example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("div", "rem"):
        return None
    if not np.isinf(f.value(0)) or not np.isinf(f.value(1)):
        return None
    return (
        f"inf / inf is NaN: {example(f)}.",
        "Find the overflow that made both infinite, such as an exponential: "
        "jax.nn.softmax subtracts the maximum first.",
    )


DISEASE = Disease(_cause, Rank.OPERATION)
