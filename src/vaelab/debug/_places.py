"""Whose file a line is in, and what to call the place.

A line of the user's is one outside of every installed package and of Python's own
library. What lies deeper is library code: it is named beside the user's line. In a
notebook the file of a cell is a temporary one, and its name says nothing; the place is
then the number that stands beside the cell.
"""

import linecache
import os
import re
import sys
import sysconfig
from functools import lru_cache
from typing import Any

__all__ = [
    "is_cell",
    "is_machinery",
    "is_user_file",
    "names_a_place",
    "place_in_words",
    "short_path",
]

# Packages whose lines say less than the name of the operation, or nothing at all.
_SILENT = frozenset(
    """IPython _pytest ipykernel jax jaxlib ml_dtypes numpy pluggy pytest python scipy
    vaelab.debug""".split()
)
# Packages whose own lines are not what somebody looks for who follows a traceback.
_MACHINERY = _SILENT | frozenset("chex flax optax orbax".split())

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_VAELAB = os.path.join(os.path.dirname(os.path.dirname(_OWN)), "")
_STDLIB = tuple(
    os.path.join(os.path.abspath(sysconfig.get_paths()[key]), "")
    for key in ("stdlib", "platstdlib")
)
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# <ipython-input-5-0123abcd> of IPython 7, and the file that Colab makes of it.
_NUMBERED_CELL = re.compile(r"ipython-input-(\d+)-\w+(>|\.py)$")
_CELL = re.compile(r"(ipykernel_\d+[/\\]\d+\.py|ipython-input-[\w-]+(>|\.py))$")


@lru_cache(maxsize=4096)
def _package(file: str) -> str | None:
    """The package that a file belongs to; None if it is the user's own."""
    if file.startswith("<"):  # <stdin>, <string>, <ipython-input-...> are the user's
        generated = file.startswith(("<frozen", "<__array", "<attrs"))
        return "python" if generated else None
    path = os.path.abspath(file)
    if path.startswith(_OWN):
        return "vaelab.debug"
    if path.startswith(_VAELAB):  # wherever it is installed, or not
        return "vaelab"
    for folder in _PACKAGES:
        if folder in path:
            name = path.rpartition(folder)[2].split(os.sep)[0]
            return name.removesuffix(".py")
    return "python" if path.startswith(_STDLIB) else None


def is_user_file(file: str) -> bool:
    """Whether a file is the user's: of no package that is installed, nor Python's."""
    return _package(file) is None


def is_machinery(file: str) -> bool:
    """Whether a file is JAX's, Flax's, Python's or the debugger's own."""
    return _package(file) in _MACHINERY


def names_a_place(file: str) -> bool:
    """Whether a line of a library's says more than the name of the operation."""
    package = _package(file)
    return package is not None and package not in _SILENT


def is_cell(file: str) -> bool:
    """Whether a file stands for a cell of a notebook."""
    return _CELL.search(file) is not None


def short_path(file: str) -> str:
    """A file of a package from the package's folder on, any other by its name."""
    path = os.path.abspath(file)
    for folder in _PACKAGES:
        if folder in path:
            return path.rpartition(folder)[2].replace(os.sep, "/")
    if path.startswith(_VAELAB):
        return "vaelab/" + path.removeprefix(_VAELAB).replace(os.sep, "/")
    return os.path.basename(file)


def place_in_words(file: str, line: int | None) -> str:
    """Such as `train.py:3`, `optax/_src/transform.py:120`, or `cell 5, line 3`."""
    if is_cell(file):
        number = _cell_number(file)
        cell = "a cell" if number is None else f"cell {number}"
        return f"{cell}, line {line}"
    return f"{short_path(file)}:{line}"


def _cell_number(file: str) -> int | None:
    """The number beside the cell that a file stands for."""
    numbered = _NUMBERED_CELL.search(file)
    if numbered:
        return int(numbered[1])
    shell = _shell()
    if shell is None:
        return None
    name = getattr(shell.compile, "format_code_name", lambda file: None)(file)
    counted = re.search(r"\d+", name[1]) if name else None
    if counted:
        return int(counted[0])
    text = "".join(linecache.getlines(file)).strip()
    inputs = list(enumerate(shell.user_ns.get("In", ())))
    return next((n for n, cell in reversed(inputs) if text and cell == text), None)


def _shell() -> Any:
    """The running IPython; None outside of it, without importing it."""
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()
