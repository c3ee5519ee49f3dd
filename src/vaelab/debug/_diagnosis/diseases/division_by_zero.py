"""A division by zero, or a derivative that divides by zero."""

from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.remedy import FLOOR, SAFE, positive
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import entering, example, lost_epsilon


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("div", "rem") or f.value(1) != 0:
        return None
    made = f.underflowed(1)
    if f.backward:
        why = f", because {made} underflows to 0" if made else ""
        return (
            f"A derivative divides by zero{why}, as that of a logarithm or of a "
            f"quotient does at 0: {example(f)}{entering(f)}.",
            "Keep the argument of the logarithm, or the divisor, away from 0.",
        )
    a = f.value(0)
    why = f", which {made} underflowed to in {f.dtype}" if made else ""
    what = "0 / 0 is NaN" if a == 0 else f"{number(a)} / 0 is {f.link.kind}"
    divisor = f.named(1, "the divisor")
    if f.callee in ("mean", "average", "nanmean") and not f.written(1):
        divisor = "the sum of the weights, or the size of what is averaged,"
    return (
        f"Division by zero{why}: {what}; {divisor} is 0 there"
        f"{entering(f) if not f.origin_of(1) else ''}{lost_epsilon(f)}.",
        "Keep the divisor away from 0; or, where nothing was counted or the vector "
        "is zero, choose a value with jnp.where, before and after the division.",
    )


def _quotient(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if len(called.args) != 2:
        return
    numerator, divisor = called.args
    a = s.text(numerator)
    first, later = s.twice(divisor)
    for test in ("{} != 0", f"{s.jnp}.abs({{}}) > {s.eps}"):
        ok, again = test.format(first), test.format(later)
        quotient = f"{a} / {s.jnp}.where({again}, {later}, 1)"
        yield SAFE, f"{s.jnp}.where({ok}, {quotient}, 0)"
    for low in (s.tiny, s.eps):
        yield FLOOR, f"({a} / {s.jnp}.maximum({s.plain(divisor)}, {low}))"


def _mean(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """The mean of nothing is 0."""
    array = s.text(called.args[0])
    rest = s.options(called, "axis", "keepdims", "where")
    if "where" in called.keywords:
        mask = s.plain(called.keywords["where"])
        axes = s.options(called, "axis", "keepdims")
        count = f"{s.jnp}.sum({mask}{axes})"
        yield SAFE, f"{s.jnp}.sum({array}{rest}) / {s.jnp}.maximum({count}, 1)"
    yield SAFE, f"{s.jnp}.sum({array}{rest}) / max({array}.size, 1)"


DISEASE = Disease(
    _cause,
    Rank.OPERATION,
    remedies={
        **dict.fromkeys(("/", "divide", "true_divide"), _quotient),
        **dict.fromkeys(("mean", "nanmean"), _mean),
        "reciprocal": positive,
    },
)
