"""What several diseases write instead of a call: safe values, floors, wider dtypes."""

import ast
from collections.abc import Iterator
from typing import Any

from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.sketch import Called, Sketch

__all__ = ["FLOOR", "LOG_SPACE", "SAFE", "WIDER", "positive", "without"]

SAFE = "a safe value before the operation"
FLOOR = "a floor that fits the dtype"
LOG_SPACE = "the logarithm computed directly"
WIDER = "a wider dtype"


def positive(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """For a function that needs a positive argument: log, sqrt, rsqrt, lgamma, ..."""
    argument = called.args[0]
    first, later = s.twice(argument)
    safe = s.with_argument(f"{s.jnp}.where({first} > 0, {later}, 1)")
    is_root = "sqrt" in called.name
    if s.is_masked:
        yield SAFE, safe
    for low in (f"{s.eps} ** 2", s.eps) if is_root else (s.tiny, s.eps):
        yield FLOOR, s.with_argument(f"{s.jnp}.maximum({s.plain(argument)}, {low})")
    yield SAFE, f"{s.jnp}.where({first} > 0, {safe.replace(first, later)}, 0)"


def without(node: Any, keyword: str) -> Any:
    """A call without one of its keyword arguments."""
    kept = [k for k in node.keywords if k.arg != keyword]
    return ast.Call(func=node.func, args=node.args, keywords=kept)
