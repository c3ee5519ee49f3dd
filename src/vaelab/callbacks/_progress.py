"""A progress bar."""

import math
import sys
from typing import TYPE_CHECKING

from tqdm.std import tqdm

from vaelab._arguments import checked_flag
from vaelab.callbacks._callback import Callback

if TYPE_CHECKING:
    from vaelab.training import Run


class ProgressBar(Callback):
    """Shows how far the run is, with the loss, the ELBO and the steps per second.

    `fit` adds one by itself.

    Args:
        show: None shows it in a terminal and in a notebook only.
    """

    every = None

    def __init__(self, show: bool | None = None) -> None:
        self._show = _someone_watches() if show is None else checked_flag("show", show)
        self._bar: tqdm | None = None

    def on_start(self, run: "Run") -> None:
        """Shows an empty bar."""
        if self._show:
            from tqdm.auto import tqdm as bar  # warns in a notebook without ipywidgets

            self._bar = bar(
                total=run.epochs,
                initial=run.epoch,
                unit="epoch",
                miniters=1,  # else fast epochs make it wait for as many slow ones
                postfix="compiling",
            )

    def on_epoch(self, run: "Run") -> None:
        """Moves the bar."""
        if self._bar is None:
            return
        numbers = {
            name: f"{run.history[name][-1]:.4g}"
            for name in ("loss", "elbo", "validation_elbo")
            if run.history.get(name)
        }
        if not math.isnan(run.steps_per_second):
            numbers["steps/s"] = f"{run.steps_per_second:.0f}"
        self._bar.set_postfix(numbers, refresh=False)  # update shows it, if it is time
        self._bar.update(run.epoch - self._bar.n)

    def on_end(self, run: "Run") -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self.on_epoch(run)  # a run that failed left epochs that none has seen
            self._bar.close()
            self._bar = None


def _someone_watches() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    in_notebook = "IPKernelApp" in getattr(shell, "config", {})
    return in_notebook or sys.stderr.isatty()
