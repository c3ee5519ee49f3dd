"""Forward or backward: what the derivative's equations look like from inside.

Equations of a backward pass carry `transpose` in their names. The coefficients of a
derivative, such as 1 / (2 sqrt(x)), do not: JAX computes them in the forward pass,
where they look like any other equation. What gives them away is that only the backward
pass uses them.
"""

import ast
from typing import Any

from vaelab.debug._replay.events import Event
from vaelab.debug._trace.jaxprs import is_literal, raw_frames, scan_counts
from vaelab.debug._trace.locate import Frame, is_recomputed, place_of, users_first
from vaelab.debug._trace.source import expression_of

__all__ = ["direction_of"]


def direction_of(event: Event, events: list[Event]) -> str:
    """`"forward"` or `"backward"`.

    Args:
        event: what is asked about.
        events: all events of the replay.
    """
    frame, eqn = event.frame, event.eqn
    names = frame.names(eqn)
    if event.source is not None and event.source.argument is not None:
        return "forward"
    if frame.is_backward(eqn):
        return "backward"
    if not any(is_transform and "jvp" in name for is_transform, name in names):
        return "forward"
    if is_recomputed(names) and _happened_before(event, events):
        return "forward"
    if _is_coefficient(frame, eqn):
        return "backward"
    if _is_used_forward(frame, eqn) or _is_primal(frame, eqn):
        return "forward"
    return "backward"


def _is_coefficient(frame: Frame, eqn: Any) -> bool:
    """Whether an equation is a part of the derivative of its expression.

    In forward mode the derivative reaches an output without any backward equation. But
    an expression has one operation that makes its value, such as the sqrt of
    `jnp.sqrt(x)`; what follows after it, from the same expression, is its derivative.
    """
    found = expression_of(frame, eqn)
    if found is None:
        return False
    names = _makers(found.node)
    here = [
        e for e in frame.jaxpr.eqns if e is eqn or _same(raw_frames(e), raw_frames(eqn))
    ]
    value = next((e for e in here if e.primitive.name in names), None)
    if value is None or value is eqn:
        return False
    order = {id(e): k for k, e in enumerate(here)}
    return order[id(value)] < order[id(eqn)]


def _same(one: list[Any], other: list[Any]) -> bool:
    """Whether two equations come from the same expression of the user's."""
    pair = [users_first(pairs, lambda p: p[0].co_filename) for pairs in (one, other)]
    return pair[0] is not None and pair[0] == pair[1]


def _makers(node: Any) -> tuple[str, ...]:
    """The operation that makes the value of an expression."""
    if isinstance(node, ast.BinOp):
        return _OPERATORS.get(type(node.op), ())
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        return _FUNCTIONS.get(name, ())
    return ()


_OPERATORS = {ast.Div: ("div",), ast.Pow: ("pow", "integer_pow", "square", "sqrt")}
_FUNCTIONS = {
    "arccos": ("acos",),
    "arcsin": ("asin",),
    "arctan2": ("atan2",),
    "arctanh": ("atanh",),
    "arccosh": ("acosh",),
    "cbrt": ("cbrt",),
    "log": ("log",),
    "log1p": ("log1p",),
    "norm": ("sqrt",),
    "power": ("pow",),
    "rsqrt": ("rsqrt",),
    "sqrt": ("sqrt",),
    "std": ("sqrt",),
}


def _happened_before(event: Event, events: list[Event]) -> bool:
    """Whether the same went wrong in the forward pass that remat repeats."""
    where = place_of(event.frame, event.eqn).where
    return any(
        other.number < event.number
        and other.primitive == event.primitive
        and not is_recomputed(other.frame.names(other.eqn))
        and place_of(other.frame, other.eqn).where == where
        for other in events
    )


def _is_used_forward(frame: Frame, eqn: Any) -> bool:
    """Whether a result ends in an output, or in a forward value that nobody uses."""
    marked = set(eqn.outvars)
    while True:
        outs = _ends(frame, marked)
        if outs is None:
            return True
        if not outs:
            return False
        if frame.parent is None:
            return True
        marked = {frame.eqn.outvars[k] for k in outs if k < len(frame.eqn.outvars)}
        frame = frame.parent


def _ends(frame: Frame, marked: set[Any]) -> set[int] | None:
    """The outputs of a jaxpr that the marked variables reach by forward equations.

    Returns None if one of them reaches a dead end, such as the loss of which only the
    gradient is asked for.
    """
    jaxpr = frame.jaxpr
    num_consts, num_carry = scan_counts(frame.eqn) if frame.kind == "scan" else (0, 0)
    while True:
        used: set[Any] = set()
        for eqn in jaxpr.eqns:
            hit = marked.intersection(a for a in eqn.invars if not is_literal(a))
            used |= hit
            if hit and not frame.is_backward(eqn):
                marked |= set(eqn.outvars)
        returned = [v for v in jaxpr.outvars if not is_literal(v)]
        if any(v not in used and v not in returned for v in marked):
            return None
        outs = {
            k for k, v in enumerate(jaxpr.outvars) if not is_literal(v) and v in marked
        }
        # What is carried into the next round, and used there.
        again = {jaxpr.invars[num_consts + k] for k in outs if k < num_carry}
        again = {v for v in again if any(v in e.invars for e in jaxpr.eqns)}
        if again <= marked:
            return outs
        marked |= again


def _is_primal(frame: Frame, eqn: Any) -> bool:
    """Whether an equation computes the value of its line, and not its derivative.

    This decides where the value of the line is used for its derivative alone, as in
    `jax.grad(jnp.sqrt)`. The value comes first: the first equation on the line that
    uses what enters the line is one of those that lead to it.
    """
    where = place_of(frame, eqn).where
    jaxpr = frame.jaxpr
    on_line = [
        e
        for e in jaxpr.eqns
        if place_of(frame, e).where == where and not frame.is_backward(e)
    ]
    if any(_is_used_forward(frame, e) for e in on_line):
        return False
    makers = {v: e for e in on_line for v in e.outvars}
    lead: list[Any] = []
    entering: set[Any] = set()
    todo = [eqn]
    while todo:
        e = todo.pop()
        lead.append(e)
        for atom in e.invars:
            if is_literal(atom):
                continue
            if atom in makers:
                if not any(makers[atom] is known for known in lead):
                    todo.append(makers[atom])
            else:
                entering.add(atom)
    for variable in entering:
        first = next(e for e in on_line if any(a is variable for a in e.invars))
        if not any(first is known for known in lead):
            return False
    users = [e for e in jaxpr.eqns if any(v in e.invars for v in eqn.outvars)]
    only_forward = users and not any(map(frame.is_backward, users))
    return bool(only_forward) or eqn.primitive.name == "exp"
