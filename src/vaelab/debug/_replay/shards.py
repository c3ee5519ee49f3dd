"""Equations inside of shard_map, each run on all devices.

Every value of the body is kept as one global array whose leading axis, of our making,
counts the devices. An equation, collectives included, runs in a shard_map of its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from vaelab.debug._trace.jaxprs import bind

__all__ = ["Shards"]

# These only change what JAX knows of a value: whether it differs between devices.
_CASTS = frozenset({"pvary", "pcast", "pbroadcast", "reshard"})


class Shards:
    """How equations run inside of one shard_map; see `plain`."""

    def __init__(self, eqn: Any) -> None:
        params = eqn.params
        self.mesh = params["mesh"]
        axes = params.get("newly_manual_axes") or params.get("manual_axes")
        self.axes = tuple(n for n in self.mesh.axis_names if not axes or n in axes)
        self.specs = tuple(params["in_specs"])
        self.leading = PartitionSpec(self.axes)

    def split(self, values: list[Any]) -> list[Any]:
        """The operands of the shard_map, one block for each device."""

        def lead(*blocks: Any) -> tuple[Any, ...]:
            return tuple(jnp.asarray(block)[None] for block in blocks)

        return self._map(lead, self.specs, len(values), values)

    def bind(self, eqn: Any, ins: list[Any]) -> list[Any]:
        """Runs one equation on all devices."""
        split = [
            np.shape(x) != tuple(atom.aval.shape)
            for x, atom in zip(ins, eqn.invars, strict=True)
        ]

        def one(*blocks: Any) -> tuple[Any, ...]:
            rest = iter(blocks)
            local = [
                next(rest)[0] if is_split else x
                for x, is_split in zip(ins, split, strict=True)
            ]
            name = eqn.primitive.name
            if name in _CASTS:
                outs = [
                    jnp.asarray(x, v.aval.dtype)
                    for x, v in zip(local, eqn.outvars, strict=True)
                ]
            elif name == "psum_invariant":
                outs = [jax.lax.psum(x, eqn.params["axes"]) for x in local]
            else:
                outs = bind(eqn, local)
            return tuple(jnp.asarray(out)[None] for out in outs)

        blocks = [x for x, is_split in zip(ins, split, strict=True) if is_split]
        return self._map(one, (self.leading,) * len(blocks), len(eqn.outvars), blocks)

    def element(self, array: Any, i: int, atom: Any) -> Any:
        """What round i of a scan takes from one of its `xs`."""
        return array[:, i] if np.shape(array) != tuple(atom.aval.shape) else array[i]

    def stacked(self, rounds: list[Any]) -> Any:
        """The results of all rounds of a scan as one array."""
        return jnp.stack(rounds, axis=1)

    def branch(self, index: Any) -> int | None:
        """Which branch a cond takes; None if that differs between devices."""
        values = np.unique(np.asarray(index))
        return int(values[0]) if values.size == 1 else None

    def _map(
        self, f: Callable[..., Any], specs: tuple[Any, ...], outs: int, args: list[Any]
    ) -> list[Any]:
        mapped = jax.shard_map(
            f,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=(self.leading,) * outs,
            axis_names=set(self.axes),
            check_vma=False,
        )
        return list(jax.jit(mapped)(*args))
