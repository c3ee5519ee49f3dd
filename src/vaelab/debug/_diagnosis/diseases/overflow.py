"""A result larger than its dtype can hold."""

import ast
from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.remedy import WIDER
from vaelab.debug._diagnosis.sketch import Called, Sketch

# A part of such a sum may reach inf and another one -inf, which together are NaN.
_SUMS = frozenset({"dot_general", "conv_general_dilated", "reduce_sum", "cumsum"})


def _cause(f: Facts, *_: Facts) -> Answer | None:
    largest = f.largest_operand
    is_sum = f.primitive in _SUMS
    if not largest or (f.link.kind != "inf" and not is_sum):
        return None
    if largest < 10 and f.limit > 1e30 and not is_sum:
        return None  # no large operand: not an overflow
    advice = (
        "Compute in float32, at least for sums and losses, lower the loss scale, or "
        "use bfloat16, which has the range of float32."
        if f.is_half and f.limit < 1e6
        else "Scale the values down, work with logarithms, or clip what grows."
    )
    shown = f": {f.link.example}" if f.link.example else ""
    return (
        f"{f.primitive} overflows {f.dtype}, whose largest number is {f.limit:.4g}; "
        f"the operands reach {largest:.4g}{shown}.",
        advice,
    )


def _wide(operator: str):
    def remedy(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
        """The same in float32, for operands of half precision."""
        if facts.is_half and len(called.args) == 2:
            a, b = (
                s.text(arg)
                if isinstance(arg, ast.Constant)
                else f"{s.jnp}.asarray({s.plain(arg)}, {s.jnp}.float32)"
                for arg in called.args
            )
            yield WIDER, f"({a} {operator} {b})"

    return remedy


def _wide_sum(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if facts.is_half and "dtype" not in called.keywords:
        options = [*map(s.plain, s.node.args), *map(s.plain, s.node.keywords)]
        rest = ", ".join([*options, f"dtype={s.jnp}.float32"])
        yield WIDER, f"{s.plain(s.node.func)}({rest})"


DISEASE = Disease(
    _cause,
    Rank.RANGE,
    remedies={
        **{operator: _wide(operator) for operator in ("+", "-", "*", "/", "@", "**")},
        **dict.fromkeys(("divide", "true_divide"), _wide("/")),
        **dict.fromkeys(("power", "pow"), _wide("**")),
        "multiply": _wide("*"),
        **dict.fromkeys(("sum", "mean", "prod", "cumsum"), _wide_sum),
    },
)
