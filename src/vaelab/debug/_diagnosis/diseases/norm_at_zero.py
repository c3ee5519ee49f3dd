"""The gradient of a norm at the vector zero, where it has none."""

import ast
from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.remedy import FLOOR, SAFE, without
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if not f.backward or not f.is_norm():
        return None
    if f.primitive not in ("div", "rsqrt", "pow", "integer_pow", "sqrt"):
        return None
    return (
        "The gradient of a norm (a root of a sum of squares) is not defined where the "
        f"vector is zero: {example(f)}.",
        "Put a floor under the sum of squares, inside the root; or replace zero "
        "vectors before the norm with jnp.where, and its result after it.",
    )


def _norm(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """The root of a sum of squares that has a floor: its gradient at 0 is 0."""
    vector = called.args[0]
    rest = s.options(called, "axis", "keepdims")
    if len(called.args) == 1 and "ord" not in called.keywords:
        square = f"{s.jnp}.sum({s.text(vector)} ** 2{rest})"
        if facts.dtype.startswith("complex"):
            square = f"{s.jnp}.sum({s.jnp}.abs({s.plain(vector)}) ** 2{rest})"
        for low in (f"{s.eps} ** 2", s.eps):
            yield "a safe norm", f"{s.jnp}.sqrt({s.jnp}.maximum({square}, {low}))"
    first, later = s.twice(vector)
    yield SAFE, s.with_argument(f"{s.jnp}.where({first} == 0, {s.eps}, {later})")


def _deviation(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    args = ", ".join(map(ast.unparse, called.args))
    rest = s.options(called, "axis", "keepdims", "where")
    for low in (f"{s.eps} ** 2", s.eps):
        variance = f"{s.jnp}.var({args}{rest})"
        yield "a safe deviation", f"{s.jnp}.sqrt({variance} + {low})"


def _cosine(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    text = ast.unparse(without(s.node, "epsilon"))
    yield FLOOR, f"{text[:-1]}, epsilon={s.eps})"


DISEASE = Disease(
    _cause,
    Rank.PATTERN,
    remedies={
        "norm": _norm,
        "std": _deviation,
        "cosine_similarity": _cosine,
        "cosine_distance": _cosine,
    },
)
