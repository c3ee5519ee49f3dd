"""A folder of checkpoints: written whole or not at all, by orbax."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from vaelab._arguments import checked_path
from vaelab._warnings import warn_user
from vaelab.checkpoints._facts import OtherFormatError, checked, checksums, sealed
from vaelab.checkpoints._lock import locked, unlock

_STEP = re.compile(r"0|[1-9][0-9]*")
_LEFTOVER = re.compile(r"[0-9]+\.(deleted|unfinished|.*orbax-checkpoint-tmp.*)")
_CHECKSUMS = "checksums.json"
_OF_THE_SYSTEM = {"Thumbs.db", "desktop.ini", "lost+found"}

_orbax = threading.RLock()
"""Orbax counts its operations for the whole process: one at a time, then."""


class Saved(NamedTuple):
    """A checkpoint as it was written.

    Attributes:
        step: its number.
        facts: what was in JSON.
        arrays: arrays of NumPy by their names, in groups.
    """

    step: int
    facts: dict[str, Any]
    arrays: dict[str, dict[str, np.ndarray]]


class Store:
    """The checkpoints in one folder, numbered by steps.

    Each has named arrays in groups and a JSON object of facts. A checkpoint comes into
    being by the renaming of its finished folder, so a process killed at any moment
    leaves the one before it and at most some rubbish. It is read back before an older
    one is deleted, and compared with its checksums whenever it is read.

    In a run of several processes the first one writes and all read.

    Args:
        path: the folder.
        name: what the caller calls it.
    """

    def __init__(self, path: str | os.PathLike[str], name: str = "path") -> None:
        self.path = checked_path(name, path)
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(
                f"{self.path} is a file: give a folder for the checkpoints"
            )
        foreign = self._foreign()
        if foreign is not None:
            raise ValueError(
                f"{self.path} holds {foreign.name!r}, which is no checkpoint of "
                "vaelab: give a new or an empty folder, or one that vaelab wrote"
            )
        self._lock: IO[str] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    @property
    def is_writer(self) -> bool:
        """Whether this is the process that writes."""
        return jax.process_index() == 0

    def prepare(self) -> None:
        """Makes the folder ready, or says now that nothing can be written there."""
        if not self.is_writer:
            return
        probe = self.path / ".writable"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
            self._lock = locked(self.path)
        except OSError as error:
            raise type(error)(
                f"{self.path} cannot be written to ({error.strerror}): give another "
                "path, or change its permissions"
            ) from error
        self._clear()

    def steps(self) -> list[int]:
        """Returns the numbers of the complete checkpoints, in order."""
        if not self.path.is_dir():
            return []
        names = [entry.name for entry in self.path.iterdir() if entry.is_dir()]
        return sorted(int(name) for name in names if _STEP.fullmatch(name))

    def newest(self) -> Saved | None:
        """Reads the newest checkpoint; warns of those that cannot be read.

        Raises:
            ValueError: there are some, and none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                saved = self.read(step)
            except OtherFormatError:
                raise
            except ValueError as error:
                if step == steps[0]:
                    raise
                warn_user(f"{error}; the one before it is taken")
            else:
                return saved
        return None

    def read(self, step: int) -> Saved:
        """Reads a checkpoint.

        Raises:
            ValueError: it is damaged, or of another version.
        """
        import orbax.checkpoint as ocp

        where = self.path / str(step)
        items = {"arrays": ocp.args.StandardRestore(), "facts": ocp.args.JsonRestore()}
        try:
            _check_files(where)
            with _quiet(), _checkpointer() as checkpointer:
                found = checkpointer.restore(where, args=ocp.args.Composite(**items))
            facts = checked(found.facts)
            arrays = jax.tree.map(np.asarray, found.arrays)
            if checksums(arrays) != facts["checksums"]:
                raise ValueError("its arrays are not those that were written")
        except OtherFormatError as error:
            raise OtherFormatError(
                f"checkpoint {where} cannot be used: {error}"
            ) from error
        except Exception as error:
            raise ValueError(
                f"checkpoint {where} cannot be read, because it is damaged or "
                f"incomplete ({_reason(error)})"
            ) from error
        return Saved(step, facts, arrays)

    def can_read(self, step: int) -> bool:
        """Whether there is such a checkpoint, undamaged."""
        try:
            self.read(step)
        except OtherFormatError:
            return True
        except ValueError:
            return False
        return True

    def write(
        self, step: int, arrays: dict[str, Any], facts: dict[str, Any], keep: Set[int]
    ) -> None:
        """Begins to write a checkpoint; the one before it is complete by then.

        Args:
            step: its number. What has this number already cannot be read, and goes.
            arrays: arrays of NumPy by their names, in groups.
            facts: what goes into JSON.
            keep: numbers of other checkpoints to keep; the rest is deleted once this
                one is complete and was read back.

        Raises:
            OSError: the one before it could not be written.
        """
        if not self.is_writer:
            return
        self.finish()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1)
        self._writing = self._thread.submit(self._write, step, arrays, facts, keep)

    def finish(self) -> None:
        """Waits until all is written, and what is not needed any more is deleted."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Finishes, and lets others write to the folder."""
        try:
            self.finish()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None
            if self._lock is not None:
                unlock(self._lock, self.path)
                self._lock = None

    def _write(
        self, step: int, arrays: dict[str, Any], facts: dict[str, Any], keep: Set[int]
    ) -> None:
        import orbax.checkpoint as ocp

        where, unfinished = self.path / str(step), self.path / f"{step}.unfinished"
        items = {
            "arrays": ocp.args.StandardSave(arrays),
            "facts": ocp.args.JsonSave(sealed(facts, arrays)),
        }
        try:
            if where.exists():
                self._delete(step)
            with _quiet(), _checkpointer() as checkpointer:
                checkpointer.save(unfinished, args=ocp.args.Composite(**items))
            text = json.dumps(_file_checksums(unfinished), indent=1)
            (unfinished / _CHECKSUMS).write_text(text)
            unfinished.rename(where)
            self.read(step)
        except Exception as error:
            self._clear()
            others = [other for other in self.steps() if other != step]
            rest = f"; {others[-1]} is complete" if others else ""
            raise OSError(
                f"checkpoint {where} could not be written ({_reason(error)}){rest}: "
                "make room there or give another folder, and resume"
            ) from error
        for other in self.steps():
            if other != step and other not in keep:
                self._delete(other)

    def _delete(self, step: int) -> None:
        doomed = self.path / f"{step}.deleted"  # never complete by half
        (self.path / str(step)).rename(doomed)
        shutil.rmtree(doomed)

    def _clear(self) -> None:
        """Removes what a killed process or a full disk has left of ours."""
        for entry in self.path.iterdir():
            if _LEFTOVER.fullmatch(entry.name) and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)

    def _foreign(self) -> Path | None:
        """Returns something in the folder that no checkpoint of ours explains."""
        if not self.path.is_dir():
            return None
        for entry in sorted(self.path.iterdir()):
            name = entry.name
            of_the_system = name.startswith(".") or name in _OF_THE_SYSTEM
            if of_the_system or _LEFTOVER.fullmatch(name) or _is_checkpoint(entry):
                continue
            return entry
        return None


def _is_checkpoint(entry: Path) -> bool:
    """Whether this was a checkpoint, be it damaged."""
    parts = ("facts", "arrays", "_CHECKPOINT_METADATA")
    return bool(_STEP.fullmatch(entry.name)) and (
        any((entry / part).exists() for part in parts)
        or (entry.is_dir() and not any(entry.iterdir()))
    )


def _file_checksums(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        file.relative_to(folder).as_posix(): _file_checksum(file)
        for file in sorted(files)
        if file != folder / _CHECKSUMS
    }


def _file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(folder: Path) -> None:
    """Refuses damaged files before anything else reads them.

    Orbax and TensorStore take a flipped bit in an array for another number, and print
    pages about one elsewhere.
    """
    if not (folder / _CHECKSUMS).is_file():
        raise ValueError(f"no {_CHECKSUMS}: is it of an older vaelab?")
    written = json.loads((folder / _CHECKSUMS).read_bytes())
    for name, checksum in written.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"no {name}")
        if _file_checksum(file) != checksum:
            raise ValueError(f"{name} is not as it was written")


def _reason(error: BaseException) -> str:
    """Says in one line what is at the bottom of an error."""
    errors = [error]
    while (cause := errors[-1].__cause__ or errors[-1].__context__) is not None:
        errors.append(cause)
    texts = [" ".join(str(e).split()) or type(e).__name__ for e in errors]
    for text in texts:
        if "No space left" in text:
            return "No space left on device"
    return texts[0][:200]


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"vaelab{me}"
    )
    handler = ocp.CompositeCheckpointHandler(
        arrays=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        facts=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
    )
    with (
        contextlib.closing(
            ocp.Checkpointer(handler, multiprocessing_options=alone)
        ) as checkpointer,
    ):
        yield checkpointer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lets one thread use orbax, and keeps its notes from the console meanwhile."""
    logger = logging.getLogger("absl")
    with _orbax:
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
