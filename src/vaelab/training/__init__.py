"""Training: `fit` for whole runs, `train_step` for a loop of one's own.

`fit` compiles one program that takes any stretch of steps: it shuffles, picks batches,
updates the model and sums up the metrics on the device. Between stretches `Run` is what
callbacks see of it.
"""

from vaelab.training._fit import FitResult, fit
from vaelab.training._many import FitManyResult, fit_many
from vaelab.training._run import Run
from vaelab.training._step import train_step

__all__ = ["FitManyResult", "FitResult", "Run", "fit", "fit_many", "train_step"]
