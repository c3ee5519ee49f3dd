"""Who takes part, each in a file of its own.

A contestant's file has `trainer(work, images)`, which makes a new model and returns a
function that trains it for some more epochs, waits for the end, and returns the mean
loss of the last epoch.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.speed.works import Work

Trainer = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One way to train.

    Attributes:
        title: what the tables call it.
        module: the file.
        needs: packages that may be missing.
        options: of its `trainer`.
        is_peer: whether it stands for another library or its tutorial.
    """

    title: str
    module: str
    needs: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    is_peer: bool = True

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def trainer(self, work: Work, images: np.ndarray) -> Trainer:
        """Makes a new model."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        return module.trainer(work, images, **dict(self.options))


CONTESTANTS = {
    "fit": Contestant("vaelab.fit", "fit", is_peer=False),
    "scan": Contestant("hand-written JAX, lax.scan", "scan", is_peer=False),
    "flax": Contestant("Flax nnx.jit loop", "flax_loop"),
    "equinox": Contestant("Equinox filter_jit loop", "equinox_loop", ("equinox",)),
    "brainstate": Contestant(
        "BrainState jit loop", "brainstate_loop", ("brainstate", "braintools")
    ),
    "keras": Contestant("Keras fit, JAX backend", "keras_fit", ("keras",)),
    "torch": Contestant("PyTorch eager, CPU", "torch_loop", ("torch",)),
    "torch.compile": Contestant(
        "torch.compile, CPU", "torch_loop", ("torch",), (("compiled", True),)
    ),
}
