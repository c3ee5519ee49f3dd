"""What to do when a metric no longer gets better."""

import math
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from vaelab.callbacks._callback import Callback

if TYPE_CHECKING:
    from vaelab.training import Run


class _Watch:
    """The best value of a metric so far, and for how many epochs it has stood."""

    def __init__(self, metric: str, patience: int, min_delta: float) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}: give at least 1 epoch")
        if min_delta < 0:
            raise ValueError(f"min_delta is {min_delta}: give 0 or more")
        self._metric = metric
        self._patience = patience
        self._min_delta = min_delta
        self._sign = 1.0 if metric.endswith("elbo") else -1.0
        self.best = -math.inf
        self.waited = 0

    def improved(self, run: "Run") -> bool:
        """Takes one more epoch into account."""
        value = self._sign * run.history[self._metric][-1]
        if value > self.best + self._min_delta:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self._patience


class EarlyStopping(Callback):
    """Stops a run when a metric no longer gets better.

    Args:
        patience: for how many epochs without a new best value to wait.
        metric: a name from the history. The higher the better if it ends in `elbo`,
            else the lower.
        min_delta: by how much a new best value must be better.
        restore_best: at the end give the model back its parameters of the best epoch.

    Attributes:
        best_epoch: the number of the best epoch, counted from 1.

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
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        self.metric = metric
        self.best_epoch = 0
        self._watch = _Watch(metric, patience, min_delta)
        self._restore_best = restore_best
        self._parameters: list[jax.Array] = []

    def on_start(self, run: "Run") -> None:
        """Ends a resumed run at once that had ended already."""
        if self._watch.is_over:
            self._stop(run)

    def on_epoch(self, run: "Run") -> None:
        """Keeps the parameters of a new best epoch; stops when patience is over."""
        if self._watch.improved(run):
            self.best_epoch = run.epoch
            if self._restore_best:
                self._parameters = jax.tree.leaves(_what_is_learned(run.model))
        elif self._watch.is_over:
            self._stop(run)

    def on_end(self, run: "Run") -> None:
        """Gives the model its best parameters."""
        if self._parameters:
            state = _what_is_learned(run.model)
            best = jax.tree.unflatten(jax.tree.structure(state), self._parameters)
            nnx.update(run.model, best)

    def _stop(self, run: "Run") -> None:
        run.stop(f"{self.metric} was best in epoch {self.best_epoch}")

    def state(self) -> dict[str, Any]:
        """Returns the best value, its epoch and its parameters."""
        return {
            "best": self._watch.best,
            "waited": self._watch.waited,
            "best_epoch": self.best_epoch,
            "parameters": list(self._parameters),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._watch.best = state["best"]
        self._watch.waited = state["waited"]
        self.best_epoch = state["best_epoch"]
        self._parameters = list(state["parameters"])


class ReduceLROnPlateau(Callback):
    """Lowers the learning rate when a metric no longer gets better.

    The optimizer's updates are multiplied, which for Adam, AdamW and SGD is the same as
    another rate, and works with any optax transformation as it is.

    Args:
        patience: for how many epochs without a new best value to wait.
        metric: as in `EarlyStopping`.
        factor: multiplies the rate, between 0 and 1.
        min_delta: by how much a new best value must be better.
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
        factor: float = 0.1,
        min_delta: float = 0.0,
        min_scale: float = 0.0,
    ) -> None:
        if not 0 < factor < 1:
            raise ValueError(f"factor is {factor}: give a number between 0 and 1")
        if not 0 <= min_scale <= 1:
            raise ValueError(f"min_scale is {min_scale}: give a number in [0, 1]")
        self.metric = metric
        self._watch = _Watch(metric, patience, min_delta)
        self._factor = factor
        self._min_scale = min_scale

    def on_epoch(self, run: "Run") -> None:
        """Lowers the rate when patience is over, and begins to wait anew."""
        if not self._watch.improved(run) and self._watch.is_over:
            lower = run.learning_rate_scale * self._factor
            run.learning_rate_scale = max(lower, self._min_scale)
            self._watch.waited = 0

    def state(self) -> dict[str, Any]:
        """Returns the best value and the epochs since."""
        return {"best": self._watch.best, "waited": self._watch.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._watch.best = state["best"]
        self._watch.waited = state["waited"]


def _what_is_learned(model: Any) -> nnx.State:
    """Returns all of a model's state but its random streams."""
    return nnx.state(model, nnx.Not(nnx.RngState))
