"""A softmax over a row of which every entry is masked with -inf."""

from collections.abc import Iterator

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.sketch import Called, Sketch


def _cause(f: Facts, *_: Facts) -> Answer | None:
    both = [f.value(0), f.value(1)]
    if f.primitive not in ("sub", "add") or not all(np.isinf(v) for v in both):
        return None
    if not f.subtracts_maximum or both[0] != -np.inf:
        return None
    return (
        "Every entry of a row is masked with -inf: its maximum is -inf, and "
        "-inf - (-inf) is NaN in the softmax.",
        "Leave at least one entry of each row valid, mask with "
        "jnp.finfo(x.dtype).min instead of -inf, or give the rows that are masked "
        "as a whole finite scores, and replace their softmax afterwards: "
        "jnp.where(mask.any(-1, keepdims=True), softmax, 0).",
    )


def _finite(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    for k in range(min(len(called.args), 2 if called.name == "logaddexp" else 1)):
        floor = f"{s.jnp}.maximum({s.plain(called.args[k])}, {s.lowest})"
        yield "a large finite number instead of -inf", s.with_argument(floor, k)


DISEASE = Disease(
    _cause,
    Rank.PATTERN,
    before=("double_where",),
    remedies=dict.fromkeys(
        ("softmax", "log_softmax", "logsumexp", "logaddexp"), _finite
    ),
)
