"""What to do when a metric no longer gets better."""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from vaelab._arguments import checked_flag, checked_number, checked_whole
from vaelab.callbacks._callback import Callback
from vaelab.callbacks._metric import (
    checked_metric,
    checked_mode,
    last_score,
    require_mode,
)

if TYPE_CHECKING:
    from vaelab.training import Run


class _Watch:
    """The best score of a metric so far, and how long ago that was."""

    def __init__(
        self, metric: str, mode: str | None, patience: int, min_delta: float
    ) -> None:
        self._metric = metric
        self._mode = checked_mode(mode)
        self._patience = checked_whole("patience", patience, least=1)
        self._min_delta = checked_number("min_delta", min_delta, least=0)
        self._restored = False
        self._begin(epoch=0)

    def _begin(self, epoch: int) -> None:
        self.best = -math.inf
        self.since = epoch

    def start(self, run: "Run") -> bool:
        """Forgets an earlier run, and returns True, unless this one goes on with it."""
        require_mode(self._metric, self._mode)
        begins = not self._restored
        if begins:
            self._begin(run.epoch)
        self._restored = False
        return begins

    def improved(self, run: "Run") -> bool:
        """Takes the last epoch into account."""
        score = last_score(self._metric, run, self._mode)
        if score > self.best + self._min_delta:
            self.best, self.since = score, run.epoch
            return True
        return False

    def is_over(self, run: "Run") -> bool:
        """Whether patience has run out."""
        return run.epoch - self.since >= self._patience

    def state(self) -> dict[str, Any]:
        """Returns the best value and the epoch from which patience counts."""
        return {"metric": self._metric, "best": self.best, "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned, if it is about the same metric."""
        self._restored = state["metric"] == self._metric
        if self._restored:
            self.best, self.since = float(state["best"]), int(state["since"])


class EarlyStopping(Callback):
    """Stops a run when a metric no longer gets better.

    Args:
        patience: for how many epochs without a new best value to wait.
        metric: a name from the history. NaN and Inf are no new best value.
        mode: `"max"` if the metric shall rise, `"min"` if it shall fall; None knows it
            of an ELBO, a loss, a reconstruction and a KL.
        min_delta: by how much a value must beat the best one to take its place.
        restore_best: at the end give the model back its parameters of the best epoch;
            after a NaN it has those from before the bad step instead.

    Raises:
        ValueError: `patience` is below 1 or `min_delta` below 0.

    >>> EarlyStopping(patience=10, metric="validation_elbo").metric
    'validation_elbo'
    """

    def __init__(
        self,
        patience: int,
        metric: str = "validation_elbo",
        *,
        mode: str | None = None,
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        self.metric = checked_metric(metric)
        self._watch = _Watch(metric, mode, patience, min_delta)
        self._restore_best = checked_flag("restore_best", restore_best)
        self._parameters: list[jax.Array] = []

    @property
    def best_epoch(self) -> int:
        """The number of the best epoch, counted from 1; 0 before there is one."""
        return self._watch.since if math.isfinite(self._watch.best) else 0

    def on_start(self, run: "Run") -> None:
        """Forgets an earlier run, or ends a resumed one that had ended already."""
        if self._watch.start(run):
            self._parameters = []
        self._stop_if_over(run)

    def on_epoch(self, run: "Run") -> None:
        """Keeps the parameters of a new best epoch; stops when patience is over."""
        if self._watch.improved(run):
            if self._restore_best:
                self._parameters = jax.tree.leaves(_what_is_learned(run.model))
        else:
            self._stop_if_over(run)

    def on_end(self, run: "Run") -> None:
        """Gives the model its best parameters."""
        if self._parameters:
            state = _what_is_learned(run.model)
            best = jax.tree.unflatten(jax.tree.structure(state), self._parameters)
            nnx.update(run.model, best)

    def _stop_if_over(self, run: "Run") -> None:
        if self._watch.is_over(run):
            when = (
                f"best in epoch {self.best_epoch}"
                if self.best_epoch
                else "never finite"
            )
            run.stop(f"{self.metric} was {when}")

    def state(self) -> dict[str, Any]:
        """Returns the best value, its epoch and the parameters of then."""
        return self._watch.state() | {"parameters": list(self._parameters)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._watch.restore(state)
        self._parameters = [jnp.asarray(array) for array in state["parameters"]]


class ReduceLROnPlateau(Callback):
    """Lowers the learning rate when a metric no longer gets better.

    The optimizer's updates are multiplied, which for Adam, AdamW and SGD is the same as
    another rate, and works with any optax transformation as it is.

    Args:
        patience: for how many epochs without a new best value to wait.
        metric: as in `EarlyStopping`.
        mode: as in `EarlyStopping`.
        factor: multiplies the rate, between 0 and 1.
        min_delta: as in `EarlyStopping`.
        min_scale: the rate never falls below so many times the first one.

    Raises:
        ValueError: an argument is out of its range.

    >>> ReduceLROnPlateau(patience=5, factor=0.5).metric
    'validation_elbo'
    """

    def __init__(
        self,
        patience: int,
        metric: str = "validation_elbo",
        *,
        mode: str | None = None,
        factor: float = 0.1,
        min_delta: float = 0.0,
        min_scale: float = 0.0,
    ) -> None:
        self.metric = checked_metric(metric)
        self._watch = _Watch(metric, mode, patience, min_delta)
        self._factor = checked_number("factor", factor, above=0, below=1)
        self._min_scale = checked_number("min_scale", min_scale, least=0, most=1)

    def on_start(self, run: "Run") -> None:
        """Forgets an earlier run, unless this one goes on with it."""
        self._watch.start(run)

    def on_epoch(self, run: "Run") -> None:
        """Lowers the rate when patience is over, and begins to wait anew."""
        if not self._watch.improved(run) and self._watch.is_over(run):
            scale = run.learning_rate_scale
            lower = max(scale * self._factor, self._min_scale)
            run.learning_rate_scale = min(scale, lower)
            self._watch.since = run.epoch

    def state(self) -> dict[str, Any]:
        """Returns the best value and the epoch from which patience counts."""
        return self._watch.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._watch.restore(state)


def _what_is_learned(model: Any) -> nnx.State:
    """Returns all of a model's state but its random streams."""
    return nnx.state(model, nnx.Not(nnx.RngState))
