"""A sigmoid, tanh or softmax that rounds to exactly 0 or 1, under a logarithm."""

import ast
from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.remedy import LOG_SPACE
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import reached


def _cause(f: Facts, *_: Facts) -> Answer | None:
    source = f.link.source or ""
    slope = f.primitive == "div" and f.backward
    if f.primitive not in ("log", "log1p") and not (
        slope and any(name in source for name in ("log", "entropy"))
    ):
        return None
    name = f.saturated()
    if name is None or not any(v in (0, -1) for v in f.values if v is not None):
        return None
    return (
        f"{name} saturates: in {f.dtype} it rounds to exactly 0 or 1, and "
        f"{reached(f)}.",
        "Compute from the logits: jax.nn.log_sigmoid(x) for log(sigmoid(x)), "
        "jax.nn.log_sigmoid(-x) for log(1 - sigmoid(x)), jax.nn.log_softmax(x) for "
        "log(softmax(x)), or optax.sigmoid_binary_cross_entropy.",
    )


def _from_logits(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    argument = s.resolved(called.args[0])
    if isinstance(argument, ast.BinOp) and isinstance(argument.op, ast.Sub):
        inner = s.call(s.resolved(argument.right))
        is_rest = ast.unparse(argument.left) in ("1", "1.0")
        if is_rest and inner is not None and inner.name == "sigmoid":
            yield LOG_SPACE, f"{s.jax}.nn.log_sigmoid(-{s.text(inner.args[0])})"
    inner = s.call(argument)
    if inner is not None and inner.name in ("cdf", "sf"):
        function, bracket, values = s.plain(argument).partition(f".{inner.name}(")
        yield LOG_SPACE, f"{function}.log{bracket[1:]}{values}"
    if inner is not None and inner.name in ("sigmoid", "softmax") and inner.args:
        rest = s.options(inner, "axis", "where")
        logits = s.plain(inner.args[0])
        yield LOG_SPACE, f"{s.jax}.nn.log_{inner.name}({logits}{rest})"


DISEASE = Disease(
    _cause, Rank.PATTERN, before=("norm_at_zero",), remedies={"log": _from_logits}
)
