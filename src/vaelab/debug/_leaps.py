"""The losses of a run, and the first of them that leaps."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vaelab.debug import _arguments as arguments

__all__ = ["Leap", "Leaps", "Losses"]

_REMEMBERED = 20  # losses, of which the median is what is usual
_ENOUGH = 5


class Leaps:
    """Which losses leap.

    A loss leaps if it is above `usual + (factor - 1) * max(abs(usual), spread)`, where
    `usual` is the median of the 20 losses before it, and `spread` the median of their
    distances from it. So a positive loss leaps at about `factor` times what is usual.

    Args:
        factor: above 1.

    >>> leaps = Leaps(10.0)
    >>> leaps.first([1.0, 1.1, 0.9, 1.0, 1.0, 1.2, 12.0, 1.0]), leaps.usual
    (6, 1.0)
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def usual(self) -> float:
        """The median of the losses so far."""
        return float(np.median(self._recent))

    def first(self, losses: Sequence[float]) -> int | None:
        """The number of the first loss that leaps; those before it are remembered."""
        for i, loss in enumerate(losses):
            if not np.isfinite(loss):
                continue
            if len(self._recent) >= _ENOUGH:
                usual = self.usual
                spread = np.median(np.abs(np.asarray(self._recent) - usual))
                room = (self.factor - 1) * max(abs(usual), spread)
                if loss - usual > room:
                    return i
            self._recent.append(float(loss))
        return None


class Leap(NamedTuple):
    """A loss that leaps.

    Attributes:
        number: that of its step since the last look.
        loss: its value.
        usual: what it was before.
        pick: takes what the step returns and picks the loss.
    """

    number: int
    loss: float
    usual: float
    pick: Callable[[Any], Any]


class Losses:
    """Keeps the losses between two looks, without waiting for them.

    Args:
        factor: what counts as a leap; see `Leaps`.
        pick: from what a step returns, all leaves and those that are watched.
    """

    def __init__(
        self, factor: float, pick: Callable[[Any], tuple[list[Any], list[Any]]]
    ) -> None:
        self._leaps = Leaps(factor)
        self._pick = pick
        self._kept: list[dict[int, Any]] = []

    def keep(self, picked: list[Any]) -> None:
        """Keeps what could be the loss among the leaves that are watched.

        Raises:
            ValueError: nothing could.
        """
        numbers = {k: x for k, x in enumerate(picked) if is_number(x)}
        if not numbers:
            raise ValueError(
                f"spikes is {self._leaps.factor:g}, but the step returns no number "
                "that could be its loss: return it, or pick it, as in "
                "watch=lambda out: out.loss.mean()"
            )
        self._kept.append(numbers)

    def leap(self, state: set[int]) -> Leap | None:
        """Looks at the losses since the last look.

        Args:
            state: the numbers of the leaves that are no losses.
        """
        kept, self._kept = self._kept, []
        place = next((k for k in kept[0] if k not in state), None)
        if place is None:
            return None
        losses = [float(x) for x in jax.device_get([step[place] for step in kept])]
        index = self._leaps.first(losses)
        if index is None:
            return None

        def pick(out: Any) -> Any:
            return self._pick(out)[1][place]

        return Leap(index, losses[index], self._leaps.usual, pick)


def is_number(leaf: Any) -> bool:
    """Whether this could be a loss."""
    return arguments.is_inexact(leaf) and np.ndim(leaf) == 0
