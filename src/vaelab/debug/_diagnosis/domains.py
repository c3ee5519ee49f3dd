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
        nothing = _of_nothing(f)
        return (
            f"{f.primitive} of exactly {edge} is -inf{why}{nothing}{_range_of(f)}"
            f"{lost_epsilon(f)}.",
            "Keep the argument away from it by a floor that fits the dtype, or compute "
            "the logarithm directly (log_softmax, log_sigmoid, logsumexp).",
        )
    return (
        f"{f.primitive} of {number(x)}, a number below {edge}, is NaN{_range_of(f)}.",
        "Find out why the argument is negative, or clamp it with jnp.maximum.",
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
            "Clip the argument to slightly inside.",
        )
    if x == 0:
        what = (
            "The slope of a root is infinite at 0"
            if f.backward
            else f"{f.primitive}(0) is inf"
        )
        return (
            f"{what}{_spread_of(f)}{_range_of(f)}{lost_epsilon(f)}.",
            "Add a small number inside the root that does not vanish in the dtype.",
        )
    return (
        f"{f.primitive} of {number(x)}, a negative number, is NaN{_range_of(f)}.",
        "A variance should be a mean of squares, which cannot be negative; otherwise "
        "clamp it.",
    )


def _division(f: Facts) -> Answer | None:
    if f.primitive not in ("div", "rem"):
        return None
    a, b = f.value(0), f.value(1)
    if b == 0 and f.backward:
        if f.comes_from("sqrt", within=3):
            return (
                f"The slope of a square root is infinite at 0: {_shown(f)}.",
                "Add a small number inside the root; or, if a jnp.where masks it, make "
                "the argument safe before the root.",
            )
        if f.callee in _DIFFICULT:
            return (
                f"The derivative of {f.callee} does not exist at zero: {_shown(f)}"
                f"{_range_of(f)}.",
                "Give it another argument there, by jnp.where before the operation.",
            )
        made = f.underflowed(1)
        why = f", because {made} underflows to 0" if made else ""
        return (
            f"A derivative divides by zero{why}, as that of a logarithm or of a "
            f"quotient does at 0: {_shown(f)}{_range_of(f)}.",
            "Keep the argument of the logarithm, or the divisor, away from 0.",
        )
    if b == 0:
        made = f.underflowed(1)
        why = f", which {made} underflowed to in {f.dtype}" if made else ""
        what = "0 / 0 is NaN" if a == 0 else f"{number(a)} / 0 is {f.link.kind}"
        divisor = f.named(1, "the divisor")
        if f.callee in ("mean", "average", "nanmean") and not f.written(1):
            divisor = "the sum of the weights, or the size of what is averaged,"
        return (
            f"Division by zero{why}: {what}; {divisor} is 0 there"
            f"{_range_of(f) if not f.origin_of(1) else ''}{lost_epsilon(f)}.",
            "Keep the divisor away from 0; or, where nothing was counted or the vector "
            "is zero, choose a value with jnp.where, before and after the division.",
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
    if x == 0 and f.link.kind == "inf" or (x == 0 and f.backward):
        derived = "; the derivative of x ** y at x = 0 is such a power if y < 1"
        return (
            f"0 to a negative power is infinite: {_shown(f)}"
            f"{derived if f.backward else ''}; {f.named(0, 'the base')} is zero there.",
            "Keep the base away from 0.",
        )
    if np.isreal(x) and np.real(x) < 0 and f.primitive == "pow":
        return (
            f"A negative number, {number(x)}, to a fractional power is NaN"
            f"{_range_of(f)}.",
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
    if f.primitive in _SOLVERS or f.callee in ("inv", "solve", "cg"):
        return _matrix(f)
    if f.primitive in ("lgamma", "digamma", "polygamma") and f.value(0) <= 0:
        return (
            f"{f.primitive} has a pole at {number(f.value(0))}: {_shown(f)}"
            f"{_range_of(f)}.",
            "Keep the argument above 0 by a floor that fits the dtype.",
        )
    if f.primitive in ("pure_callback", "io_callback"):
        return (
            f"The function on the host, called by {f.primitive}, returned a "
            f"{f.link.kind}; JAX did not compute it{_range_of(f)}.",
            "Look into that function with the operands above.",
        )
    if f.primitive in _EDGES:
        return (
            f"{f.primitive} of {number(f.value(0))} is at or beyond the edge of its "
            f"domain, {_EDGES[f.primitive]}{_range_of(f)}.",
            "Clip the argument to slightly inside.",
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
    if sizes and max(sizes) < 10 and f.limit > 1e30 and f.primitive not in _SUMS:
        return None  # no large operand: not an overflow
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
    if f.in_optimizer:
        return (
            f"The gradient exploded: it is as large as {max(sizes):.4g} where the "
            f"optimizer takes {f.primitive} of it, which overflows {f.dtype}{example}"
            f"{_range_of(f)}.",
            "Find out why the gradient grew, lower the learning rate, or clip it with "
            "optax.clip_by_global_norm before the optimizer.",
        )
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
        if array.origin.source:
            where += f" ({array.origin.source})"
    else:
        return ""
    return f"; what enters the line, from {where}, {spread(array.min, array.max)}"


def lost_epsilon(f: Facts) -> str:
    """Says that a small number on the way has become 0 in half precision."""
    if not f.is_half or f.sketch is None:
        return ""
    if f.in_optimizer:
        return f"; the optimizer's eps, such as 1e-8, is 0 in {f.dtype}"
    text = f.sketch.expression.text()
    if "eps" in text or "1e-" in text:
        return f"; the epsilon in {text} is 0 in {f.dtype}"
    made = f.maker(len(f.values) - 1) if f.event.eqn is not None else None
    if made is not None and made.eqn is not None and made.eqn.primitive.name == "sub":
        return f"; the difference is lost to rounding in {f.dtype}"
    return ""


def _of_nothing(f: Facts) -> str:
    """Says that there was nothing to add up."""
    called = f.sketch.call() if f.sketch is not None else None
    if called is not None and "where" in called.keywords:
        return f": the mask of {called.name} leaves no entries"
    return ""


def _spread_of(f: Facts) -> str:
    """Says of a normalisation what it is that is zero."""
    called = f.callee.removeprefix(".")
    if called and called not in ("sqrt", "rsqrt", "norm") and f.primitive == "rsqrt":
        return f": the variance that {called} divides by is zero, and so is its epsilon"
    return ""


def _matrix(f: Facts) -> Answer:
    """A matrix that cannot be decomposed or solved, with its condition number."""
    where = ""
    for definition in f.found.origins.entering(f.event):
        array = f.found.values([definition]).get(definition.key)
        shape = np.shape(array)
        if len(shape) == 2 and shape[0] == shape[1] and np.isfinite(array).all():
            wide = np.asarray(array, np.float64)
            values = np.linalg.svd(wide, compute_uv=False)
            ratio = values[0] / values[-1] if values[-1] else np.inf
            where = f"; its condition number is {ratio:.2g}"
            if np.allclose(wide, wide.T):
                lowest = np.linalg.eigvalsh(wide)[0]
                where += f", its smallest eigenvalue {lowest:.2g}"
            break
    if f.primitive == "cholesky":
        return (
            f"cholesky cannot handle this matrix: it is not positive definite, or "
            f"singular{where}.",
            "Symmetrise it and add a small multiple of the identity, sized from the "
            "matrix.",
        )
    name = f.callee or f.primitive
    return (
        f"{name} cannot handle this matrix: it is singular, or nearly so{where}; a "
        f"pivot is zero{_range_of(f)}.",
        "Add a small multiple of the identity, sized from the matrix, or use "
        "jnp.linalg.lstsq or pinv.",
    )


# Solvers of systems, and decompositions.
_SOLVERS = frozenset(
    {"cholesky", "custom_linear_solve", "eigh", "lu", "triangular_solve"}
)
_DIFFICULT = frozenset({"arctan2", "atan2", "hypot"})

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
