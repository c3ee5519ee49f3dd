"""A laboratory for variational autoencoders in JAX and Flax NNX.

The models, `elbo`, `fit`, `save`, `load` and `evaluate` are at the top; everything else
is found under the name of its subject: `data`, `likelihoods`, `losses`, `callbacks`,
`checkpoints`, `evaluation`, `oracle`, `plots`, `recipes`, and `debug`, which needs
nothing else of vaelab.
"""

from vaelab import (
    callbacks,
    checkpoints,
    data,
    debug,
    evaluation,
    likelihoods,
    losses,
    oracle,
    plots,
    recipes,
)
from vaelab.checkpoints import load, save
from vaelab.evaluation import evaluate
from vaelab.losses import elbo
from vaelab.models import VAE, Decoder, Encoder, Posterior
from vaelab.training import fit, fit_many, train_step

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
