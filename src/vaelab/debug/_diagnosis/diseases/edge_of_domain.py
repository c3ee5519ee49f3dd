"""arcsin, arctanh, erfinv, ...: at the edge of their domain or beyond it."""

from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank, Remedy
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.remedy import FLOOR
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import entering

_EDGES = {"acos": "±1", "asin": "±1", "atanh": "±1", "acosh": "1", "erf_inv": "±1"}


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive in _EDGES:
        return (
            f"{f.primitive} of {number(f.value(0))} is at or beyond the edge of its "
            f"domain, {_EDGES[f.primitive]}{entering(f)}.",
            "Clip the argument to slightly inside.",
        )
    if f.backward and f.primitive in ("sqrt", "rsqrt", "cbrt"):
        inverse = f.on_line(*_EDGES)
        if inverse is not None:
            return (
                f"The derivative of {inverse} is infinite at the edge of its domain, "
                f"{_EDGES[inverse]}{entering(f)}.",
                "Clip the argument to slightly inside.",
            )
    return None


def _between(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    argument = s.plain(called.args[0])
    clipped = f"{s.jnp}.clip({argument}, -1 + {s.eps}, 1 - {s.eps})"
    yield FLOOR, s.with_argument(clipped)


def _above_one(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    argument = s.plain(called.args[0])
    yield FLOOR, s.with_argument(f"{s.jnp}.maximum({argument}, 1 + {s.eps})")


_REMEDIES: dict[str, Remedy] = {
    **dict.fromkeys(("acos", "arccos", "asin", "arcsin"), _between),
    **dict.fromkeys(("atanh", "arctanh", "erfinv", "erf_inv"), _between),
    **dict.fromkeys(("acosh", "arccosh"), _above_one),
}
DISEASE = Disease(_cause, Rank.CALL, remedies=_REMEDIES)
