"""A laboratory for variational autoencoders in JAX and Flax NNX.

The models, `elbo`, `fit`, `save`, `load` and `evaluate` are at the top; everything else
is found under the name of its subject: `data`, `likelihoods`, `losses`, `callbacks`,
`checkpoints`, `evaluation`, `oracle`, `plots`, `recipes`, and `debug`, which needs
nothing else of vaelab.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vaelab import callbacks, checkpoints, data, evaluation, likelihoods, losses
from vaelab.checkpoints import load, save
from vaelab.evaluation import evaluate
from vaelab.losses import elbo
from vaelab.models import VAE, Decoder, Encoder, Posterior
from vaelab.training import fit, fit_many, train_step

if TYPE_CHECKING:
    from vaelab import debug, oracle, plots, recipes

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "Decoder",
    "Encoder",
    "Posterior",
    "callbacks",
    "checkpoints",
    "data",
    "debug",
    "elbo",
    "evaluate",
    "evaluation",
    "fit",
    "fit_many",
    "likelihoods",
    "load",
    "losses",
    "oracle",
    "plots",
    "recipes",
    "save",
    "train_step",
]

_WHEN_NEEDED = {"debug", "oracle", "plots", "recipes"}


def __getattr__(name: str) -> Any:
    """Imports a room when someone enters it, if it is a large one."""
    if name in _WHEN_NEEDED:
        return importlib.import_module(f"vaelab.{name}")
    raise AttributeError(f"module 'vaelab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
