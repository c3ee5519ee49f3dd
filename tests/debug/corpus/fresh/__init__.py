"""Programs written afresh, to measure `explain` on what it was not made for.

They state more than the others: words that a right cause contains, words that it may
not contain, and, where there is one, the program repaired by hand. The modules are the
subjects; `FRESH` holds all programs by name.
"""

from .._registry import FRESH
from . import (
    densities,
    divisors,
    dynamics,
    empty,
    forward_mode,
    geometry,
    halves,
    healthy,
    host,
    libraries,
    linalg,
    masked,
    nests,
    optimisers,
    ranges,
    steering,
    training,
)

__all__ = [
    "FRESH",
    "densities",
    "divisors",
    "dynamics",
    "empty",
    "forward_mode",
    "geometry",
    "halves",
    "healthy",
    "host",
    "libraries",
    "linalg",
    "masked",
    "nests",
    "optimisers",
    "ranges",
    "steering",
    "training",
]
