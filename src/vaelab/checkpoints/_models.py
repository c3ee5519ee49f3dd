"""Saving a trained model, and loading it without the script that made it."""

import os
from contextlib import closing
from typing import Any

from flax import nnx

from vaelab._arguments import checked_flag, checked_module, checked_path
from vaelab.checkpoints._store import Saved, Store
from vaelab.checkpoints._trees import filled, key_kinds, named_arrays
from vaelab.models._description import build, description


def save(model: nnx.Module, path: str | os.PathLike[str]) -> None:
    """Writes a model to a folder: parameters, random streams, and how it is built.

    A model that was saved there before is replaced; a process killed meanwhile leaves
    the old one or the new one.

    Args:
        model: a `vaelab.VAE`, or any NNX module.
        path: the folder; it may be a new one.

    Raises:
        TypeError: `path` is no path.
        ValueError: the folder holds something else than a saved model.
        OSError: it cannot be written to.

    >>> import tempfile, vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(vae, folder)
    """
    checked_module("model", model)
    with closing(Store(path)) as store:
        store.prepare()
        before = store.newest()
        if before is not None and before.facts["kind"] != "model":
            raise ValueError(
                f"{store.path} holds the checkpoints of a training run: save the model "
                "to another folder"
            )
        state = nnx.state(model)
        facts = {"kind": "model", "model": description(model), "keys": key_kinds(state)}
        number = max(store.steps(), default=-1) + 1
        store.write(number, {"model": named_arrays(state)}, facts, keep=frozenset())


def load(path: str | os.PathLike[str], model: Any = None, *, best: bool = False) -> Any:
    """Reads a model that `save` or a `callbacks.Checkpoint` wrote.

    Args:
        path: the folder.
        model: a model of the same structure, which is filled with what was saved. Only
            models with parts of your own need it; vaelab's are built anew.
        best: from the checkpoints of a training run, take the best and not the latest.

    Returns:
        The model, as it was to the last bit: parameters, random streams, and mode.

    Raises:
        FileNotFoundError: there is no complete checkpoint.
        TypeError: `path` is no path.
        ValueError: the checkpoint is of another structure, none can be read, or a model
            must be given.

    Warns:
        UserWarning: the newest checkpoint is damaged, and the one before it is taken.

    >>> import tempfile, vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(vae, folder)
    ...     print(load(folder).latent_size)
    8
    """
    where = str(checked_path("path", path))
    if model is not None:
        checked_module("model", model)
    best = checked_flag("best", best)
    with closing(Store(path)) as store:
        saved = store.newest()
        if saved is None:
            raise FileNotFoundError(
                f"there is no saved model in {where!r}: give as path the "
                "folder that vaelab.save or callbacks.Checkpoint wrote"
            )
        if best:
            saved = _best(store, saved)
    facts = saved.facts
    if model is not None:
        graphdef, shapes = nnx.split(model)
    elif facts["model"] is not None:
        abstract = nnx.eval_shape(lambda: build(facts["model"]))
        graphdef, shapes = nnx.split(abstract)
    else:
        raise ValueError(
            f"the model in {where!r} has parts of your own, which vaelab cannot "
            "build: write load(path, model=template) with a model built like it"
        )
    state = filled(shapes, saved.arrays["model"], facts["keys"], where)
    if model is None:
        return nnx.merge(graphdef, state)
    nnx.update(model, state)
    return model


def _best(store: Store, latest: Saved) -> Saved:
    step = latest.facts.get("best_step")
    if step is None or step == latest.step:
        return latest
    try:
        return store.read(step)
    except ValueError as error:
        raise ValueError(
            f"the best checkpoint is not there any more: {error}; vaelab.load without "
            f"best=True takes the latest, of step {latest.step}"
        ) from error
