"""Everything that a run needs to go on bit for bit, as arrays and facts."""

import os
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

from vaelab._warnings import warn_user
from vaelab.callbacks import Callback
from vaelab.checkpoints._store import Store
from vaelab.checkpoints._trees import (
    decoded,
    encoded,
    filled,
    key_kinds,
    named_arrays,
)
from vaelab.models._description import description
from vaelab.training._program import Sum
from vaelab.training._settings import differences, settings

if TYPE_CHECKING:
    from vaelab.training._run import Run


def snapshot(run: "Run") -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arrays and the facts of a run as it is now, whatever it does next."""
    parts = {"model": nnx.state(run.model), "optimizer": nnx.state(run.optimizer)}
    arrays: dict[str, Any] = {part: named_arrays(parts[part]) for part in parts}
    kept: dict[str, np.ndarray] = {}
    states = [
        {"class": type(callback).__name__, "state": encoded(callback.state(), kept)}
        for callback in run.callbacks
    ]
    place = encoded(run.feed.place(), kept)
    if kept:
        arrays["callbacks"] = kept
    facts = {
        "kind": "run",
        "model": description(run.model),
        "keys": key_kinds(parts["model"]),
        "data": _data(run),
        "epoch": run.epoch,
        "step": run.step,
        "history": {name: list(values) for name, values in run.history.items()},
        "learning_rate_scale": run.learning_rate_scale,
        "sums": {name: [float(x) for x in parts] for name, parts in run.sums.items()},
        "steps_in_epoch": run.steps_in_epoch,
        "callbacks": states,
        "settings": _settings(run),
        "stream": place,
        "best_step": None,
    }
    return arrays, facts


def resume_from(path: str | os.PathLike[str], run: "Run") -> None:
    """Puts a run where the one stopped that wrote these checkpoints.

    Args:
        path: their folder; without a complete checkpoint the run stays at its start.
        run: a new one.

    Raises:
        ValueError: they are of another kind of run, or cannot be read.
    """
    with closing(Store(path, name="resume")) as store:
        saved = store.newest()
    if saved is None:
        return
    facts, arrays, where = saved.facts, saved.arrays, os.fspath(path)
    _check(facts, run, f"resume={where!r}")
    states = [
        filled(nnx.state(part), arrays[name], facts["keys"], where, f"the {name}")
        for name, part in (("optimizer", run.optimizer), ("model", run.model))
    ]
    nnx.update(run.optimizer, states[0])
    nnx.update(run.model, states[1])
    run.read_objects()
    run.epoch, run.step = facts["epoch"], facts["step"]
    run.history = facts["history"]
    run.learning_rate_scale = facts["learning_rate_scale"]
    run.sums = {
        name: Sum(*map(np.float32, parts)) for name, parts in facts["sums"].items()
    }
    run.steps_in_epoch = facts["steps_in_epoch"]
    kept = arrays.get("callbacks", {})
    run.feed.go_to(run.epoch, decoded(facts["stream"], kept))
    _restore(run.callbacks, facts["callbacks"], kept)
    changed = differences(facts["settings"], _settings(run))
    if changed:
        warn_user(
            f"the run that resume={where!r} goes on with was made otherwise: "
            f"{'; '.join(changed)}. It goes on with what this call says"
        )


def _restore(
    callbacks: Sequence[Callback],
    states: list[dict[str, Any]],
    arrays: dict[str, np.ndarray],
) -> None:
    """Gives each callback the first state of its class that is left."""
    for callback in callbacks:
        for saved in states:
            if saved["class"] == type(callback).__name__:
                states.remove(saved)
                callback.restore(decoded(saved["state"], arrays))
                break


def _data(run: "Run") -> dict[str, Any]:
    """Returns what must be the same for a run to go on."""
    return {"seed": run.seed, **run.feed.asked}


def _settings(run: "Run") -> dict[str, Any]:
    """Describes what may be another for a run to go on, but hardly on purpose."""
    return settings(
        run.optimizer.tx.update, run.program.objective.loss_fn, run.knobs.loss
    )


def _check(facts: dict[str, Any], run: "Run", what: str) -> None:
    if facts["kind"] != "run":
        raise ValueError(
            f"{what} holds a saved model, not a training run: load it with vaelab.load "
            "and train it anew"
        )
    ours = _data(run)
    for name in sorted(set(ours) | set(facts["data"])):
        saved, given = facts["data"].get(name), ours.get(name)
        if saved != given:
            raise ValueError(
                f"{what} is a run with {name} {saved}, and this call has {given}: give "
                "the same, or begin a run in another folder"
            )
    recorded = set(facts["history"])
    if recorded and recorded != set(run.recorded):
        differing = ", ".join(sorted(recorded ^ set(run.recorded)))
        raise ValueError(
            f"{what} is a run with another history: it differs in {differing}; give "
            "the same loss_fn and validation images"
        )
