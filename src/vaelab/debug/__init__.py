"""Says which operation, which line, which layer, which step, and why."""

from vaelab.debug.crash import load_crash, save_crash
from vaelab.debug.explain import explain
from vaelab.debug.guard import nan_guard
from vaelab.debug.probe import probe, probes
from vaelab.debug.recorder import guarded
from vaelab.debug.report import NonFiniteError, NonFiniteReport

__all__ = [
    "NonFiniteError",
    "NonFiniteReport",
    "explain",
    "guarded",
    "load_crash",
    "nan_guard",
    "probe",
    "probes",
    "save_crash",
]
