"""A loss without a lower bound: a fault that a NaN often hides."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._lineage.origins import Definition, Origins
from vaelab.debug._trace.jaxprs import call_body
from vaelab.debug._trace.locate import Frame, place_of

# Losses a little below zero are no sign of anything: a Gaussian likelihood has them.
_FAR_BELOW_ZERO = -1.0
# What a cross-entropy from logits is made of.
_CROSS_ENTROPIES = frozenset({"logistic", "log1p"})
_MOST_SCALARS = 64
_BENDING = frozenset("abs exp log1p logistic max tanh".split())
_ADDING = frozenset(
    "add add_any broadcast_in_dim convert_element_type neg reshape sub".split()
)


def _cause(facts: Facts, *_: Facts) -> Answer | None:
    """Three things must meet.

    A loss far below zero, which is the first scalar that is returned, or if it is not
    finite a scalar on the way to it; a cross-entropy from logits, which cannot be
    negative for targets in [0, 1]; and a single argument that is used as targets are,
    with values outside of [0, 1].
    """
    found = facts.found
    scalars, has_cross_entropy = _scalars(Frame(found.jaxpr))
    outside = {
        path: (float(np.min(array)), float(np.max(array)))
        for path, array in facts.inputs()
        if _is_data(array) and (np.min(array) < 0 or np.max(array) > 1)
    }
    if not has_cross_entropy or not outside:
        return None
    targets = _targets(found.origins, found.jaxpr) & outside.keys()
    if len(targets) != 1:
        return None
    [path] = targets
    low, high = outside[path]
    returned = [a for _, a in found.outputs if a.shape == () and "float" in a.dtype]
    where = "the loss"
    if returned and not (returned[0].nans or returned[0].infs):
        lowest = returned[0].min
    else:
        scalars = scalars[-_MOST_SCALARS:]
        values = found.values(scalars)
        last = {
            place_of(d.frame, d.eqn).where: (float(np.asarray(values[d.key])), d)
            for d in scalars
            if d.key in values and np.isfinite(np.asarray(values[d.key]))
        }
        if not last:
            return None
        lowest, definition = min(last.values(), key=lambda pair: pair[0])
        line = place_of(definition.frame, definition.eqn).line
        where = f"a scalar of the loss (line {line})"
    if lowest is None or lowest > _FAR_BELOW_ZERO:
        return None
    holds = f"is {low:.4g}" if low == high else f"lies in [{low:.4g}, {high:.4g}]"
    return (
        f"Besides, {where} was already {lowest:.4g}, far below what a likelihood of "
        f"data in [0, 1] can give, because {path} {holds}: this "
        "is an unbounded loss.",
        f"Also scale the data {path} to [0, 1]: a cross-entropy of targets outside of "
        "[0, 1] has no lower bound, and the optimizer drives it towards -inf.",
    )


def _is_data(array: Any) -> bool:
    dtype = getattr(array, "dtype", None)
    if dtype is None or np.size(array) < 2 or np.ndim(array) < 2:
        return False
    return jnp.issubdtype(dtype, jnp.floating) and bool(np.isfinite(array).all())


def _targets(origins: Origins, jaxpr: Any) -> set[str]:
    """The paths of the arguments that are used as a cross-entropy uses its targets.

    They are multiplied with something, and the product is summed up. Logits may be
    multiplied with the targets, too, but a nonlinear function is applied to them.
    """
    factors: set[str] = set()
    bent: set[str] = set()
    todo = [Frame(jaxpr)]
    while todo:
        frame = todo.pop()
        for eqn in frame.jaxpr.eqns:
            body = call_body(eqn)
            if body is not None:
                todo.append(Frame(body[0], frame, eqn))
            elif not frame.is_backward(eqn):
                name = eqn.primitive.name
                paths = {_argument(origins, frame, atom) for atom in eqn.invars}
                if name in _BENDING:
                    bent |= paths
                elif name == "mul" and _is_summed(frame, eqn.outvars[0]):
                    factors |= paths
    return (factors - bent) - {""}


def _argument(origins: Origins, frame: Frame, atom: Any) -> str:
    """The path of the argument that an operand is, but for its sign; else empty."""
    made = origins.definition(frame, atom)
    if made.eqn is not None and made.eqn.primitive.name == "neg":
        made = origins.definition(made.frame, made.eqn.invars[0])
    return "" if made.argument is None else origins.paths[made.argument]


def _is_summed(frame: Frame, variable: Any) -> bool:
    """Whether a variable goes into a sum by way of additions alone."""
    todo, seen = [variable], set()
    while todo:
        variable = todo.pop()
        if variable in seen:
            continue
        seen.add(variable)
        for eqn in frame.jaxpr.eqns:
            if any(atom is variable for atom in eqn.invars):
                if eqn.primitive.name == "reduce_sum":
                    return True
                if eqn.primitive.name in _ADDING:
                    todo += eqn.outvars
        if frame.parent is not None and frame.kind == "call":
            outs = frame.jaxpr.outvars
            places = [k for k, out in enumerate(outs) if out is variable]
            if any(_is_summed(frame.parent, frame.eqn.outvars[k]) for k in places):
                return True
    return False


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


DISEASE = Disease(_cause, Rank.BESIDES)
