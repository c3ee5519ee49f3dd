"""The rules for single operations: outside of their domain, or out of range."""

from collections.abc import Callable
from math import log

import numpy as np

from vaelab.debug._diagnosis.facts import Facts, number, spread

__all__ = ["RULES"]

Answer = tuple[str, str]

# A part of such a sum may reach inf and another one -inf, which together are NaN.
_SUMS = frozenset({"dot_general", "conv_general_dilated", "reduce_sum", "cumsum"})

_EDGES = {"acos": "±1", "asin": "±1", "atanh": "±1", "acosh": "1", "erf_inv": "±1"}


def _logarithm(f: Facts) -> Answer | None:
    if f.primitive not in ("log", "log1p", "log2"):
        return None
    edge = -1 if f.primitive == "log1p" else 0
    x = f.value(0)
    if x == edge:
        made = f.underflowed(0)
        why = f", because {made} underflows to 0 in {f.dtype}" if made else ""
        return (
            f"{f.primitive} of exactly {edge} is -inf{why}{_range_of(f)}.",
            "Keep the argument away from it: jnp.log(jnp.maximum(x, 1e-12)), or "
            "compute the logarithm directly (log_softmax, log_sigmoid, logsumexp).",
        )
    return (
        f"{f.primitive} of {number(x)}, a number below {edge}, is NaN{_range_of(f)}.",
        "Find out why the argument is negative, or clamp it: jnp.maximum(x, 1e-12).",
    )


def _root(f: Facts) -> Answer | None:
    if f.primitive not in ("sqrt", "rsqrt", "cbrt"):
        return None
    x = f.value(0)
    inverse = f.on_line(*_EDGES)
    if f.backward and inverse is not None:
        return (
            f"The derivative of {inverse} is infinite at the edge of its domain, "
            f"{_EDGES[inverse]}{_range_of(f)}.",
            "Clip the argument to slightly inside: jnp.clip(x, -1 + 1e-6, 1 - 1e-6).",
        )
    if x == 0:
        what = (
            "The slope of a root is infinite at 0"
            if f.backward
            else f"{f.primitive}(0) is inf"
        )
        return (
            f"{what}{_range_of(f)}.",
            "Add a small number inside the root: jnp.sqrt(x + 1e-12).",
        )
    return (
        f"{f.primitive} of {number(x)}, a negative number, is NaN{_range_of(f)}.",
        "A variance should be a mean of squares, jnp.mean((x - mean)**2), which cannot "
        "be negative; otherwise clamp it: jnp.sqrt(jnp.maximum(x, 0)).",
    )


def _division(f: Facts) -> Answer | None:
    if f.primitive not in ("div", "rem"):
        return None
    a, b = f.value(0), f.value(1)
    if b == 0 and f.backward:
        if f.comes_from("sqrt", within=3):
            return (
                f"The slope of a square root is infinite at 0: {_shown(f)}.",
                "Add a small number inside the root: jnp.sqrt(x + 1e-12); or, if a "
                "jnp.where masks it, make the argument safe before the root.",
            )
        made = f.underflowed(1)
        why = f", because {made} underflows to 0" if made else ""
        return (
            f"A derivative divides by zero{why}, as that of a logarithm or of a "
            f"quotient does at 0: {_shown(f)}{_range_of(f)}.",
            "Keep the argument of the logarithm, or the divisor, away from 0: "
            "jnp.maximum(x, 1e-12).",
        )
    if b == 0:
        made = f.underflowed(1)
        why = f", which {made} underflowed to in {f.dtype}" if made else ""
        what = "0 / 0 is NaN" if a == 0 else f"{number(a)} / 0 is {f.link.kind}"
        return (
            f"Division by zero{why}: {what}{_range_of(f)}.",
            "Keep the divisor away from 0: x / jnp.maximum(y, 1e-12); or, where "
            "nothing was counted or the vector is zero, choose a value: "
            "jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0).",
        )
    if np.isinf(a) and np.isinf(b):
        return (
            f"inf / inf is NaN: {_shown(f)}.",
            "Find the overflow that made both infinite, such as an exponential: "
            "jax.nn.softmax subtracts the maximum first.",
        )
    return None


def _exponential(f: Facts) -> Answer | None:
    if f.primitive not in ("exp", "exp2", "expm1", "cosh", "sinh"):
        return None
    base = 2.0 if f.primitive == "exp2" else float(np.e)
    return (
        f"{f.primitive} overflows: {number(f.value(0))} is above "
        f"{log(f.limit) / log(base):.4g}, the largest argument whose result fits into "
        f"{f.dtype}{_range_of(f)}.",
        "Bound the argument, jnp.clip(x, -10, 10) for a log-variance or log-std; for "
        "probabilities use jax.nn.softmax or logsumexp, which subtract the maximum.",
    )


def _conversion(f: Facts) -> Answer | None:
    if f.primitive not in ("convert_element_type", "reduce_precision"):
        return None
    return (
        f"{number(f.value(0))} does not fit into {f.dtype}, whose largest number is "
        f"{f.limit:.4g}.",
        "Scale the values before the cast, or use bfloat16, which has the range of "
        "float32.",
    )


def _power(f: Facts) -> Answer | None:
    if f.primitive not in ("pow", "integer_pow"):
        return None
    x = f.value(0)
    if x == 0:
        return (
            f"0 to a negative power is infinite: {_shown(f)}; the derivative of "
            "x ** y at x = 0 is such a power if y < 1.",
            "Keep the base away from 0: jnp.maximum(x, 1e-12) ** y.",
        )
    if np.isreal(x) and np.real(x) < 0 and f.primitive == "pow":
        return (
            f"A negative number, {number(x)}, to a fractional power is NaN.",
            "Clamp the base, jnp.maximum(x, 0) ** y, or use jnp.abs and jnp.sign.",
        )
    return None


def _indeterminate(f: Facts) -> Answer | None:
    a, b = f.value(0), f.value(1)
    if f.primitive in ("sub", "add", "add_any") and np.isinf(a) and np.isinf(b):
        return (
            f"inf - inf is NaN: {_shown(f)}.",
            "Find out where both became infinite; if one is a mask or a start value, "
            "use a large finite number instead of inf.",
        )
    if f.primitive == "mul" and 0 in (a, b) and (np.isinf(a) or np.isinf(b)):
        return (
            f"0 * inf is NaN: {_shown(f)}; multiplying by zero does not remove an "
            "infinite value.",
            "Select with jnp.where(mask, x, 0) instead of multiplying with a mask, and "
            "make the value finite before a derivative is taken.",
        )
    return None


def _domain(f: Facts) -> Answer | None:
    if f.backward and f.comes_from("eigh", "svd", "eig", "qr"):
        return (
            "Eigenvectors have no derivative where eigenvalues (or singular values) "
            f"are equal: {_shown(f)}.",
            "Separate the values, for example by a small random diagonal, or use a "
            "loss of the values alone.",
        )
    if f.primitive in ("cholesky", "eigh", "lu", "triangular_solve"):
        return (
            f"{f.primitive} cannot handle this matrix: it is not positive definite, or "
            "singular.",
            "Symmetrise it and add a small multiple of the identity: "
            "a + 1e-6 * jnp.eye(n).",
        )
    if f.primitive in _EDGES:
        return (
            f"{f.primitive} of {number(f.value(0))} is at or beyond the edge of its "
            f"domain, {_EDGES[f.primitive]}.",
            "Clip the argument to slightly inside: jnp.clip(x, -1 + 1e-6, 1 - 1e-6).",
        )
    if f.primitive == "gather":
        return (
            "An index is out of bounds, and JAX fills in NaN for such elements.",
            "Check the indices against the array's length.",
        )
    if f.primitive in ("sin", "cos", "tan") and np.isinf(f.value(0)):
        return (
            f"{f.primitive} of inf is NaN.",
            "Find out where its argument became infinite.",
        )
    return None


def _overflow(f: Facts) -> Answer | None:
    sizes = [abs(x) for o in f.link.operands for x in (o.min, o.max) if x is not None]
    if (f.link.kind != "inf" and f.primitive not in _SUMS) or not sizes:
        return None
    if any(operand.infs or operand.nans for operand in f.link.operands):
        return None
    advice = (
        "Compute in float32, at least for sums and losses, lower the loss scale, or "
        "use bfloat16, which has the range of float32."
        if f.is_half and f.limit < 1e6
        else "Scale the values down, work with logarithms, or clip what grows."
    )
    example = f": {f.link.example}" if f.link.example else ""
    return (
        f"{f.primitive} overflows {f.dtype}, whose largest number is {f.limit:.4g}; "
        f"the operands reach {max(sizes):.4g}{example}.",
        advice,
    )


def _shown(f: Facts) -> str:
    return f.link.example or f"{f.primitive} gives {f.link.kind}"


def _range_of(f: Facts) -> str:
    """Where the values come from, as the user knows them."""
    array = f.entering
    if array is None or array.min is None or array.max is None or array.origin is None:
        return ""
    if array.origin.argument is not None:
        where = f"argument {array.origin.argument}"
    elif array.origin.line is not None:
        module = f" in module {array.origin.module}" if array.origin.module else ""
        where = f"line {array.origin.line}{module}"
    else:
        return ""
    return f"; what enters the line, from {where}, {spread(array.min, array.max)}"


RULES: tuple[Callable[[Facts], Answer | None], ...] = (
    _domain,
    _indeterminate,
    _logarithm,
    _root,
    _division,
    _exponential,
    _conversion,
    _power,
    _overflow,
)
