"""Images that come in batches: more than fit into memory, or from a loader.

Batches are stacked into groups, so that one call of the compiled program takes many
steps, and the next groups are made ready while it runs.
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

GROUP_BYTES = 2**25
GROUP_STEPS = 64

T = TypeVar("T")


class Group(NamedTuple):
    """Some batches after one another.

    Attributes:
        data: a tree of arrays `(capacity * batch_size, ...)`, the last ones padding.
        steps: how many batches there are.
        capacity: how many there is room for.
        batch_size: the number of images in each.
    """

    data: Any
    steps: int
    capacity: int
    batch_size: int


def groups(batches: Iterable[Any], capacity: int | None = None) -> Iterator[Group]:
    """Stacks batches of one size after another.

    Args:
        batches: trees of arrays whose first axis is the batch.
        capacity: the number of batches in a group; None chooses by their size.
    """
    waiting: list[Any] = []
    for batch in batches:
        batch = jax.tree.map(np.asarray, batch)
        if waiting and _shapes(batch) != _shapes(waiting[0]):
            yield _stacked(waiting, _capacity(waiting[0], capacity))
            waiting = []
        waiting.append(batch)
        if len(waiting) == _capacity(batch, capacity):
            yield _stacked(waiting, len(waiting))
            waiting = []
    if waiting:
        yield _stacked(waiting, _capacity(waiting[0], capacity))


def prefetched(items: Iterable[T], ahead: int = 2) -> Generator[T, None, None]:
    """Yields the items, and makes the next ones in a thread of its own meanwhile."""
    iterator = iter(items)
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, iterator, end) for _ in range(ahead))
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, iterator, end))
            yield item


class Batches:
    """The batches of a run, from one epoch to the next.

    Args:
        images: an iterable that starts anew for each epoch, or with `steps_per_epoch`
            any iterator.
        steps_per_epoch: how many batches make an epoch; None takes what there is.
    """

    def __init__(self, images: Any, steps_per_epoch: int | None) -> None:
        self.steps_per_epoch = steps_per_epoch
        self._images = images
        self._iterator = iter(()) if steps_per_epoch is None else iter(images)

    def epoch(self) -> Iterable[Any]:
        """Returns the batches of the next epoch."""
        if self.steps_per_epoch is None:
            return self._images
        return itertools.islice(self._endless(), self.steps_per_epoch)

    def place(self) -> Any:
        """Returns where the iterator is, if it can say so as those of grain do."""
        get_state = getattr(self._iterator, "get_state", None)
        return None if get_state is None else get_state()

    def can_go_to(self, place: Any) -> bool:
        """Whether the iterator can be put to such a place."""
        return place is not None and hasattr(self._iterator, "set_state")

    def go_to(self, place: Any) -> None:
        """Puts the iterator where another one was."""
        self._iterator = iter(self._images)
        self._iterator.set_state(place)  # pyright: ignore[reportAttributeAccessIssue] (as grain's)

    def _endless(self) -> Iterator[Any]:
        end: Any = object()
        while True:
            batch = next(self._iterator, end)
            if batch is end and not isinstance(self._images, Iterator):
                self._iterator = iter(self._images)
                batch = next(self._iterator, end)
            if batch is end:
                return
            yield batch


def _capacity(batch: Any, asked: int | None) -> int:
    if asked is not None:
        return asked
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
    return max(1, min(GROUP_STEPS, GROUP_BYTES // max(size, 1)))


def _shapes(batch: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(batch)]


def _stacked(batches: list[Any], capacity: int) -> Group:
    padding = capacity - len(batches)
    rows = [*batches, *[batches[-1]] * padding]
    data = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
    size = len(jax.tree.leaves(batches[0])[0])
    return Group(data, len(batches), capacity, size)
