"""Processes that `multiprocessing` starts, under a guard of their own.

JAX's checks hold in one thread of one process. A process that is started while
`followed` is active, by fork or by spawn, runs under a `nan_guard` too, prints what it
found, and leaves a mark for its parent. The tasks of a pool run in such a process, but
hand their errors on to the parent before the guard sees them: JAX's error arrives
there, without an explanation.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vaelab.debug.guard import nan_guard
from vaelab.debug.report import NonFiniteError

__all__ = ["Children", "followed"]


class Children:
    """What is known of the processes that were started.

    Args:
        folder: where those that found something leave a mark.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    @property
    def found(self) -> int:
        """How many of them found something non-finite."""
        return len(list(self._folder.iterdir()))


@contextlib.contextmanager
def followed(**options: Any) -> Iterator[Children]:
    """Inside, new processes run under a guard; `options` are those of `nan_guard`."""
    start = BaseProcess.start

    def started(self: BaseProcess) -> None:
        self.run = _Run(self, folder, options)
        try:
            start(self)
        finally:
            del self.run

    with tempfile.TemporaryDirectory() as folder:
        BaseProcess.start = started
        try:
            yield Children(folder)
        finally:
            BaseProcess.start = start


class _Run:
    """What a process runs; spawn pickles it."""

    def __init__(
        self, process: BaseProcess, folder: str, options: dict[str, Any]
    ) -> None:
        self.process, self.folder, self.options = process, folder, options

    def __call__(self) -> None:
        try:
            with nan_guard(**self.options):
                type(self.process).run(self.process)
        except NonFiniteError as error:
            with contextlib.suppress(OSError):  # the parent may have gone
                tempfile.mkstemp(dir=self.folder)
            sys.stdout.flush()
            what = f"process {self.process.name}: something turned non-finite"
            print(f"\n{what}\n\n{error.report or error}", file=sys.stderr)
            sys.exit(1)
