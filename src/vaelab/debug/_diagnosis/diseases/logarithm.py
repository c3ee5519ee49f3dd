"""A logarithm of zero, or of a negative number."""

from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.remedy import FLOOR, positive
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import entering, lost_epsilon


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("log", "log1p", "log2"):
        return None
    edge = -1 if f.primitive == "log1p" else 0
    x = f.value(0)
    if x != edge:
        return (
            f"{f.primitive} of {number(x)}, a number below {edge}, is NaN"
            f"{entering(f)}.",
            "Find out why the argument is negative, or clamp it with jnp.maximum.",
        )
    made = f.underflowed(0)
    why = f", because {made} underflows to 0 in {f.dtype}" if made else ""
    return (
        f"{f.primitive} of exactly {edge} is -inf{why}{_of_nothing(f)}{entering(f)}"
        f"{lost_epsilon(f)}.",
        "Keep the argument away from it by a floor that fits the dtype, or compute "
        "the logarithm directly (log_softmax, log_sigmoid, logsumexp).",
    )


def _of_nothing(f: Facts) -> str:
    """Says that there was nothing to add up."""
    called = f.sketch.call() if f.sketch is not None else None
    if called is not None and "where" in called.keywords:
        return f": the mask of {called.name} leaves no entries"
    return ""


def _log1p(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    argument = s.plain(called.args[0])
    yield FLOOR, s.with_argument(f"{s.jnp}.maximum({argument}, -1 + {s.eps})")


def _xlogy(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    for k in (1, 0):
        if len(called.args) > k:
            floor = f"{s.jnp}.maximum({s.plain(called.args[k])}, {s.tiny})"
            yield FLOOR, s.with_argument(floor, k)
    if len(called.args) > 1:
        floors = [f"{s.jnp}.maximum({s.plain(a)}, {s.tiny})" for a in called.args[:2]]
        yield FLOOR, f"{s.plain(s.node.func)}({', '.join(floors)})"


_OF_TWO = ("xlogy", "xlog1py", "rel_entr", "kl_div", "betaln")
DISEASE = Disease(
    _cause,
    Rank.OPERATION,
    remedies={
        **dict.fromkeys(("log", "log2", "log10"), positive),
        **dict.fromkeys(_OF_TWO, _xlogy),
        "log1p": _log1p,
    },
)
