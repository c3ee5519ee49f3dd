"""Where the history of a run goes while it grows."""

import importlib
import json
import math
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import jax
import numpy as np

from vaelab._arguments import checked_path
from vaelab.callbacks._callback import Callback

if TYPE_CHECKING:
    from vaelab.training import Run


class _Logger(Callback):
    """Writes each epoch of the history once, however many come at a time.

    Of several processes that share a run only the first one writes.
    """

    every = None

    def __init__(self) -> None:
        self._is_open = False
        self._written = 0

    def on_start(self, run: "Run") -> None:
        """Begins a log, or goes on with the one of a resumed run."""
        if jax.process_index() == 0:
            self._written = self._open(run)
            self._is_open = True

    def on_epoch(self, run: "Run") -> None:
        """Writes the epochs that are finished since."""
        if self._is_open:
            self._catch_up(run)

    def on_end(self, run: "Run") -> None:
        """Writes what is left, and closes the log."""
        if self._is_open:
            self._is_open = False
            try:
                self._catch_up(run)  # a run that failed left epochs that none has seen
            finally:
                self._close(run)

    def _catch_up(self, run: "Run") -> None:
        for index in range(self._written, run.epoch):
            row = {
                name: float(values[index])
                for name, values in run.history.items()
                if index < len(values)  # validation may have failed
            }
            self._write(index + 1, _step_after(index + 1, run), row)
        self._written = max(self._written, run.epoch)
        self._flush()

    def _open(self, run: "Run") -> int:
        """Makes ready to write; returns how many epochs are written already."""
        raise NotImplementedError

    def _write(self, epoch: int, step: int | None, row: dict[str, float]) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        """Makes sure that what is written survives a crash."""

    def _close(self, run: "Run") -> None:
        raise NotImplementedError


class JSONLogger(_Logger):
    """Writes a line of JSON for each epoch, with its number, its step and its history.

    A run that begins anew replaces the log of an earlier one. A resumed run keeps the
    lines up to its checkpoint and writes the later ones again. NaN and Inf, for which
    JSON has no numbers, become null.

    Args:
        path: the file; folders on the way to it are created.

    Raises:
        ValueError: when the run begins: `path` cannot be written, or is a file that is
            no such log.

    >>> import optax, pathlib, tempfile, vaelab
    >>> from flax import nnx
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> digits = vaelab.data.load_digits()
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> result = vaelab.fit(vae, digits.train, epochs=3, batch_size=100,
    ...     optimizer=optax.adam(1e-3), callbacks=[JSONLogger(path)])
    >>> rows = [json.loads(line) for line in path.read_text().splitlines()]
    >>> [(row["epoch"], row["step"]) for row in rows]
    [(1, 13), (2, 26), (3, 39)]
    >>> rows[-1]["elbo"] == float(result.history["elbo"][-1])
    True
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self._path = checked_path("path", path, "file")
        self._file: BinaryIO | None = None

    def _open(self, run: "Run") -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+b")
        except OSError as error:
            raise _cannot_be_written("path", self._path, error) from error
        file.seek(0)
        head = file.read(len(_BEGINNING))
        if not (head.startswith(_BEGINNING) or _BEGINNING.startswith(head)):
            file.close()
            raise ValueError(
                f"path is {str(self._path)!r}, a file that is no log of JSONLogger: "
                "give another path, or delete the file"
            )
        file.seek(0)
        kept, end = 0, 0
        for line in file:
            is_next = line.startswith(b"%b%d, " % (_BEGINNING, kept + 1))
            if kept == run.epoch or not is_next or not line.endswith(b"}\n"):
                break  # beyond the checkpoint, or cut off when the run was killed
            kept, end = kept + 1, end + len(line)
        file.truncate(end)
        self._file = file
        return kept

    def _write(self, epoch: int, step: int | None, row: dict[str, float]) -> None:
        assert self._file is not None
        numbers = {name: x if math.isfinite(x) else None for name, x in row.items()}
        line = json.dumps({"epoch": epoch, "step": step} | numbers)
        self._file.write(line.encode() + b"\n")

    def _flush(self) -> None:
        assert self._file is not None
        self._file.flush()

    def _close(self, run: "Run") -> None:
        assert self._file is not None
        self._file.close()


class TensorBoard(_Logger):
    """Writes the history for TensorBoard: a curve for each quantity, over epochs.

    It needs `pip install 'vaelab[tensorboard]'`; `tensorboard --logdir DIRECTORY` shows
    the curves. A run that begins anew hides the curves of an earlier one in the same
    directory; a resumed run goes on with them from its checkpoint.

    Args:
        directory: where the event files go; it is created.

    Raises:
        ImportError: `tensorboard` is not installed.
        ValueError: when the run begins: `directory` cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__()
        self._directory = checked_path("directory", directory)
        # The parts from which TensorBoard's own writer is made. It would import
        # tensorflow where that is installed, and writes in a thread, which a killed run
        # does not wait for.
        self._events = _tensorboard("compat.proto.event_pb2")
        self._summaries = _tensorboard("compat.proto.summary_pb2")
        self._record_writer = _tensorboard("summary.writer.record_writer").RecordWriter
        self._records: Any = None

    def _open(self, run: "Run") -> int:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            earlier = any(self._directory.glob("events.out.tfevents.*"))
            file = (self._directory / name).open("xb")
        except OSError as error:
            raise _cannot_be_written("directory", self._directory, error) from error
        self._records = self._record_writer(file)
        written = run.epoch if earlier else 0
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write_event(file_version="brain.Event:2")
        # hides what earlier files say of the epochs from here on
        self._write_event(session_log=start, step=written + 1)
        return written

    def _write(self, epoch: int, step: int | None, row: dict[str, float]) -> None:
        values = [
            self._summaries.Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
        ]
        summary = self._summaries.Summary(value=values)
        self._write_event(summary=summary, step=epoch)

    def _write_event(self, **fields: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())

    def _flush(self) -> None:
        self._records.flush()

    def _close(self, run: "Run") -> None:
        self._records.close()


class WandB(_Logger):
    """Logs the history to Weights & Biases, with the epoch as its step.

    It needs `pip install 'vaelab[wandb]'`. The W&B run begins and ends with the run. A
    resumed `fit` goes on with the same W&B run, and logs what that one does not have.

    Args:
        **init_arguments: of `wandb.init`, such as `project="vae"`, `name`, `config` or
            `mode="offline"`.

    Raises:
        ImportError: `wandb` is not installed.
    """

    def __init__(self, **init_arguments: Any) -> None:
        super().__init__()
        self._init_arguments = init_arguments
        self._package = _optional("wandb", extra="wandb")
        self._id = ""
        self._run: Any = None

    def state(self) -> dict[str, Any]:
        """Returns the id of the W&B run, in an array of a size that is always the same.

        Then it has the same shape in a process that does not log.
        """
        return {"id": np.frombuffer(self._id.encode().ljust(_ID_BYTES), np.uint8)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._id = bytes(np.asarray(state["id"], np.uint8)).decode().rstrip()

    def _open(self, run: "Run") -> int:
        same = {"id": self._id, "resume": "allow"} if self._id and run.epoch else {}
        self._run = self._package.init(**same | self._init_arguments)
        goes_on = bool(same) and self._run.id == self._id
        self._id = self._run.id
        if self._run.resumed:
            return max(0, self._run.starting_step - 1)
        return run.epoch if goes_on and self._run.offline else 0

    def _write(self, epoch: int, step: int | None, row: dict[str, float]) -> None:
        self._run.log(row, step=epoch, commit=True)

    def _close(self, run: "Run") -> None:
        self._run.finish(exit_code=int(run.stopped_by in ("error", "non-finite")))


_BEGINNING = b'{"epoch": '
_ID_BYTES = 128


def _step_after(epoch: int, run: "Run") -> int | None:
    """Returns the number of updates up to the end of an epoch, if it can be known."""
    if run.steps_per_epoch is not None:
        return epoch * run.steps_per_epoch
    return run.step if epoch == run.epoch and not run.steps_in_epoch else None


def _optional(module: str, *, extra: str) -> Any:
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(
            f"{package} is not installed: pip install 'vaelab[{extra}]'", name=package
        ) from error
    return importlib.import_module(module)


def _tensorboard(module: str) -> Any:
    return _optional(f"tensorboard.{module}", extra="tensorboard")


def _cannot_be_written(argument: str, path: Path, error: OSError) -> ValueError:
    return ValueError(
        f"{argument} is {str(path)!r}, which cannot be written ({error.strerror}): "
        "give a path where you may write"
    )
