"""From a stretch of steps that ended badly to the one step that began it.

The compiled program takes any prefix of a stretch with the same bits, so the first bad
step is found by bisection: a handful of replays, none longer than the stretch itself.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from vaelab.training._program import Knobs, Program, Stretch

if TYPE_CHECKING:
    from vaelab.debug import NonFiniteError


def first_bad_step(
    steps_until: Callable[[int], Stretch], first: int, stop: int
) -> tuple[int, list[jax.Array]]:
    """Finds the step that makes the loss or the state non-finite.

    Args:
        steps_until: takes the steps from `first` up to a given one.
        first: the number of the first step.
        stop: steps up to this one are known to end badly.

    Returns:
        The number of the first bad step, and the state before it.
    """
    good, bad = first, stop  # the steps before `good` end well, those before `bad` not
    while bad - good > 1:
        middle = (good + bad) // 2
        if steps_until(middle).finite:
            good = middle
        else:
            bad = middle
    return good, steps_until(good).leaves


def nonfinite_error(
    program: Program, leaves: list[jax.Array], batch: Any, step: int, knobs: Knobs
) -> "NonFiniteError":
    """Returns the error for a bad step, with its explanation.

    Args:
        program: of the run.
        leaves: the state before the step.
        batch: what it was given.
        step: its number.
        knobs: as in the run.
    """
    from vaelab.debug._failure import failure_of_step  # most runs need no debugger

    def training_step(model: Any, optimizer: nnx.Optimizer, batch: Any) -> Any:
        return program.step(model, optimizer, batch, np.int32(step), knobs)

    return failure_of_step(step, training_step, (*program.objects(leaves), batch))
