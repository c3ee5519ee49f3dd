"""Models and training runs on disk, written with orbax.

`save` and `load` are for models. What a training run needs to go on bit for bit is
written by `vaelab.callbacks.Checkpoint` and read by `fit(..., resume=path)`; `load`
takes the model out of such a folder, too.
"""

from vaelab.checkpoints._models import load, save

__all__ = ["load", "save"]
