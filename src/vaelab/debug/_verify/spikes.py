"""What would have kept a loss from leaping: tried on the very step that leapt."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaelab.debug._trace.call import PureCall
from vaelab.debug._verify.batch import batched, failing_rows

__all__ = ["advice_on_spike"]

_AS_USUAL = 0.1  # of the leap may remain

Advice = tuple[str, str]


def advice_on_spike(
    call: PureCall,
    before: PureCall | None,
    loss_with: Callable[[list[Any]], float],
    loss: float,
    usual: float,
) -> Advice:
    """What to do, and how it was tried; nothing if nothing that was tried helps.

    Args:
        call: the step whose loss leaps.
        before: the step before it; None if there is none.
        loss_with: the loss of the step with other arrays.
        loss: of the step.
        usual: what it was before.
    """

    def is_usual(leaves: list[Any]) -> bool:
        return loss_with(leaves) - usual <= _AS_USUAL * (loss - usual)

    failing = failing_rows(call, is_usual)
    if failing is not None:
        rest = np.setdiff1d(np.arange(failing.size), failing.numbers)
        leaves = list(call.leaves)
        for place in batched(call):
            rows = np.resize(rest, failing.size)
            leaves[place] = jnp.asarray(leaves[place])[rows]
        return (
            f"Look at {failing.named} of the batch: the loss of the rest is as usual. "
            "Repair or leave out such data, or bound what one row adds to the loss.",
            f"tried, without {failing.named}: the loss is {loss_with(leaves):.4g}",
        )
    if before is not None and before.paths == call.paths:
        of_batch = set(batched(call))
        leaves = [
            new if k in of_batch else old
            for k, (old, new) in enumerate(zip(before.leaves, call.leaves, strict=True))
        ]
        if is_usual(leaves):
            return (
                "The update of the step before made it leap: lower the learning rate, "
                "warm it up, or clip the gradient with optax.clip_by_global_norm.",
                "tried, with the state of the step before: the loss is "
                f"{loss_with(leaves):.4g}",
            )
    return "", "nothing that was tried brings it back"
