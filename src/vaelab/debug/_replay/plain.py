"""How equations run outside of a shard_map; see `shards` for how they run inside."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from vaelab.debug._replay.tiles import in_tiles
from vaelab.debug._trace.jaxprs import bind

__all__ = ["Plain"]


class Plain:
    """Equations run as they are, and calls and stretches of loops compiled."""

    def __init__(self) -> None:
        self.compiled: dict[int, Any] = {}
        self.stretches: dict[int, Any] = {}

    def bind(self, eqn: Any, ins: list[Any]) -> list[Any]:
        """Runs one equation."""
        outs = in_tiles(eqn, ins)
        return bind(eqn, ins) if outs is None else outs

    def call(self, closed: Any, args: list[Any]) -> list[Any]:
        """Runs a jaxpr, compiled as a whole."""
        if id(closed) not in self.compiled:
            self.compiled[id(closed)] = jax.jit(core.jaxpr_as_fun(closed))
        return list(self.compiled[id(closed)](*args))

    def stretch(self, closed: Any, make: Callable[[], Any]) -> Any:
        """Many rounds of a loop in one compiled call, made when it is first needed."""
        if id(closed) not in self.stretches:
            self.stretches[id(closed)] = make()
        return self.stretches[id(closed)]

    def element(self, array: Any, i: int, atom: Any) -> Any:
        """What round i of a scan takes from one of its `xs`."""
        return array[i]

    def branch(self, index: Any) -> int | None:
        """Which branch a cond takes; None if that differs between devices."""
        return int(index)
