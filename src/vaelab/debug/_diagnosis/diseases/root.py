"""A square root of a negative number, or its slope at zero."""

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.remedy import positive
from vaelab.debug._diagnosis.words import entering, example, lost_epsilon


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive in ("div", "rem"):
        if f.value(1) == 0 and f.backward and f.comes_from("sqrt", within=3):
            return (
                f"The slope of a square root is infinite at 0: {example(f)}.",
                "Add a small number inside the root; or, if a jnp.where masks it, make "
                "the argument safe before the root.",
            )
        return None
    if f.primitive not in ("sqrt", "rsqrt", "cbrt"):
        return None
    x = f.value(0)
    if x == 0:
        what = (
            "The slope of a root is infinite at 0"
            if f.backward
            else f"{f.primitive}(0) is inf"
        )
        return (
            f"{what}{_spread_of(f)}{entering(f)}{lost_epsilon(f)}.",
            "Add a small number inside the root that does not vanish in the dtype.",
        )
    return (
        f"{f.primitive} of {number(x)}, a negative number, is NaN{entering(f)}.",
        "A variance should be a mean of squares, which cannot be negative; otherwise "
        "clamp it.",
    )


def _spread_of(f: Facts) -> str:
    """Says of a normalisation what it is that is zero."""
    if f.primitive != "rsqrt" or f.callee in ("rsqrt", "norm"):
        return ""
    if not f.callee and f.link.inside is None:
        return ""
    called = f.callee.removeprefix(".") or "the layer"
    return f": the variance that {called} divides by is zero, and so is its epsilon"


DISEASE = Disease(
    _cause,
    Rank.OPERATION,
    before=("division_by_zero",),
    remedies=dict.fromkeys(("sqrt", "rsqrt", "cbrt"), positive),
)
