"""Ways to write an expression so that it stays finite, the best one first.

Each is a candidate and no more: what is advised is the first one that was tried and
kept all outputs and gradients finite; see `_verify`.
"""

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vaelab.debug._diagnosis.diseases import remedies
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.remedy import FLOOR
from vaelab.debug._diagnosis.sketch import Called, Repair, Sketch
from vaelab.debug._trace.source import Expression, expression_of

__all__ = ["repairs_of"]

_BOUNDED = "bounds on the logarithm, before its exponential is taken"
_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Div: "/",
    ast.MatMult: "@",
    ast.Mult: "*",
    ast.Pow: "**",
    ast.Sub: "-",
}


def repairs_of(expression: Expression, facts: Facts) -> list[Repair]:
    """The candidates for one failing expression."""
    sketch = Sketch(expression, facts.dtype)
    found = list(_before_exponential(sketch, facts))
    found += [
        Repair(what, ((expression.node, code),), expression)
        for what, code in _here(sketch, facts)
    ]
    found += _at_definitions(sketch, facts)
    infinite = any(operand.infs for operand in facts.link.operands)
    if facts.event.is_constant or infinite:  # elsewhere they may well be meant
        found += _without_infinities(sketch)
    return found


def _here(s: Sketch, facts: Facts) -> Iterator[tuple[str, str]]:
    """What to write for the expression itself."""
    node = s.node
    called = s.call()
    if isinstance(node, ast.BinOp):
        operator = _OPERATORS.get(type(node.op), "")
        called = Called(operator, [node.left, node.right], {})
    if called is None or not called.args:
        return
    known = remedies().get(called.name, ())
    for remedy in known:
        yield from remedy(s, facts, called)
    if not known and isinstance(node, ast.Call) and not facts.in_optimizer:
        yield from _floors(s, facts, called)


def _floors(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """Floors under the zeros that a function is given which fails there."""
    names = facts.names_of_zeros() if 0 in facts.values else ()
    for k, argument in enumerate(called.args):
        if s.plain(argument) in names:
            for low in (s.tiny, s.eps):
                floor = f"{s.jnp}.maximum({s.plain(argument)}, {low})"
                yield FLOOR, s.with_argument(floor, k)


def _before_exponential(s: Sketch, facts: Facts) -> Iterator[Repair]:
    """Bounds on a logarithm whose exponential comes in, perhaps from another file."""
    if facts.callee in ("exp", "exp2", "expm1"):
        return
    for definition in facts.found.origins.entering(facts.event):
        eqn = definition.eqn
        if eqn is None or eqn.primitive.name != "exp":
            continue
        made = expression_of(definition.frame, eqn)
        called = Sketch(made, s.dtype).call() if made is not None else None
        if made is not None and called is not None and called.name == "exp":
            there = Sketch(made, s.dtype)
            bounds = f"{there.jnp}.clip({there.plain(called.args[0])}, -10, 10)"
            code = there.with_argument(bounds)
            yield Repair(_BOUNDED, ((made.node, code),), made)


def _at_definitions(s: Sketch, facts: Facts) -> Iterator[Repair]:
    """Rewrites what the expression is made of: a norm, a root, an exponential."""
    names = [n for n in ast.walk(s.node) if isinstance(n, ast.Name)]
    inner = [n for n in ast.walk(s.node) if isinstance(n, ast.Call) and n is not s.node]
    for name in names:
        value = s.expression.definition(name.id)
        if value is not None:
            inner += [n for n in ast.walk(value) if isinstance(n, ast.Call)]
    for node in inner:
        called = s.call(node)
        if called is None or called.name not in ("norm", "sqrt", "std", "exp"):
            continue
        there = Sketch(_moved(s.expression, node), s.dtype)
        for remedy in remedies()[called.name]:
            for what, code in remedy(there, facts, called):
                yield Repair(what, ((node, code),), s.expression)


def _moved(expression: Expression, node: Any) -> Expression:
    return replace(expression, node=node)


def _without_infinities(s: Sketch) -> Iterator[Repair]:
    """Large finite numbers for the infinities of a mask or a start value."""
    nodes = s.infinities()
    if nodes:
        changes = []
        for node in nodes:
            negative = ast.unparse(node).lstrip("(").startswith("-") or "-inf" in (
                ast.unparse(node)
            )
            bound = s.lowest if negative else s.lowest.replace(".min", ".max")
            changes.append((node, bound))
        yield Repair(
            "a large finite number instead of inf", tuple(changes), s.expression
        )
