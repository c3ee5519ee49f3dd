"""A training run in progress: what callbacks see, and how it goes forward."""

import math
import time
from collections.abc import Sequence
from operator import is_
from typing import Any

import jax
import numpy as np
from flax import nnx

from vaelab.callbacks import Callback
from vaelab.training import _devices, _snapshots
from vaelab.training._executables import copied, executables_of
from vaelab.training._guard import first_bad_step, nonfinite_error
from vaelab.training._program import (
    ROWS,
    Bounds,
    Knobs,
    Order,
    Program,
    Stretch,
    Sum,
    without_keys,
)


class Run:
    """A training run in progress, as callbacks see it.

    Attributes:
        epoch: how many epochs are finished.
        epochs: how many were asked for.
        step: how many updates were made.
        steps_per_epoch: how many an epoch takes; None if only its end will tell.
        history: for each quantity a list with one value per finished epoch, to be read
            and left as it is.
        learning_rate_scale: multiplies every update from now on; may be set.
        steps_per_second: of the last steps, compilation apart.
        stopped_by: None while it runs; then `"epochs"`, `"interrupt"`, `"non-finite"`,
            or what a callback gave to `stop`.
    """

    def __init__(
        self,
        model: Any,
        optimizer: nnx.Optimizer,
        program: Program,
        *,
        epochs: int,
        steps_per_epoch: int | None,
        numbers: dict[str, Any],
        seed: int,
        guard: bool,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self.epoch = 0
        self.epochs = epochs
        self.step = 0
        self.steps_per_epoch = steps_per_epoch
        self.history: dict[str, list[float]] = {}
        self.learning_rate_scale = 1.0
        self.steps_per_second = math.nan
        self.stopped_by: str | None = None
        self.program = program
        self.seed = seed
        self.names: Sequence[str] = ()
        self.recorded: Sequence[str] = ()
        self.callbacks: Sequence[Callback] = ()
        self.leaves: list[jax.Array] = []
        self._shown: list[Any] = []
        self._up_to_date = True
        self._before_failure: list[jax.Array] | None = None
        self._numbers = numbers
        self._key = np.asarray(jax.random.key_data(jax.random.key(seed)))
        self._guard = guard
        self.sums: dict[str, Sum] = {}
        self.steps_in_epoch = 0
        self._compiled: set[Program] = set()
        self._order: Order | None = None
        self.read_objects()

    def stop(self, reason: str) -> None:
        """Ends the run after this epoch; `FitResult.stopped_by` says the reason."""
        self.stopped_by = reason

    @property
    def model(self) -> Any:
        """The model, with the parameters of now."""
        self.show()
        return self._model

    @property
    def optimizer(self) -> nnx.Optimizer:
        """The optimizer, with its state of now."""
        self.show()
        return self._optimizer

    @property
    def can_resume(self) -> bool:
        """Whether a run can go on from here; a stream, only where an epoch ended."""
        return self.steps_in_epoch == 0 or self.steps_per_epoch is not None

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns arrays, and facts for JSON, from which the run can go on."""
        return _snapshots.snapshot(self)

    @property
    def knobs(self) -> Knobs:
        """The numbers that the compiled program takes."""
        return Knobs(self._numbers, np.float32(self.learning_rate_scale), self._key)

    def read_objects(self) -> None:
        """Takes over what a callback changed in the model or the optimizer."""
        if not self._up_to_date:
            return
        graphdef, state = nnx.split((self._model, self._optimizer))
        values = jax.tree.leaves(state)
        same = len(values) == len(self._shown) and all(map(is_, values, self._shown))
        if same and graphdef == self.program.graphdef:
            return
        if graphdef != self.program.graphdef:
            self.program = self.program.about(graphdef, state)
        copies = copied(without_keys(state))
        self.leaves = _devices.replicated(copies, self.program.mesh)
        self._shown = values

    def show(self) -> None:
        """Gives the model and the optimizer the arrays of now."""
        if not self._up_to_date:
            self._show(self.leaves)

    def finish(self) -> None:
        """Leaves the model with its last good state."""
        if self._before_failure is not None:
            self._show(self._before_failure)
        elif not any(leaf.is_deleted() for leaf in self.leaves):
            self.show()

    def _show(self, leaves: list[jax.Array]) -> None:
        copies = copied(leaves)
        state = self.program.state(_devices.local(copies, self.program.mesh))
        nnx.update((self._model, self._optimizer), state)
        self._shown = jax.tree.leaves(nnx.split((self._model, self._optimizer))[1])
        self._up_to_date = True

    def take(self, program: Program, data: Any, origin: int, stop: int) -> None:
        """Takes the steps up to `stop`, and notes the epochs that end among them.

        Args:
            program: the program for these images.
            data: images on the device.
            origin: the number of the step at which these images begin.
            stop: the number of the step that is not taken any more.

        Raises:
            NonFiniteError: a step is the first with something non-finite. The run is
                then at the end of the last epoch before it, and the model and the
                optimizer as they were just before it.
        """
        start = copied(self.leaves) if self._guard else None
        began = time.perf_counter()
        try:
            stretch = self._steps(program, self.leaves, data, origin, stop)
            sums, finite, order = jax.device_get(
                (stretch.sums, stretch.finite, stretch.order)
            )
        except Exception as error:
            self.leaves = start or self.leaves
            _devices.explain_lost_peer(error, program.mesh, self.step)
            raise
        if program in self._compiled:
            self.steps_per_second = (stop - self.step) / (time.perf_counter() - began)
        self._compiled.add(program)
        self._up_to_date = False
        if start is None or finite:
            self.leaves = stretch.leaves
            self._order = order if program.shuffled else None
            self._note(sums, program.steps_per_epoch, origin, stop)
        else:
            self._fail(program, start, data, origin, stop)

    def finish_epoch(self) -> None:
        """Adds the means of the steps since the last epoch to the history."""
        for name in self.names:
            mean = float(self.sums[name].value()) / self.steps_in_epoch
            self.history.setdefault(name, []).append(mean)
        self.epoch += 1
        self.sums, self.steps_in_epoch = {}, 0

    def validate(self, data: Any) -> None:
        """Adds what the model makes of images it is not trained on to the history."""
        means = jax.device_get(
            executables_of(self.program).validate(
                self.leaves, data, np.int32(self.step), self.knobs
            )
        )
        for name, mean in means.items():
            self.history.setdefault(f"validation_{name}", []).append(float(mean))

    def _steps(
        self, program: Program, leaves: list[Any], data: Any, origin: int, stop: int
    ) -> Stretch:
        """Takes the steps from now on up to `stop`; `leaves` are donated."""
        sums = {name: Sum.zeros(ROWS) for name in self.names}
        for name, so_far in self.sums.items():
            for rows, value in zip(sums[name], so_far, strict=True):
                rows[0] = value
        bounds = Bounds(np.int32(origin), np.int32(self.step), np.int32(stop))
        order = self._order or program.no_order()
        run = executables_of(program).run
        return run(leaves, sums, data, order, bounds, self.knobs)

    def _note(
        self, sums: dict[str, Sum], per_epoch: int, origin: int, stop: int
    ) -> None:
        """Goes forward to `stop`, through the ends of epochs on the way."""
        for row in range(ROWS):
            if self.step == stop:
                return
            rest = per_epoch - (self.step - origin) % per_epoch
            steps = min(rest, stop - self.step)
            self.sums = jax.tree.map(lambda rows, row=row: rows[row], sums)
            self.steps_in_epoch += steps
            self.step += steps
            if self.steps_in_epoch == self.steps_per_epoch:
                self.finish_epoch()

    def _fail(
        self, program: Program, start: list[Any], data: Any, origin: int, stop: int
    ) -> None:
        def steps_until(end: int) -> Stretch:
            return self._steps(program, copied(start), data, origin, end)

        bad, before = first_bad_step(steps_until, self.step, stop)
        batch = executables_of(program).batch_of_step(
            data, np.int32(bad - origin), self.knobs
        )
        error = nonfinite_error(program, before, batch, bad, self.knobs)
        per_epoch = program.steps_per_epoch
        last_end = max(self.step, origin + (bad - origin) // per_epoch * per_epoch)
        stretch = steps_until(last_end)
        self.leaves = stretch.leaves
        self._note(jax.device_get(stretch.sums), per_epoch, origin, last_end)
        self.stopped_by = "non-finite"
        self._before_failure = before
        raise error
