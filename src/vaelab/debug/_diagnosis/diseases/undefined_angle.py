"""The derivative of an angle (or a length) at the origin, where it has none."""

from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.remedy import SAFE
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import entering, example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.callee not in ("arctan2", "atan2", "hypot") or not f.backward:
        return None
    if f.primitive not in ("div", "rem") or f.value(1) != 0:
        return None
    return (
        f"The derivative of {f.callee} does not exist at zero: {example(f)}"
        f"{entering(f)}.",
        "Give it another argument there, by jnp.where before the operation.",
    )


def _arctan2(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if len(called.args) == 2:
        y, x = map(s.text, called.args)
        both = f"({y} == 0) & ({x} == 0)"
        yield SAFE, s.with_argument(f"{s.jnp}.where({both}, 1, {x})", 1)


DISEASE = Disease(_cause, Rank.CALL, remedies={"arctan2": _arctan2})
