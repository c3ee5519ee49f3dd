"""What may happen between the epochs of `vaelab.fit`.

A callback sees the `Run` in progress, after each epoch or as often as it asks for. It
may read the history and the model, stop the run, or change the learning rate; what it
changes in the model is trained on. Inherit from `Callback` to write one.
"""

from vaelab.callbacks._callback import Callback
from vaelab.callbacks._checkpoint import Checkpoint
from vaelab.callbacks._plateau import EarlyStopping, ReduceLROnPlateau
from vaelab.callbacks._progress import ProgressBar

__all__ = [
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "ProgressBar",
    "ReduceLROnPlateau",
]
