"""A second fault that a NaN often hides: a loss without a lower bound."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vaelab.debug._facts import Facts
from vaelab.debug._jaxprs import call_body
from vaelab.debug._locate import Frame, place_of
from vaelab.debug._origins import Definition

__all__ = ["unbounded_loss"]

# Losses a little below zero are no sign of anything: a Gaussian likelihood has them.
_FAR_BELOW_ZERO = -1.0
# What a cross-entropy from logits is made of.
_CROSS_ENTROPIES = frozenset({"logistic", "log1p"})
_MOST_SCALARS = 64


def unbounded_loss(facts: Facts) -> tuple[str, str] | None:
    """What to add to cause and advice if the loss is far below zero, else None.

    Three things must meet: a loss (a scalar output, or if none is finite a scalar on
    the way to it) far below zero; a cross-entropy from logits, which cannot be negative
    for targets in [0, 1]; and an argument with values outside of [0, 1].
    """
    scalars, has_cross_entropy = _scalars(Frame(facts.found.jaxpr))
    outside = [
        (path, float(np.min(array)), float(np.max(array)))
        for path, array in facts.inputs()
        if _is_data(array) and (np.min(array) < 0 or np.max(array) > 1)
    ]
    if not has_cross_entropy or not outside:
        return None
    returned = [a.min for _, a in facts.found.outputs if a.shape == () and a.nans == 0]
    losses = [x for x in returned if x is not None]
    where = "the loss"
    if not losses or min(losses) > _FAR_BELOW_ZERO:
        scalars = scalars[-_MOST_SCALARS:]
        values = facts.found.values(scalars)
        last = {
            place_of(d.frame, d.eqn).where: (float(np.asarray(values[d.key])), d)
            for d in scalars
            if d.key in values and np.isfinite(np.asarray(values[d.key]))
        }
        found = list(last.values())  # the last one of each line
        if not found:
            return None
        lowest, definition = min(found, key=lambda pair: pair[0])
        line = place_of(definition.frame, definition.eqn).line
        where = f"a scalar of the loss (line {line})"
    else:
        lowest = min(losses)
    if lowest > _FAR_BELOW_ZERO:
        return None
    path, low, high = outside[0]
    return (
        f"Besides, {where} was already {lowest:.4g}, far below what a likelihood of "
        f"data in [0, 1] can give, because {path} lies in [{low:.4g}, {high:.4g}]: "
        "this is an unbounded loss.",
        f"Also scale the data {path} to [0, 1]: a cross-entropy of targets outside of "
        "[0, 1] has no lower bound, and the optimizer drives it towards -inf.",
    )


def _is_data(array: Any) -> bool:
    dtype = getattr(array, "dtype", None)
    if dtype is None or np.size(array) < 2 or np.ndim(array) < 2:
        return False
    return jnp.issubdtype(dtype, jnp.floating) and bool(np.isfinite(array).all())


def _scalars(frame: Frame) -> tuple[list[Definition], bool]:
    """The floating-point scalars of the forward pass; is there a cross-entropy?"""
    found: list[Definition] = []
    cross_entropy = False
    for eqn in frame.jaxpr.eqns:
        body = call_body(eqn)
        if body is not None:
            inner, inside = _scalars(Frame(body[0], frame, eqn))
            found += inner
            cross_entropy |= inside
            continue
        cross_entropy |= eqn.primitive.name in _CROSS_ENTROPIES
        out = eqn.outvars[0] if eqn.outvars else None
        if out is None or getattr(out.aval, "shape", None) != ():
            continue
        if not jnp.issubdtype(out.aval.dtype, jnp.floating):
            continue
        names = frame.names(eqn)
        differentiated = any(is_transform for is_transform, _ in names)
        if differentiated and not frame.is_backward(eqn):
            if place_of(frame, eqn).file is not None:
                found.append(Definition(frame, out, eqn))
    return found, cross_entropy
