"""Why an operation failed, and what to do about it, in plain sentences.

The rules are asked in order, the more special ones first; the first one that knows an
answer gives it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vaelab.debug._attempt import attempt
from vaelab.debug._diagnosis.domains import RULES as DOMAIN_RULES
from vaelab.debug._diagnosis.facts import Facts, number, spread
from vaelab.debug._diagnosis.losses import unbounded_loss
from vaelab.debug.report import Link

__all__ = ["cause_and_advice"]

Answer = tuple[str, str]


def cause_and_advice(found: Any, chain: Sequence[Link]) -> Answer:
    """Why the first link of a chain happened, and what helps."""
    main = found.stories[0].chain
    facts = [Facts(found, *pair) for pair in zip(chain, main, strict=True)]
    cause, advice = _answer(facts)
    note = unbounded_loss(facts[0])
    if note:
        cause, found.besides = f"{cause} {note[0]}", note[1]
    return cause, advice


def _answer(facts: list[Facts]) -> Answer:
    first = facts[0]
    if first.event.source is not None:
        return _from_source(first)
    if first.event.compiled_only:
        return (
            "Only the compiled form is non-finite; the same operations, run one by "
            "one, are finite.",
            "The value is at the edge of what its type can hold, and the compiler "
            "reorders operations: scale the values, or compute in float32 or float64.",
        )
    problems = first.found.problems
    for rule in _PATTERNS:
        answer = attempt(lambda rule=rule: rule(facts), None, problems)
        if answer is not None:
            return answer
    for rule in DOMAIN_RULES:
        answer = attempt(lambda rule=rule: rule(first), None, problems)
        if answer is not None:
            return answer
    finite = not any(o.nans or o.infs for o in first.link.operands)
    operands = "finite operands" if finite else "operands that are partly infinite"
    return (
        f"{first.primitive} makes {_kind(first)} of {operands}.",
        "Look at the ranges of the operands above, and at what is known of "
        f"{first.primitive} outside of its domain.",
    )


def _from_source(first: Facts) -> Answer:
    source = first.event.source
    assert source is not None
    if source.argument is None:
        known = _OWN_CONSTANTS.get(first.callee)
        if known is not None:
            return known[0], known[1]
        return (
            f"The program itself puts a constant {source.kind} here, and it reaches an "
            "output as it is.",
            "If it is meant as a mask or a start value, do not return it; or use a "
            "large finite number, such as jnp.finfo(x.dtype).min.",
        )
    call = first.found.call
    where = call.paths.index(source.argument)
    array = np.asarray(call.leaves[where])
    bad = ~np.isfinite(array)
    index = [int(i) for i in np.argwhere(bad)[0]] if array.ndim else []
    what = "NaN" if source.kind == "nan" else "infinite"
    cause = (
        f"The argument {source.argument} was already non-finite before the first "
        f"operation: {int(bad.sum())} of its {array.size} elements are not finite, the "
        f"first at index {index} is {what}."
    )
    if where >= call.state_start:
        return cause, (
            "An earlier step has spoilt this state: explain that step instead, for "
            "example with vaelab.debug.guarded, or start from a checkpoint before it."
        )
    return cause, (
        "If it is data, leave out or repair those entries: "
        "jnp.isfinite(x).all(axis=...) finds the good rows. If it is a parameter, an "
        "earlier step has spoilt it: explain that step instead."
    )


def _masked_row(facts: list[Facts]) -> Answer | None:
    first = facts[0]
    both = [first.value(0), first.value(1)]
    if first.primitive not in ("sub", "add") or not all(np.isinf(v) for v in both):
        return None
    if first.subtracts_maximum and both[0] == -np.inf:
        return (
            "Every entry of a row is masked with -inf: its maximum is -inf, and "
            "-inf - (-inf) is NaN in the softmax.",
            "Leave at least one entry of each row valid, mask with "
            "jnp.finfo(x.dtype).min instead of -inf, or give the rows that are masked "
            "as a whole finite scores, and replace their softmax afterwards: "
            "jnp.where(mask.any(-1, keepdims=True), softmax, 0).",
        )
    return None


def _sum_of_nothing(facts: list[Facts]) -> Answer | None:
    first = facts[0]
    if first.primitive not in ("log", "div") or not first.sums_exponentials:
        return None
    return (
        f"A sum of exponentials is 0: all of them underflow, because the entries are "
        f"very negative, or they are masked with -inf; and {_shown(first)}.",
        "Leave at least one entry of each row valid, or mask with "
        "jnp.finfo(x.dtype).min instead of -inf.",
    )


def _double_where(facts: list[Facts]) -> Answer | None:
    first = facts[0]
    masked = next((f for f in facts if f.backward and f.is_masked()), None)
    later = any(f.backward for f in facts)
    if not later or (masked is None or not first.backward) and not first.is_hidden:
        return None
    if masked is not None and first.callee in ("eigh", "svd", "eig", "qr"):
        return None
    plain = next((a for r in DOMAIN_RULES if (a := r(first)) is not None), None)
    why = f" {plain[0]}" if plain else ""
    through = f": {_shown(masked)}" if masked is not None else ""
    return (
        f"A jnp.where hides the branch in which {_shown(first)}, but the gradient "
        f"still passes through that branch{through}, which is the double-where "
        f"problem.{why}",
        "Make the argument safe before the operation as well, with a jnp.where of its "
        "own.",
    )


def _underflowed_square(facts: list[Facts]) -> Answer | None:
    first = facts[0]
    if first.primitive not in ("log", "div", "rsqrt", "pow", "integer_pow"):
        return None
    for k in range(len(first.values)):
        base = first.squared(k) if first.event.eqn is not None else None
        if base is not None:
            break
    else:
        return None
    value = (
        f"{number(base)} squared is below {first.tiny:.2g}, the smallest normal number"
    )
    cause = (
        f"A square underflows to 0 in {first.dtype} ({value}), and {_reached(first)}"
        f"{_range(first)}."
    )
    logarithm = first.primitive == "log" or "log" in (first.link.source or "")
    made = first.entering.origin if first.entering else None
    if logarithm and made is not None and made.primitive == "exp":
        name = _assigned(made.source) or "the value"
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
    return cause, ("Divide by x twice instead of by its square, or keep x away from 0.")


def _saturated(facts: list[Facts]) -> Answer | None:
    first = facts[0]
    logarithm = first.primitive in ("log", "log1p") or (
        first.primitive == "div"
        and first.backward
        and any(name in (first.link.source or "") for name in ("log", "entropy"))
    )
    name = first.saturated() if logarithm else None
    if name is None or not any(v in (0, -1) for v in first.values if v is not None):
        return None
    return (
        f"{name} saturates: in {first.dtype} it rounds to exactly 0 or 1, and "
        f"{_reached(first)}.",
        "Compute from the logits: jax.nn.log_sigmoid(x) for log(sigmoid(x)), "
        "jax.nn.log_sigmoid(-x) for log(1 - sigmoid(x)), jax.nn.log_softmax(x) for "
        "log(softmax(x)), or optax.sigmoid_binary_cross_entropy.",
    )


def _norm_at_zero(facts: list[Facts]) -> Answer | None:
    first = facts[0]
    if not first.backward or not first.is_norm():
        return None
    if first.primitive not in ("div", "rsqrt", "pow", "integer_pow", "sqrt"):
        return None
    return (
        "The gradient of a norm (a root of a sum of squares) is not defined where the "
        f"vector is zero: {_shown(first)}.",
        "Put a floor under the sum of squares, inside the root; or replace zero "
        "vectors before the norm with jnp.where, and its result after it.",
    )


# Functions that return a constant NaN or Inf of their own: why, and what to do.
_OWN_CONSTANTS: dict[str, Answer] = {
    "expm": (
        "expm gives up on a matrix of too large a norm, which would need more than "
        "max_squarings squarings: it returns NaN.",
        "Scale the matrix down, or raise max_squarings.",
    ),
    **dict.fromkeys(
        ("segment_max", "segment_min"),
        (
            "A segment is empty, and the maximum (or minimum) of nothing is infinite.",
            "Choose a value for empty segments, with jnp.isfinite and jnp.where.",
        ),
    ),
    **dict.fromkeys(
        ("var", "std", "cov"),
        (
            "With ddof=1 the variance of one sample divides by zero degrees of "
            "freedom.",
            "Use ddof=0, or more than one sample.",
        ),
    ),
    **dict.fromkeys(
        ("ppf", "ndtri", "isf"),
        (
            "The quantile of exactly zero or one, the boundary of its domain, is "
            "infinite.",
            "Keep the probability inside of (0, 1) by a floor that fits the dtype.",
        ),
    ),
}

_PATTERNS: tuple[Callable[[list[Facts]], Answer | None], ...] = (
    _masked_row,
    _sum_of_nothing,
    _double_where,
    _underflowed_square,
    _saturated,
    _norm_at_zero,
)


def _reached(facts: Facts) -> str:
    """What the zero does, in words."""
    if facts.primitive == "log":
        return "the logarithm of 0 is -inf"
    if facts.backward and "log" in (facts.link.source or ""):
        return "the gradient of the logarithm divides by it"
    return f"{_shown(facts)}"


def _range(facts: Facts) -> str:
    array = facts.entering
    if array is None or array.min is None or array.max is None:
        return ""
    where = f", computed {_where(array.origin)}" if array.origin else ""
    name = _assigned(array.origin.source) if array.origin else None
    name = name or "the value that enters the line"
    return f"; {name} {spread(array.min, array.max)}{where}"


def _where(origin: Any) -> str:
    if origin.argument is not None:
        return f"outside, as argument {origin.argument}"
    module = f" in module {origin.module}" if origin.module else ""
    return f"at line {origin.line}{module}: {origin.source}"


def _assigned(source: str | None) -> str | None:
    """`std` for `std = jnp.exp(log_std)`."""
    name, equals, _ = (source or "").partition(" = ")
    return name.split(":")[0].strip() if equals and name.isidentifier() else None


def _shown(facts: Facts) -> str:
    return facts.link.example or f"{facts.primitive} gives {_kind(facts)}"


def _kind(facts: Facts) -> str:
    return "a NaN" if facts.link.kind == "nan" else "an Inf"
