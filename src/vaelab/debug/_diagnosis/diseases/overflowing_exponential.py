"""An exponential of too large a number."""

import ast
from collections.abc import Iterator
from math import log

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import entering

_FUNCTIONS = ("exp", "exp2", "expm1", "cosh", "sinh")


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in _FUNCTIONS:
        return None
    advice = (
        "Bound the argument, jnp.clip(x, -10, 10) for a log-variance or log-std; for "
        "probabilities use jax.nn.softmax or logsumexp, which subtract the maximum."
    )
    if f.callee and f.callee not in _FUNCTIONS:
        advice = (
            f"Bound what {f.callee} is given, or work with its logarithm, as gammaln "
            "is that of a factorial; i0e is i0 without its exponential."
        )
    return (
        f"{f.primitive} overflows: {number(f.value(0))} is above "
        f"{_largest(f, f.primitive):.4g}, the largest argument whose result fits into "
        f"{f.dtype}{entering(f)}.",
        advice,
    )


def _largest(f: Facts, function: str) -> float:
    return log(f.limit) / log(2 if function == "exp2" else np.e)


def _bounded(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    argument = called.args[0]
    if _is_normalised(s):
        shifted = f"{s.text(argument)} - {s.jnp}.max({s.plain(argument)})"
        yield "the maximum subtracted, as a softmax does", s.with_argument(shifted)
    top = _largest(facts, called.name)
    for limit in (int(top), int(top / 2), 10):
        bound = f"{s.jnp}.minimum({s.plain(argument)}, {limit})"
        if called.name in ("cosh", "sinh"):
            bound = f"{s.jnp}.clip({s.plain(argument)}, -{limit}, {limit})"
        yield "a bound on the exponent", s.with_argument(bound)


def _is_normalised(s: Sketch) -> bool:
    """Whether the function divides the exponential by something made of it."""
    statement = s.expression.statement
    if not isinstance(statement, ast.Assign) or s.expression.function is None:
        return False
    names = {t.id for t in statement.targets if isinstance(t, ast.Name)}
    for node in ast.walk(s.expression.function):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            sides = [
                {n.id for n in ast.walk(side) if isinstance(n, ast.Name)}
                for side in (node.left, node.right)
            ]
            if names & sides[0] and names & sides[1]:
                return True
    return False


DISEASE = Disease(_cause, Rank.OPERATION, remedies=dict.fromkeys(_FUNCTIONS, _bounded))
