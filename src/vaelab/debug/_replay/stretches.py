"""Many rounds of a loop in one compiled call, up to the first that tells something.

What tells nothing is a round whose values have NaNs and Infs in the same arrays as
those of the round before: none at all, or the same ones for ever.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

__all__ = ["scan_stretch", "while_stretch"]

Stretch = Callable[..., tuple[Any, list[Any]]]
"""`(first, stop, carry, around, expected) -> (number, carry)`.

Rounds are taken from `first` up to `stop`, as long as the kinds of what they carry,
take and return are `expected`, `(arrays, 2)`; with None, whatever they are. The carry
is that before round `number`.
"""


def scan_stretch(closed: Any, num_carry: int, length: int, reverse: bool) -> Stretch:
    """The rounds of a scan; `around` is its constants and its `xs`."""
    run = core.jaxpr_as_fun(closed)

    def round_(number: Any, carry: list[Any], around: Any) -> tuple[Any, Any]:
        consts, xs = around
        place = length - 1 - number if reverse else number
        elements = [x[place] for x in xs]
        outs = run(*consts, *carry, *elements)
        return outs[:num_carry], [*elements, *outs[num_carry:]]

    return _stretch(round_, lambda carry, around: True)


def while_stretch(cond: Any, body: Any) -> Stretch:
    """The rounds of a while loop; `around` is the constants of its two functions."""
    goes_on, run = core.jaxpr_as_fun(cond), core.jaxpr_as_fun(body)

    def round_(number: Any, carry: list[Any], around: Any) -> tuple[Any, Any]:
        return run(*around[1], *carry), []

    return _stretch(round_, lambda carry, around: goes_on(*around[0], *carry)[0])


def _stretch(round_: Callable[..., Any], goes_on: Callable[..., Any]) -> Stretch:
    @jax.jit
    def stretch(
        first: Any, stop: Any, carry: list[Any], around: Any, expected: Any
    ) -> tuple[Any, list[Any]]:
        def is_next(state: Any) -> Any:
            number, carry, is_alike = state
            return is_alike & (number < stop) & goes_on(carry, around)

        def take(state: Any) -> Any:
            number, carry, _ = state
            new, others = round_(number, carry, around)
            if expected is None:
                return number + 1, new, jnp.bool_(True)
            is_alike = (_kinds([*new, *others]) == expected).all()
            kept = [jnp.where(is_alike, n, c) for n, c in zip(new, carry, strict=True)]
            return number + is_alike, kept, is_alike

        start = first, carry, jnp.bool_(True)
        return lax.while_loop(is_next, take, start)[:2]

    return stretch


def _kinds(arrays: Sequence[Any]) -> jax.Array:
    """For each array, whether it has NaNs and whether it has Infs."""
    found = [
        [jnp.isnan(x).any(), jnp.isinf(x).any()]
        if jnp.issubdtype(x.dtype, jnp.inexact)
        else [jnp.bool_(False)] * 2
        for x in arrays
    ]
    return jnp.array(found, bool).reshape(len(arrays), 2)
