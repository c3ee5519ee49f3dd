"""Everything that a run needs to go on bit for bit, as arrays and facts."""

import os
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

from vaelab.callbacks import Callback
from vaelab.checkpoints._store import Store
from vaelab.checkpoints._trees import decoded, encoded, filled, named_arrays
from vaelab.models._description import description
from vaelab.training._program import Sum

if TYPE_CHECKING:
    from vaelab.training._run import Run

_PARTS = ("model", "optimizer")


def snapshot(run: "Run") -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arrays and the facts of a run as it is now, whatever it does next."""
    state = nnx.split((run.model, run.optimizer))[1]
    arrays: dict[str, Any] = {part: {} for part in _PARTS}
    for path, array in named_arrays(state).items():
        which, _, rest = path.partition("/")
        arrays[_PARTS[int(which)]][rest] = array
    kept: dict[str, np.ndarray] = {}
    states = [
        {"class": type(callback).__name__, "state": encoded(callback.state(), kept)}
        for callback in run.callbacks
    ]
    if kept:
        arrays["callbacks"] = kept
    facts = {
        "kind": "run",
        "model": description(run.model),
        "data": _data(run),
        "epoch": run.epoch,
        "step": run.step,
        "history": {name: list(values) for name, values in run.history.items()},
        "learning_rate_scale": run.learning_rate_scale,
        "sums": {name: [float(x) for x in parts] for name, parts in run.sums.items()},
        "steps_in_epoch": run.steps_in_epoch,
        "callbacks": states,
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
        step = store.latest()
        if step is None:
            return
        facts = store.facts(step)
        _check(facts, run, f"resume={os.fspath(path)!r}")
        arrays = store.arrays(step)
    both = {
        f"{which}/{name}": array
        for which, part in enumerate(_PARTS)
        for name, array in arrays[part].items()
    }
    state = nnx.split((run.model, run.optimizer))[1]
    nnx.update((run.model, run.optimizer), filled(state, both, os.fspath(path)))
    run.read_objects()
    run.epoch, run.step = facts["epoch"], facts["step"]
    run.history = facts["history"]
    run.learning_rate_scale = facts["learning_rate_scale"]
    run.sums = {
        name: Sum(*map(np.float32, parts)) for name, parts in facts["sums"].items()
    }
    run.steps_in_epoch = facts["steps_in_epoch"]
    _restore(run.callbacks, facts["callbacks"], arrays.get("callbacks", {}))


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
    program = run.program
    images = (
        {"num_images": program.num_images, "batch_size": program.batch_size}
        if program.shuffled
        else {}
    )
    return {"seed": run.seed, **images}


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
