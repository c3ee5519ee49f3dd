"""Zero to a negative power, or a negative number to a fractional one."""

import ast
from collections.abc import Iterator

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.remedy import FLOOR, SAFE
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import entering, example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("pow", "integer_pow"):
        return None
    x = f.value(0)
    if x == 0 and (f.link.kind == "inf" or f.backward):
        return (
            f"0 to a negative power is infinite: {example(f)}{_derived(f)}; "
            f"{f.named(0, 'the base')} is zero there.",
            "Keep the base away from 0.",
        )
    if np.isreal(x) and np.real(x) < 0 and f.primitive == "pow":
        return (
            f"A negative number, {number(x)}, to a fractional power is NaN"
            f"{entering(f)}.",
            "Clamp the base, jnp.maximum(x, 0) ** y, or use jnp.abs and jnp.sign.",
        )
    return None


def _derived(f: Facts) -> str:
    """Why there is a power though the user wrote another one, or none."""
    if not f.backward:
        return ""
    node = f.expression.node if f.expression is not None else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return "; the derivative of a quotient divides by the square of the divisor"
    return "; the derivative of x ** y at x = 0 is such a power if y < 1"


def _safe_base(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if len(called.args) != 2 or facts.is_overflow:
        return
    base, exponent = called.args
    first, later = s.twice(base)
    e = s.text(exponent)
    for test in ("{} > 0", "{} != 0", f"{s.jnp}.abs({{}}) > {s.eps}"):
        ok, again = test.format(first), test.format(later)
        power = f"{s.jnp}.where({again}, {later}, 1) ** {e}"
        yield SAFE, f"{s.jnp}.where({ok}, {power}, 0)"
    for low in (s.tiny, s.eps):
        yield FLOOR, f"({s.jnp}.maximum({s.plain(base)}, {low}) ** {e})"


DISEASE = Disease(
    _cause,
    Rank.OPERATION,
    remedies=dict.fromkeys(("**", "power", "pow"), _safe_base),
)
