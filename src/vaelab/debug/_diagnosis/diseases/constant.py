"""The program, or a function that it calls, returns a NaN or Inf of its own."""

import ast
from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.remedy import without
from vaelab.debug._diagnosis.sketch import Called, Sketch

_SEGMENTS = (
    "A segment is empty, and the maximum (or minimum) of nothing is infinite.",
    "Choose a value for empty segments, with jnp.isfinite and jnp.where.",
)
_DEGREES = (
    "With ddof=1 the variance of one sample divides by zero degrees of freedom.",
    "Use ddof=0, or more than one sample.",
)
_QUANTILES = (
    "The quantile of exactly zero or one, the boundary of its domain, is infinite.",
    "Keep the probability inside of (0, 1) by a floor that fits the dtype.",
)
_OF_FUNCTIONS: dict[str, Answer] = {
    "expm": (
        "expm gives up on a matrix of too large a norm, which would need more than "
        "max_squarings squarings: it returns NaN.",
        "Scale the matrix down, or raise max_squarings.",
    ),
    **dict.fromkeys(("segment_max", "segment_min"), _SEGMENTS),
    **dict.fromkeys(("var", "std", "cov"), _DEGREES),
    **dict.fromkeys(("ppf", "ndtri", "isf"), _QUANTILES),
}


def _cause(f: Facts, *_: Facts) -> Answer | None:
    source = f.event.source
    if source is None or source.argument is not None:
        return None
    return _OF_FUNCTIONS.get(f.callee) or (
        f"The program itself puts a constant {source.kind} here, and it reaches an "
        "output as it is.",
        "If it is meant as a mask or a start value, do not return it; or use a "
        "large finite number, such as jnp.finfo(x.dtype).min.",
    )


def _deviation(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if "ddof" in called.keywords:
        yield "ddof=0", ast.unparse(without(s.node, "ddof"))


DISEASE = Disease(_cause, Rank.SOURCE, remedies={"std": _deviation, "var": _deviation})
