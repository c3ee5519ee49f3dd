"""What to write instead of an operation or a call, one rule for each kind.

A rule yields pairs: the idea in a few words, and the new expression. `OPERATORS` and
`FUNCTIONS` say which rule knows what, by the name that stands in the source.
"""

import ast
from collections.abc import Callable, Iterator
from math import log
from typing import Any

import numpy as np

from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.sketch import Called, Sketch

__all__ = ["FUNCTIONS", "OPERATORS", "Rule"]

_SAFE = "a safe value before the operation"
_FLOOR = "a floor that fits the dtype"
_LOG_SPACE = "the logarithm computed directly"
_WIDER = "a wider dtype"

Rule = Callable[[Sketch, Facts, Called], Iterator[tuple[str, str]]]


def _positive(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """Functions that need a positive argument: log, sqrt, rsqrt, lgamma, ..."""
    yield from _in_log_space(s, called)
    argument = called.args[0]
    first, later = s.twice(argument)
    safe = s.with_argument(f"{s.jnp}.where({first} > 0, {later}, 1)")
    floors = [
        s.with_argument(f"{s.jnp}.maximum({s.plain(argument)}, {low})")
        for low in (
            (s.eps + " ** 2", s.eps) if "sqrt" in called.name else (s.tiny, s.eps)
        )
    ]
    if s.is_masked:
        yield _SAFE, safe
    for floor in floors:
        yield _FLOOR, floor
    yield _SAFE, f"{s.jnp}.where({first} > 0, {safe.replace(first, later)}, 0)"


def _in_log_space(s: Sketch, called: Called) -> Iterator[tuple[str, str]]:
    if called.name != "log":
        return
    argument = s.resolved(called.args[0])
    one_minus = isinstance(argument, ast.BinOp) and isinstance(argument.op, ast.Sub)
    if one_minus and ast.unparse(argument.left) in ("1", "1.0"):
        inner = s.call(s.resolved(argument.right))
        if inner is not None and inner.name == "sigmoid":
            logits = s.text(inner.args[0])
            yield _LOG_SPACE, f"{s.jax}.nn.log_sigmoid(-{logits})"
    inner = s.call(argument)
    if inner is not None and inner.name in ("sigmoid", "softmax") and inner.args:
        rest = s.options(inner, "axis", "where")
        logits = s.plain(inner.args[0])
        yield _LOG_SPACE, f"{s.jax}.nn.log_{inner.name}({logits}{rest})"
    if inner is not None and inner.name == "sum" and inner.args:
        terms = s.call(s.resolved(inner.args[0]))
        if terms is not None and terms.name == "exp":
            rest = s.options(inner, "axis", "keepdims")
            lowest = f"{s.jnp}.maximum({s.plain(terms.args[0])}, {s.lowest})"
            yield _LOG_SPACE, f"{s.jax}.nn.logsumexp({s.plain(terms.args[0])}{rest})"
            yield _LOG_SPACE, f"{s.jax}.nn.logsumexp({lowest}{rest})"
    if isinstance(argument, ast.BinOp) and isinstance(argument.op, ast.Pow):
        exponent = s.text(argument.right)
        base = s.call(s.resolved(argument.left))
        if base is not None and base.name == "exp":
            yield _LOG_SPACE, f"({exponent} * {s.text(base.args[0])})"
        root = s.plain(argument.left)
        if _is_even(argument.right):  # the root may be negative, where its power is not
            root = f"{s.jnp}.abs({root})"
        floor = f"{s.jnp}.maximum({root}, {s.tiny})"
        yield _LOG_SPACE, f"({exponent} * {s.jnp}.log({floor}))"


def _is_even(exponent: ast.expr) -> bool:
    return isinstance(exponent, ast.Constant) and exponent.value in (2, 4, 6, 8)


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
    yield _SAFE, s.with_argument(f"{s.jnp}.where({first} == 0, {s.eps}, {later})")


def _deviation(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if "ddof" in called.keywords:
        yield "ddof=0", ast.unparse(_without(s.node, "ddof"))
    args = ", ".join(map(ast.unparse, called.args))
    rest = s.options(called, "axis", "keepdims", "where")
    if called.name == "std":
        for low in (f"{s.eps} ** 2", s.eps):
            variance = f"{s.jnp}.var({args}{rest})"
            yield "a safe deviation", f"{s.jnp}.sqrt({variance} + {low})"


def _mean(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    array = s.text(called.args[0])
    rest = s.options(called, "axis", "keepdims", "where")
    if "where" in called.keywords:
        mask = s.plain(called.keywords["where"])
        axes = s.options(called, "axis", "keepdims")
        count = f"{s.jnp}.sum({mask}{axes})"
        yield _SAFE, f"{s.jnp}.sum({array}{rest}) / {s.jnp}.maximum({count}, 1)"
    yield _SAFE, f"{s.jnp}.sum({array}{rest}) / max({array}.size, 1)"


def _exponential(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    argument = called.args[0]
    if _is_normalised(s):
        shifted = f"{s.text(argument)} - {s.jnp}.max({s.plain(argument)})"
        yield "the maximum subtracted, as a softmax does", s.with_argument(shifted)
    base = 2 if called.name == "exp2" else np.e
    top = log(facts.limit) / log(base)
    for limit in (int(top), int(top / 2), 10):
        bound = f"{s.jnp}.minimum({s.plain(argument)}, {limit})"
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


def _edges(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """Inverse functions, defined between -1 and 1."""
    argument = s.plain(called.args[0])
    clipped = f"{s.jnp}.clip({argument}, -1 + {s.eps}, 1 - {s.eps})"
    yield _FLOOR, s.with_argument(clipped)


def _above_one(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    argument = s.plain(called.args[0])
    yield _FLOOR, s.with_argument(f"{s.jnp}.maximum({argument}, 1 + {s.eps})")


def _log1p(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    argument = s.plain(called.args[0])
    yield _FLOOR, s.with_argument(f"{s.jnp}.maximum({argument}, -1 + {s.eps})")


def _softmax(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """Where a whole row is masked with -inf."""
    for k in range(min(len(called.args), 2 if called.name == "logaddexp" else 1)):
        floor = f"{s.jnp}.maximum({s.plain(called.args[k])}, {s.lowest})"
        yield "a large finite number instead of -inf", s.with_argument(floor, k)


def _xlogy(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    for k in (1, 0):
        if len(called.args) > k:
            floor = f"{s.jnp}.maximum({s.plain(called.args[k])}, {s.tiny})"
            yield _FLOOR, s.with_argument(floor, k)
    if len(called.args) > 1:
        floors = [f"{s.jnp}.maximum({s.plain(a)}, {s.tiny})" for a in called.args[:2]]
        yield _FLOOR, f"{ast.unparse(s.node.func)}({', '.join(floors)})"


def _arctan2(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if len(called.args) == 2:
        y, x = map(s.text, called.args)
        both = f"({y} == 0) & ({x} == 0)"
        yield _SAFE, s.with_argument(f"{s.jnp}.where({both}, 1, {x})", 1)


def _divide(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if len(called.args) != 2:
        return
    numerator, divisor = called.args
    a = s.text(numerator)
    first, later = s.twice(divisor)
    for test in ("{} != 0", f"{s.jnp}.abs({{}}) > {s.eps}"):
        ok, again = test.format(first), test.format(later)
        quotient = f"{a} / {s.jnp}.where({again}, {later}, 1)"
        yield _SAFE, f"{s.jnp}.where({ok}, {quotient}, 0)"
    for low in (s.tiny, s.eps):
        floor = f"{s.jnp}.maximum({s.plain(divisor)}, {low})"
        yield _FLOOR, f"({a} / {floor})"
    yield from _wider(s, facts, called, "/")


def _power(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if len(called.args) != 2:
        return
    base, exponent = called.args
    first, later = s.twice(base)
    e = s.text(exponent)
    for test in ("{} > 0", "{} != 0", f"{s.jnp}.abs({{}}) > {s.eps}"):
        ok, again = test.format(first), test.format(later)
        power = f"{s.jnp}.where({again}, {later}, 1) ** {e}"
        yield _SAFE, f"{s.jnp}.where({ok}, {power}, 0)"
    for low in (s.tiny, s.eps):
        yield _FLOOR, f"({s.jnp}.maximum({s.plain(base)}, {low}) ** {e})"
    yield from _wider(s, facts, called, "**")


def _multiply(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    a, b = called.args
    for mask, values in ((a, b), (b, a)):
        first, later = s.twice(mask)
        masked = f"{s.jnp}.where({later} != 0, {s.plain(values)}, 0)"
        yield "values that are selected, not multiplied by 0", f"({first} * {masked})"
    yield from _wider(s, facts, called, "*")


def _wider(
    s: Sketch, facts: Facts, called: Called, operator: str
) -> Iterator[tuple[str, str]]:
    """The same in float32, for operands of half precision."""
    if facts.is_half:
        a, b = (
            s.text(arg)
            if isinstance(arg, ast.Constant)
            else f"{s.jnp}.asarray({s.plain(arg)}, {s.jnp}.float32)"
            for arg in called.args
        )
        yield _WIDER, f"({a} {operator} {b})"


def _matmul(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    yield from _wider(s, facts, called, "@")


def _add(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    yield from _wider(s, facts, called, "+")


def _subtract(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    yield from _wider(s, facts, called, "-")


def _sum(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if facts.is_half and "dtype" not in called.keywords:
        rest = ", ".join(
            [
                *map(ast.unparse, s.node.args),
                *(ast.unparse(keyword) for keyword in s.node.keywords),
                f"dtype={s.jnp}.float32",
            ]
        )
        yield _WIDER, f"{ast.unparse(s.node.func)}({rest})"


def _cast(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if len(called.args) == 2:
        yield _WIDER, f"{s.text(called.args[0])}.astype({s.jnp}.float32)"


def _matrix(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """A small multiple of the identity, sized from the matrix."""
    a = s.text(called.args[0])
    scale = facts.matrix_scale
    for factor in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        jitter = f"{factor * scale:.0e}" if scale else f"{factor:.0e}"
        eye = f"{jitter} * {s.jnp}.eye({a}.shape[-1], dtype={a}.dtype)"
        yield "a jitter sized from the matrix", s.with_argument(f"{a} + {eye}")


def _spectrum(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """Eigenvalues (or singular values) kept apart by a small diagonal."""
    a = s.text(called.args[0])
    scale = facts.matrix_scale or 1.0
    for factor in (1e-4, 1e-3):
        step = f"{factor * scale:.0e}"
        n = f"{a}.shape[-1]"
        diagonal = f"{step} * {s.jnp}.eye({a}.shape[-2], {n}) * {s.jnp}.arange({n})"
        yield "eigenvalues kept apart", s.with_argument(f"{a} + {diagonal}")


def _take(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    text = ast.unparse(_without(s.node, "mode"))
    yield "indices within bounds", f'{text[:-1]}, mode="clip")'


def _cosine(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    text = ast.unparse(_without(s.node, "epsilon"))
    yield _FLOOR, f"{text[:-1]}, epsilon={s.eps})"


def _without(node: Any, keyword: str) -> Any:
    """A call without one of its keyword arguments."""
    kept = [k for k in node.keywords if k.arg != keyword]
    return ast.Call(func=node.func, args=node.args, keywords=kept)


OPERATORS: dict[Any, Rule] = {
    ast.Add: _add,
    ast.Div: _divide,
    ast.MatMult: _matmul,
    ast.Mult: _multiply,
    ast.Pow: _power,
    ast.Sub: _subtract,
}
FUNCTIONS: dict[str, Rule] = {
    **dict.fromkeys(("acos", "arccos", "asin", "arcsin", "erfinv", "erf_inv"), _edges),
    **dict.fromkeys(("atanh", "arctanh"), _edges),
    **dict.fromkeys(("acosh", "arccosh"), _above_one),
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "cbrt"), _positive),
    **dict.fromkeys(("lgamma", "gammaln", "digamma", "reciprocal"), _positive),
    **dict.fromkeys(("exp", "exp2", "expm1", "cosh", "sinh"), _exponential),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp", "logaddexp"), _softmax),
    **dict.fromkeys(("xlogy", "xlog1py", "rel_entr", "kl_div", "betaln"), _xlogy),
    **dict.fromkeys(
        ("cholesky", "cho_factor", "inv", "solve", "slogdet", "det"), _matrix
    ),
    **dict.fromkeys(("cg", "gmres", "bicgstab"), _matrix),
    **dict.fromkeys(("eigh", "svd", "eigvalsh"), _spectrum),
    **dict.fromkeys(("sum", "mean", "prod", "cumsum"), _sum),
    **dict.fromkeys(("divide", "true_divide"), _divide),
    **dict.fromkeys(("power", "pow"), _power),
    **dict.fromkeys(("take", "take_along_axis", "get"), _take),
    "arctan2": _arctan2,
    "astype": _cast,
    "cosine_similarity": _cosine,
    "cosine_distance": _cosine,
    "log1p": _log1p,
    "mean": _mean,
    "multiply": _multiply,
    "nanmean": _mean,
    "norm": _norm,
    "std": _deviation,
    "var": _deviation,
}
