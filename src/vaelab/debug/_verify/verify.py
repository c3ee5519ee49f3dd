"""Further replays of a call, which test what the report says.

In float64: was a number out of range, or an operation out of its domain? Row by row: is
it the batch's fault? With the operand that failed clamped: would the advice help?
"""

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from vaelab.debug._replay.arrays import kinds
from vaelab.debug._verify.clamp import clamped_outputs
from vaelab.debug.report import NonFiniteReport, Verification

__all__ = ["verified"]

_MOST_ROWS = 32


def verified(report: NonFiniteReport, found: Any) -> NonFiniteReport:
    """The report with a `Verification`; `found` is what the replay has found."""
    float64 = _float64(found)
    rows, size = _rows(found)
    clamped = _clamped(found)
    notes = []
    if float64 is None:
        notes.append("the call cannot be run in float64")
    elif float64:
        dtype = report.result.dtype
        notes.append(
            f"in float64 all outputs are finite: a number is out of range in {dtype}"
        )
    else:
        notes.append(
            "in float64 it fails as well: more precision and range do not help"
        )
    if rows is not None:
        shown = ", ".join(map(str, rows))
        notes.append(f"of the {size} rows of the batch these fail alone: {shown}")
    elif size:
        notes.append(f"no few rows of the batch of {size} are to blame")
    if clamped is not None:
        helps = "all outputs are finite" if clamped else "it still fails"
        notes.append(f"with the operand of {report.primitive} clamped, {helps}")
    verification = Verification(float64, rows, clamped, tuple(notes))
    return replace(report, verification=verification)


def _float64(found: Any) -> bool | None:
    """Whether all outputs are finite in float64."""
    call = found.call
    try:
        with _x64()(True):
            outs = jax.jit(call.flat)([_widened(leaf) for leaf in call.leaves])
            return not any(any(kinds(outs[k])) for k in found.suspects)
    except Exception:  # e.g. a loop whose carry has a fixed type: nothing is learned
        return None


def _x64() -> Callable[[bool], Any]:
    """The context manager that allows float64, in jax.experimental before jax 0.8."""
    context = getattr(jax, "enable_x64", None)
    if context is None:
        context = importlib.import_module("jax.experimental").enable_x64
    return context


def _widened(leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return leaf
    wide = np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64
    return jnp.asarray(np.asarray(leaf).astype(wide))


def _rows(found: Any) -> tuple[tuple[int, ...] | None, int]:
    """The rows that fail when they make up the whole batch; and the batch's size."""
    call = found.call
    places = _batched(call)
    if not places:
        return None, 0
    size = len(call.leaves[places[0]])
    run = jax.jit(core.jaxpr_as_fun(found.closed))

    def fails(rows: np.ndarray) -> bool:
        leaves = list(call.leaves)
        for place in places:  # the batch keeps its shape: nothing is compiled anew
            leaves[place] = jnp.asarray(leaves[place])[np.resize(rows, size)]
        outs = run(*leaves)
        return any(any(kinds(outs[k])) for k in found.suspects)

    failing: list[int] = []
    todo = [np.arange(size)]
    while todo:
        rows = todo.pop()
        if not fails(rows):
            continue
        if len(rows) > 1:
            todo += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
            continue
        failing.append(int(rows[0]))
        if len(failing) > _MOST_ROWS:
            return None, size
    decided = 0 < len(failing) < size
    return (tuple(failing) if decided else None), size


def _batched(call: Any) -> list[int]:
    """The arguments that hold one row for each example.

    They are no state of NNX objects, and, in a function of several arguments, not in
    the first of them, which holds the parameters; their lengths agree.
    """
    paths = call.paths[: call.state_start]
    heads = [path.split("[")[0].split(".")[0] for path in paths]
    several = len(set(heads)) > 1
    places = [
        k
        for k, head in enumerate(heads)
        if np.ndim(call.leaves[k]) and not (several and head == heads[0])
    ]
    if call.state_start < len(call.leaves):
        places = [k for k in range(len(paths)) if np.ndim(call.leaves[k])]
    lengths = Counter(len(call.leaves[k]) for k in places)
    if not lengths:
        return []
    size = lengths.most_common(1)[0][0]
    return [k for k in places if len(call.leaves[k]) == size] if size > 1 else []


def _clamped(found: Any) -> bool | None:
    """Whether all outputs are finite once what fails is clamped; None: no clamp."""
    targets = [story.root for story in found.stories]
    try:
        outs = clamped_outputs(found.closed, found.call.leaves, targets)
    except NotImplementedError:
        return None
    if outs is None:
        return None
    return not any(any(kinds(outs[k])) for k in found.suspects)
