"""A lock on a folder, which the operating system frees when its process dies."""

import contextlib
import os
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None


def locked(folder: Path) -> IO[str] | None:
    """Locks a folder until the file that it returns is given to `unlock`.

    Args:
        folder: it must exist.

    Returns:
        The lock; None where the platform or the file system has none.

    Raises:
        ValueError: another run, of this process or another one, writes there.
    """
    if fcntl is None:
        return None
    path = folder / ".lock"
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ValueError(
                f"{folder} is being written to by a run of process {holder}: wait "
                "until it ends, or give each run and each Checkpoint a folder of its "
                "own"
            ) from None
        except OSError:  # a network file system without locks
            file.close()
            return None
        if _is_at(file, path):  # its last holder may have removed it meanwhile
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()


def unlock(file: IO[str], folder: Path) -> None:
    """Frees a lock, and removes its file."""
    with contextlib.suppress(OSError):
        (folder / ".lock").unlink()
    file.close()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
