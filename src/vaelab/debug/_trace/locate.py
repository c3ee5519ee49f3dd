"""Where an equation comes from: the user's line, the NNX module, the iterations."""

import linecache
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vaelab.debug._trace.jaxprs import frames, name_stack
from vaelab.debug._trace.modules import module_of

__all__ = ["Frame", "Place", "around", "is_user_file", "place_of", "users_first"]

# Libraries whose lines are not what a user looks for.
_LIBRARIES = frozenset(
    {
        "IPython",
        "_pytest",
        "chex",
        "flax",
        "ipykernel",
        "jax",
        "jaxlib",
        "ml_dtypes",
        "numpy",
        "optax",
        "orbax",
        "pluggy",
        "pytest",
        "scipy",
    }
)
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = tuple(
    os.path.join(os.path.abspath(sysconfig.get_paths()[key]), "")
    for key in ("stdlib", "platstdlib")
)
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@lru_cache(maxsize=4096)
def is_user_file(file: str) -> bool:
    """Whether a file is the user's: not Python's, not JAX's, and not vaelab.debug's."""
    if file.startswith("<"):  # <stdin>, <string>, <ipython-input-...> are the user's
        return not file.startswith(("<frozen", "<__array", "<attrs"))
    path = os.path.abspath(file)
    if path.startswith(_OWN):
        return False
    for folder in _PACKAGES:
        if folder in path:
            package = path.rpartition(folder)[2].split(os.sep)[0]
            return package.removesuffix(".py") not in _LIBRARIES
    return not path.startswith(_STDLIB)


@lru_cache(maxsize=4096)
def is_installed(file: str) -> bool:
    """Whether a file is a part of an installed package."""
    return any(folder in os.path.abspath(file) for folder in _PACKAGES)


def users_first(places: list[Any], file_of: Callable[[Any], str]) -> Any:
    """The innermost of some places that is the user's own; else one of a package.

    Args:
        places: the innermost first.
        file_of: takes a place and returns its file.
    """
    known = [place for place in places if is_user_file(file_of(place))]
    own = [place for place in known if not is_installed(file_of(place))]
    return next(iter([*own, *known]), None)


@dataclass(frozen=True)
class Frame:
    """One jaxpr on the way from the call's own jaxpr to an equation.

    Attributes:
        jaxpr: the open jaxpr.
        parent: the jaxpr that runs this one; None for that of the call itself.
        eqn: the equation of the parent that does.
        kind: `"call"`, `"scan"`, `"while"`, `"cond"` or `"shard_map"`.
        iteration: which round of a loop; of a scan, the position in `xs`.
        branch: which branch of a cond.
    """

    jaxpr: Any
    parent: "Frame | None" = None
    eqn: Any = None
    kind: str = "call"
    iteration: int | None = None
    branch: int = 0

    @property
    def path(self) -> "Iterator[Frame]":
        """This frame and those around it, innermost first."""
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.parent

    @property
    def key(self) -> tuple[tuple[int, int | None, int], ...]:
        """Tells this frame from all others of the same replay."""
        steps = [(id(f.eqn), f.iteration, f.branch) for f in self.path if f.parent]
        return tuple(reversed(steps))

    @property
    def static_key(self) -> tuple[int, ...]:
        """The same for all iterations of the loops around it."""
        return tuple(id(f.eqn) for f in self.path if f.parent)

    @property
    def iterations(self) -> tuple[int, ...]:
        """The iteration of each loop around, outermost first."""
        found = [f.iteration for f in self.path if f.iteration is not None]
        return tuple(reversed(found))

    def names(self, eqn: Any) -> list[tuple[bool, str]]:
        """The name stack of one of its equations, with those of the calls around."""
        eqns = around(self, eqn)
        return [item for e in reversed(eqns) for item in name_stack(e)]

    def is_backward(self, eqn: Any) -> bool:
        """Whether an equation belongs to a backward pass, recomputations apart."""
        names = self.names(eqn)
        transposed = any(is_transform and "transpose" in n for is_transform, n in names)
        return transposed and not is_recomputed(names)


def is_recomputed(names: list[tuple[bool, str]]) -> bool:
    """Whether it is a part of the forward pass that remat runs again."""
    return any("rematted_computation" in name for _, name in names)


@dataclass(frozen=True)
class Place:
    """A line of the user's, the module it ran in, and the library's line below it."""

    file: str | None
    line: int | None
    function: str | None
    source: str | None
    module: str | None
    library: str | None = None

    @property
    def where(self) -> tuple[str | None, int | None]:
        """File and line."""
        return self.file, self.line


def place_of(frame: Frame, eqn: Any) -> Place:
    """The innermost line of the user's that led to an equation."""
    module = module_of([name for _, name in frame.names(eqn)])
    places = [place for e in around(frame, eqn) for place in frames(e)]
    found = users_first(places, lambda place: place[0])
    if found is None:
        return Place(None, None, None, None, module)
    file, line, function = found
    inner = next(place for place in places if is_user_file(place[0]))
    library = None if inner is found else f"{inner[0]}:{inner[1]} in {_short(inner[2])}"
    source = linecache.getline(file, line).strip() or None
    return Place(file, line, _short(function), source, module, library)


def around(frame: Frame, eqn: Any) -> list[Any]:
    """An equation that is not None, and those that run its frames, innermost first."""
    return [e for e in (eqn, *(f.eqn for f in frame.path)) if e is not None]


def _short(function: str) -> str:
    """`loss` for `main.<locals>.loss`."""
    return function.rpartition("<locals>.")[2]
