"""Says which operation, which line, which layer, which step, and why.

`explain` replays one call that has NaNs or infinities in its results; `nan_guard` and
`guarded` catch the call, the first with a check after every operation, the second with
a look now and then, which also finds a loss that leaps. `probe` prints what an array
holds while a program runs. All of it works on any JAX function and any NNX training
step, and imports nothing else of vaelab.
"""

from vaelab.debug.crash import load_crash, save_crash
from vaelab.debug.explain import explain
from vaelab.debug.guard import nan_guard
from vaelab.debug.probe import probe, probes
from vaelab.debug.recorder import guarded
from vaelab.debug.report import NonFiniteError, NonFiniteReport
from vaelab.debug.spikes import LossSpikeError, SpikeReport

__all__ = [
    "LossSpikeError",
    "NonFiniteError",
    "NonFiniteReport",
    "SpikeReport",
    "explain",
    "guarded",
    "load_crash",
    "nan_guard",
    "probe",
    "probes",
    "save_crash",
]
