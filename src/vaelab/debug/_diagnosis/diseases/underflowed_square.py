"""A square too small for its dtype is zero, where what was squared is not."""

import ast
from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, assigned, number, spread
from vaelab.debug._diagnosis.remedy import LOG_SPACE
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import reached
from vaelab.debug.report import Origin


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("log", "div", "rsqrt", "pow", "integer_pow"):
        return None
    places = range(len(f.values)) if f.event.eqn is not None else ()
    base = next((b for k in places if (b := f.squared(k)) is not None), None)
    if base is None:
        return None
    value = f"{number(base)} squared is below {f.tiny:.2g}, the smallest normal number"
    cause = (
        f"A square underflows to 0 in {f.dtype} ({value}), and {reached(f)}"
        f"{_range_of_root(f)}."
    )
    logarithm = f.primitive == "log" or "log" in (f.link.source or "")
    made = f.entering.origin if f.entering else None
    if logarithm and made is not None and made.primitive == "exp":
        name = assigned(made.source) or "the value"
        log = f"log_{name}" if name.isidentifier() else "the logarithm"
        return cause, (
            f"Bound {log} before its exponential is taken, as in "
            f"{name} = jnp.exp(jnp.clip({log}, -10, 10)), and compute from {log} (the "
            f"KL divergence too: -2 * {log} instead of -log({name} ** 2)). Rewriting "
            f"the logarithm alone, as 2 * log({name}), only delays the NaN until "
            f"{name} itself underflows."
        )
    if logarithm:
        return cause, (
            "Write log(x ** 2) as 2 * log(x), and keep x itself away from 0: that "
            "alone only delays the failure until x underflows."
        )
    return cause, "Divide by x twice instead of by its square, or keep x away from 0."


def _range_of_root(f: Facts) -> str:
    array = f.entering
    if array is None or array.min is None or array.max is None:
        return ""
    where = f", computed {_place(array.origin)}" if array.origin else ""
    name = assigned(array.origin.source) if array.origin else None
    name = name or "the value that enters the line"
    return f"; {name} {spread(array.min, array.max)}{where}"


def _place(origin: Origin) -> str:
    if origin.argument is not None:
        return f"outside, as argument {origin.argument}"
    module = f" in module {origin.module}" if origin.module else ""
    return f"at line {origin.line}{module}: {origin.source}"


def _multiple(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """The exponent times the logarithm of the root."""
    power = s.resolved(called.args[0])
    if not isinstance(power, ast.BinOp) or not isinstance(power.op, ast.Pow):
        return
    exponent = s.text(power.right)
    base = s.call(s.resolved(power.left))
    if base is not None and base.name == "exp":
        yield LOG_SPACE, f"({exponent} * {s.text(base.args[0])})"
    root = s.plain(power.left)
    if _is_even(power.right):  # the root may be negative, where its power is not
        root = f"{s.jnp}.abs({root})"
    yield LOG_SPACE, f"({exponent} * {s.jnp}.log({s.jnp}.maximum({root}, {s.tiny})))"


def _is_even(exponent: ast.expr) -> bool:
    return isinstance(exponent, ast.Constant) and exponent.value in (2, 4, 6, 8)


DISEASE = Disease(
    _cause,
    Rank.PATTERN,
    before=("saturation", "norm_at_zero"),
    remedies={"log": _multiple},
)
