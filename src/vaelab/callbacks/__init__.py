"""What may happen between the epochs of `vaelab.fit`.

A callback sees the `Run` in progress, after each epoch or as often as it asks for. It
may read the history and the model, stop the run, or change the learning rate; what it
changes in the model is trained on. Inherit from `Callback` to write one.

`JSONLogger`, `TensorBoard` and `WandB` write the history down while it grows. They are
called when the host has a moment, so that epochs stay one compiled call.
"""

from vaelab.callbacks._callback import Callback
from vaelab.callbacks._checkpoint import Checkpoint
from vaelab.callbacks._loggers import JSONLogger, TensorBoard, WandB
from vaelab.callbacks._plateau import EarlyStopping, ReduceLROnPlateau
from vaelab.callbacks._progress import ProgressBar

__all__ = [
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "JSONLogger",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TensorBoard",
    "WandB",
]
