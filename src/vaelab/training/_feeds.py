"""Where the images of a run come from: the device's memory, or a stream of batches."""

import dataclasses
import math
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from vaelab._warnings import warn_user
from vaelab.training import _functions, _inputs, _streams
from vaelab.training._devices import replicated
from vaelab.training._program import ROWS, Program
from vaelab.training._run import Run

FIRST_STEPS = 64
SECONDS_PER_CALL = 0.5


class Feed(Protocol):
    """Gives a run its images.

    Attributes:
        shape: what a `Program` must know of them.
        example: arrays as the program takes them.
        seen: what the loss is given of them, as far as its structure goes.
        steps_per_epoch: None if only the end of an epoch will tell.
        asked: what must be the same for a run to go on.
    """

    shape: dict[str, Any]
    example: Any
    seen: Any
    steps_per_epoch: int | None
    asked: dict[str, Any]

    def advance(self, run: Run, epoch: int) -> None:
        """Goes forward for a moment, and no further than the end of an epoch."""
        ...

    def place(self) -> Any:
        """Returns what is to be kept at the end of an epoch, beside its number."""
        ...

    def go_to(self, epoch: int, place: Any) -> None:
        """Goes to the end of an epoch, from the beginning of the run."""
        ...


def feed_for(
    model: Any,
    images: Any,
    batch_size: int | None,
    steps_per_epoch: int | None,
    transform: Callable[..., Any] | None,
    mesh: Mesh | None,
    epochs: int,
) -> Feed:
    """Checks the images of a run and makes them ready."""
    _functions.check_transform(transform)
    if _inputs.is_stream(images):
        _inputs.check_stream(images, epochs, batch_size, steps_per_epoch)
        batches = _streams.Batches(images, steps_per_epoch)
        return _Stream(model, batches, transform, mesh)
    if steps_per_epoch is not None:
        raise ValueError(
            f"steps_per_epoch is {steps_per_epoch}, but images are arrays: give "
            "batch_size alone"
        )
    data = _inputs.checked_data(model, images, "images", transform)
    return _InMemory(data, batch_size, transform, mesh)


class _InMemory:
    """Images on the device, shuffled by the program."""

    def __init__(
        self,
        data: Any,
        batch_size: int | None,
        transform: Callable[..., Any] | None,
        mesh: Mesh | None,
    ) -> None:
        n = len(jax.tree.leaves(data)[0])
        size = _inputs.checked_batch_size(batch_size, n)
        _inputs.check_divides(mesh, size)
        self.shape = {"batch_size": size, "num_images": n, "shuffled": True}
        self.steps_per_epoch: int | None = n // size
        self.example = replicated(data, mesh)
        self.seen = _seen(data, transform)
        self.asked: dict[str, Any] = {"num_images": n, "batch_size": size}

    def place(self) -> Any:
        """Returns nothing: the number of the step says all."""
        return None

    def go_to(self, epoch: int, place: Any) -> None:
        """Does nothing: the program picks the images by the number of the step."""

    def advance(self, run: Run, epoch: int) -> None:
        """Takes as many steps as a moment allows, in one call."""
        rate, per_epoch = run.steps_per_second, run.program.steps_per_epoch
        if jax.process_count() > 1:
            steps = per_epoch - run.step % per_epoch  # no clock: all must do the same
        else:
            steps = FIRST_STEPS if math.isnan(rate) else int(rate * SECONDS_PER_CALL)
        last_row = run.step // per_epoch + ROWS
        stop = min(run.step + max(1, steps), min(epoch, last_row) * per_epoch)
        run.take(run.program, self.example, 0, stop)


class _Stream:
    """Batches from an iterable, a group of them for each call."""

    def __init__(
        self,
        model: Any,
        batches: _streams.Batches,
        transform: Callable[..., Any] | None,
        mesh: Mesh | None,
    ) -> None:
        self._as_batch = partial(_inputs.batch_for, model, raw=transform is not None)
        self._batches = batches
        self._mesh = mesh
        self._groups = self._next_epoch()
        first = next(self._groups, None)
        if first is None:
            raise ValueError("images gives no batch: give at least one")
        data = _inputs.checked_data(model, first.data, "images", transform)
        self.seen = _seen(data, transform)
        self._waiting: _streams.Group | None = first
        self._programs: dict[Any, Program] = {}
        self.shape = self._shape(first)
        self.steps_per_epoch: int | None = None
        self.example = first.data
        self.asked: dict[str, Any] = {"steps_per_epoch": batches.steps_per_epoch}

    def place(self) -> Any:
        """Returns the place of an iterator that can say it; nothing is read ahead."""
        return self._batches.place()

    def go_to(self, epoch: int, place: Any) -> None:
        """Goes to the end of an epoch, if need be by skipping what comes before."""
        if self._batches.steps_per_epoch is None or epoch == 0:
            return  # each epoch begins anew
        if self._batches.can_go_to(place):
            self._groups.close()  # it reads ahead
            self._batches.go_to(place)
            self._waiting, self._groups = None, self._next_epoch()
        else:
            self._skip(epoch)

    def advance(self, run: Run, epoch: int) -> None:
        """Takes one group of batches, or ends the epoch."""
        group, self._waiting = self._waiting or next(self._groups, None), None
        if group is not None:
            data = replicated(group.data, self._mesh)
            run.take(self._program(run, group), data, run.step, run.step + group.steps)
        elif run.steps_in_epoch:
            run.finish_epoch()
            self._groups = self._next_epoch()
        else:
            run.stop("no more images")

    def _next_epoch(self) -> Generator[_streams.Group, None, None]:
        batches = map(self._as_batch, self._batches.epoch())
        return _streams.prefetched(_streams.groups(batches))

    def _skip(self, epochs: int) -> None:
        for done in range(epochs):
            skipped = self._waiting or next(self._groups, None)
            self._waiting = None
            if skipped is None:
                raise ValueError(
                    f"images ends after {done} epochs, and the run that it is to go on "
                    f"with has made {epochs}: give the batches from their beginning"
                )
            for _ in self._groups:
                pass
            self._groups = self._next_epoch()
        warn_user(
            f"images cannot be put back to a place: the batches of {epochs} epochs of "
            f"{self._batches.steps_per_epoch} were skipped, which is right if it began "
            "at its beginning and gives the same batches in the same order"
        )

    def _program(self, run: Run, group: _streams.Group) -> Program:
        shape = self._shape(group)
        key = run.program, *shape.values()
        if key not in self._programs:
            _inputs.check_divides(self._mesh, group.batch_size)
            self._programs[key] = dataclasses.replace(run.program, **shape)
        return self._programs[key]

    @staticmethod
    def _shape(group: _streams.Group) -> dict[str, Any]:
        num_images = group.capacity * group.batch_size
        return {
            "batch_size": group.batch_size,
            "num_images": num_images,
            "shuffled": False,
        }


def _seen(data: Any, transform: Callable[..., Any] | None) -> Any:
    return data if transform is None else _inputs.transformed_example(transform, data)
