"""Checkpoints of a training run."""

import math
import os
from typing import TYPE_CHECKING, Any

from vaelab._arguments import checked_path, checked_whole
from vaelab._warnings import warn_user
from vaelab.callbacks._callback import Callback
from vaelab.callbacks._metric import (
    checked_metric,
    checked_mode,
    last_score,
    require_mode,
)
from vaelab.checkpoints._store import Store

if TYPE_CHECKING:
    from vaelab.training import Run


class Checkpoint(Callback):
    """Writes all that a run needs to go on, bit for bit, after it was killed.

    The two latest checkpoints are kept, and of those written the best one beside them,
    for `vaelab.load(path, best=True)`. An older one is deleted only when the new one is
    complete and was read back. They are of the run as it goes: parameters that
    `EarlyStopping` gives back at its end are not in the latest one. With `fit(...,
    resume=path)` the same script begins, goes on, or is done, as the case may be. It
    runs after all other callbacks, so what they decided is in it.

    Args:
        path: the folder, a new one, an empty one, or one with checkpoints to go on
            from. Logs and other files belong elsewhere.
        every: after how many epochs it writes. It also writes at the end, and after
            Ctrl-C and a NaN. Writing takes longer than a short epoch of a small model:
            there, `every=10` saves time.
        metric: says which checkpoint is the best, as in `EarlyStopping`. None takes
            `validation_elbo`, else `elbo`, else `loss`, whichever is recorded first.
        mode: as in `EarlyStopping`.

    Raises:
        ValueError: `every` is below 1; or, when the run begins, the folder holds
            something else, or checkpoints that it does not resume, or another run
            writes there.
        OSError: the folder cannot be written to, said when the run begins; or the disk
            is full, said after the next epoch. The checkpoints before are complete.

    >>> import optax, tempfile, vaelab
    >>> from flax import nnx
    >>> digits = vaelab.data.load_digits()
    >>> def train(folder, epochs):
    ...     vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    ...     return vaelab.fit(vae, digits.train, epochs=epochs, batch_size=64,
    ...         optimizer=optax.adam(1e-3), callbacks=[Checkpoint(folder)],
    ...         resume=folder).history["loss"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     two = train(folder, epochs=2)
    ...     four = train(folder, epochs=4)
    >>> len(four), (two == four[:2]).tolist()
    (4, [True, True])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 1,
        *,
        metric: str | None = None,
        mode: str | None = None,
    ) -> None:
        self.path = checked_path("path", path)
        self.every = checked_whole("every", every, least=1)
        self.metric = None if metric is None else checked_metric(metric)
        self.mode = checked_mode(mode)
        self._written = 0
        self._store: Store | None = None
        self._begin()

    def _begin(self) -> None:
        self._best = -math.inf
        self._best_step: int | None = None

    def on_start(self, run: "Run") -> None:
        """Makes the folder, and refuses one that holds another run."""
        if self.metric is not None:
            require_mode(self.metric, self.mode)
        store = Store(self.path)
        store.prepare()
        try:
            self._check(store, run)
        except BaseException:
            store.close()
            raise
        self._store, self._written = store, run.step

    def _check(self, store: Store, run: "Run") -> None:
        newer = [step for step in store.steps() if step > run.step]
        if run.step in store.steps():  # it goes on from there: the rest is damaged
            newer = [step for step in newer if store.can_read(step)]
        if newer:
            raise ValueError(
                f"{store.path} holds checkpoints of an earlier run, up to step "
                f"{newer[-1]}: give fit(..., resume={os.fspath(self.path)!r}) to go on "
                "from there, or another folder"
            )
        if self._best_step is None:
            return
        if self._best_step not in store.steps():  # it is of an earlier run
            self._begin()
        elif not store.can_read(self._best_step):
            warn_user(
                f"checkpoint {store.path / str(self._best_step)}, the best so far, is "
                "damaged: the best of those from now on is kept"
            )
            self._begin()

    def on_epoch(self, run: "Run") -> None:
        """Writes a checkpoint; it is complete before the next one begins."""
        self._write(run)

    def on_end(self, run: "Run") -> None:
        """Writes the last state, unless an error made it doubtful."""
        assert self._store is not None  # on_start made it
        if run.stopped_by != "error" and run.can_resume and run.step > self._written:
            self._write(run)
        self._store.close()

    def state(self) -> dict[str, Any]:
        """Returns which checkpoint is the best."""
        return {
            "metric": self.metric,
            "best": self._best,
            "best_step": self._best_step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned, if it is about the same metric."""
        if state["metric"] == self.metric:
            self._best, self._best_step = state["best"], state["best_step"]

    def _write(self, run: "Run") -> None:
        assert self._store is not None  # on_start made it
        recorded = ("validation_elbo", "elbo", "loss")
        metric = self.metric or next(m for m in recorded if m in run.recorded)
        values = run.history.get(metric, [])
        if values and len(values) == run.epoch and not run.steps_in_epoch:
            score = last_score(metric, run, self.mode)
            if score > self._best:
                self._best, self._best_step = score, run.step
        arrays, facts = run.snapshot()
        facts["best_step"] = self._best_step
        keep = {self._written, self._best_step} - {None}
        self._store.write(run.step, arrays, facts, keep)
        self._written = run.step
