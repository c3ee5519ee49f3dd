"""An argument was NaN or Inf already, before the first operation."""

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts


def _cause(f: Facts, *_: Facts) -> Answer | None:
    source = f.event.source
    if source is None or source.argument is None:
        return None
    call = f.found.call
    where = call.paths.index(source.argument)
    array = np.asarray(call.leaves[where])
    bad = ~np.isfinite(array)
    index = [int(i) for i in np.argwhere(bad)[0]] if array.ndim else []
    what = "NaN" if source.kind == "nan" else "infinite"
    cause = (
        f"The argument {source.argument} was already non-finite before the first "
        f"operation: {int(bad.sum())} of its {array.size} elements are not finite, the "
        f"first at index {index} is {what}."
    )
    if where >= call.state_start:
        return cause, (
            "An earlier step has spoilt this state: explain that step instead, for "
            "example with vaelab.debug.guarded, or start from a checkpoint before it."
        )
    return cause, (
        "If it is data, leave out or repair those entries: "
        "jnp.isfinite(x).all(axis=...) finds the good rows. If it is a parameter, an "
        "earlier step has spoilt it: explain that step instead."
    )


DISEASE = Disease(_cause, Rank.SOURCE)
