"""Small programs that turn non-finite, each with the line a user would be shown.

Every function decorated with `program` builds one call and marks, with a trailing
comment, the line at which the call first goes wrong:

    # <- here   the line that `explain` must name: the first link of the chain
    # <- then   a later link of the same chain (an Inf that became a NaN there)
    # <- also   another root, independent of the first

Programs decorated with `quiet` contain NaNs or Infs that reach no output: `explain`
must return None. The modules are the themes; `PROGRAMS` holds all of them by name.
Nothing here uses vaelab, so the corpus can be read, and run through any other tool,
on its own.
"""

from . import (
    arithmetic,
    autodiff,
    inputs,
    linear_algebra,
    loops,
    masks,
    nnx_models,
    optimizers,
    precision,
    quiet,
    roots,
    sharding,
    transformations,
)
from ._registry import PROGRAMS, UNSTATED, Call, Program

__all__ = [
    "PROGRAMS",
    "UNSTATED",
    "Call",
    "Program",
    "arithmetic",
    "autodiff",
    "inputs",
    "linear_algebra",
    "loops",
    "masks",
    "nnx_models",
    "optimizers",
    "precision",
    "quiet",
    "roots",
    "sharding",
    "transformations",
]
