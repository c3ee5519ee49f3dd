"""A folder of checkpoints: written whole or not at all, by orbax."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np

FORMAT = 1

_DELETED = ".deleted"


class Store:
    """The checkpoints in one folder, numbered by steps.

    Each is a tree of arrays and a JSON object of facts. A checkpoint comes into being
    by the renaming of its finished folder, so a process killed at any moment leaves
    the one before it and at most some rubbish.

    In a run of several processes the first one writes and all read.

    Args:
        path: the folder.
        name: what the caller calls it.
    """

    def __init__(self, path: str | os.PathLike[str], name: str = "path") -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"{name} is {path!r}: give the path of a folder")
        self.path = Path(path).absolute()
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
        self._manager: Any = None
        self._obsolete: list[int] = []

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
        except OSError as error:
            raise type(error)(
                f"{self.path} cannot be written to ({error.strerror}): give another "
                "path, or change its permissions"
            ) from error
        for leftover in self.path.glob("*" + _DELETED):
            shutil.rmtree(leftover)

    def steps(self) -> list[int]:
        """Returns the numbers of the complete checkpoints, in order."""
        if not self.path.is_dir():
            return []
        names = [entry.name for entry in self.path.iterdir() if entry.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def latest(self) -> int | None:
        """Returns the number of the newest complete checkpoint."""
        return max(self.steps(), default=None)

    def write(
        self, step: int, arrays: dict[str, Any], facts: dict[str, Any], keep: Set[int]
    ) -> None:
        """Begins to write a checkpoint; the one before it is complete by then.

        Args:
            step: its number, above those there are.
            arrays: a tree of NumPy arrays.
            facts: what goes into JSON.
            keep: numbers of older checkpoints to keep; the others are deleted once this
                one is complete.
        """
        if not self.is_writer:
            return
        import orbax.checkpoint as ocp

        self.finish()
        with _silence():
            self._opened().save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays),
                    facts=ocp.args.JsonSave({"format": FORMAT, **facts}),
                ),
            )
        self._obsolete = [old for old in self.steps() if old < step and old not in keep]

    def finish(self) -> None:
        """Waits until all is written, and deletes what is not needed any more."""
        if self._manager is None:
            return
        with _silence():
            self._manager.wait_until_finished()
        for step in self._obsolete:
            doomed = self.path / f"{step}{_DELETED}"  # never complete by half
            (self.path / str(step)).rename(doomed)
            shutil.rmtree(doomed)
        self._obsolete = []

    def close(self) -> None:
        """Finishes, and frees what orbax holds."""
        self.finish()
        if self._manager is not None:
            with _silence():
                self._manager.close()
            self._manager = None

    def facts(self, step: int) -> dict[str, Any]:
        """Reads the facts of a checkpoint."""
        import orbax.checkpoint as ocp

        return self._read(step, facts=ocp.args.JsonRestore()).facts

    def arrays(self, step: int) -> dict[str, Any]:
        """Reads the arrays of a checkpoint, as NumPy arrays."""
        import orbax.checkpoint as ocp

        restored = self._read(step, arrays=ocp.args.StandardRestore()).arrays
        return jax.tree.map(np.asarray, restored)

    def _read(self, step: int, **items: Any) -> Any:
        import orbax.checkpoint as ocp

        try:
            with _silence():
                return self._opened().restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            others = [other for other in self.steps() if other != step]
            advice = (
                f"an older one is complete: delete {self.path / str(step)} to use it"
                if others
                else "train anew, in another folder"
            )
            raise ValueError(
                f"checkpoint {step} in {self.path} cannot be read: {advice}"
            ) from error

    def _opened(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            me = jax.process_index()
            alone = ocp.options.MultiprocessingOptions(
                primary_host=me,
                active_processes={me},
                barrier_sync_key_prefix=f"vaelab{me}",
            )
            options = ocp.CheckpointManagerOptions(
                create=False, multiprocessing_options=alone
            )
            with _silence():
                self._manager = ocp.CheckpointManager(self.path, options=options)
        return self._manager

    def _foreign(self) -> Path | None:
        """Returns something in the folder that no checkpoint of ours explains."""
        if not self.path.is_dir():
            return None
        for entry in sorted(self.path.iterdir()):
            name = entry.name
            ours = name.isdecimal() and (entry / "facts").is_dir()
            leftover = "orbax-checkpoint-tmp" in name or name.endswith(_DELETED)
            if not (ours or leftover or name == ".writable"):
                return entry
        return None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps orbax's notes for its developers from the console."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
