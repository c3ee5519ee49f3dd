"""The rows of a batch that are to blame: a call with some of them only."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vaelab.debug._trace.call import PureCall

__all__ = ["FailingRows", "batched", "failing_rows"]

_MOST_ROWS = 32


class FailingRows(NamedTuple):
    """Rows without which all is well.

    Attributes:
        numbers: theirs, from 0.
        size: how many the batch has.
    """

    numbers: tuple[int, ...]
    size: int

    @property
    def named(self) -> str:
        """Such as `rows 2, 7`."""
        listed = ", ".join(map(str, self.numbers))
        return f"row {listed}" if len(self.numbers) == 1 else f"rows {listed}"

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.numbers))
        return f"{'this fails' if len(self.numbers) == 1 else 'these fail'}: {listed}"


def failing_rows(
    call: PureCall, is_fine: Callable[[list[Any]], bool]
) -> FailingRows | None:
    """Finds the rows that fail when they make up all of the batch.

    Args:
        call: the call.
        is_fine: whether the call is, with other arrays of the same shapes.

    Returns:
        A few rows without which the call is fine; None if there are none such.
    """
    places = batched(call)
    if not places:
        return None
    size = len(call.leaves[places[0]])

    def is_fine_with(rows: np.ndarray) -> bool:
        leaves = list(call.leaves)
        for place in places:  # the batch keeps its shape: nothing is compiled anew
            leaves[place] = jnp.asarray(leaves[place])[np.resize(rows, size)]
        return is_fine(leaves)

    failing: list[int] = []
    todo = [np.arange(size)]
    while todo:
        rows = todo.pop()
        if is_fine_with(rows):
            continue
        if len(rows) > 1:
            todo += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
            continue
        failing.append(int(rows[0]))
        if len(failing) > _MOST_ROWS:
            return None
    rest = np.setdiff1d(np.arange(size), failing)
    if not failing or not rest.size or not is_fine_with(rest):
        return None
    return FailingRows(tuple(failing), size)


def batched(call: PureCall) -> list[int]:
    """The arguments that hold one row for each example.

    They are no state of NNX objects, and, in a function of several arguments, not in
    the first of them, which holds the parameters; their lengths agree.
    """
    paths = call.paths[: call.state_start]
    heads = [path.split("[")[0].split(".")[0] for path in paths]
    several = len(set(heads)) > 1
    places = [
        k
        for k, head in enumerate(heads)
        if np.ndim(call.leaves[k]) and not (several and head == heads[0])
    ]
    if call.state_start < len(call.leaves):
        places = [k for k in range(len(paths)) if np.ndim(call.leaves[k])]
    lengths = Counter(len(call.leaves[k]) for k in places)
    if not lengths:
        return []
    size = lengths.most_common(1)[0][0]
    return [k for k in places if len(call.leaves[k]) == size] if size > 1 else []
