"""What to do, told only when it was tried.

First the user's own lines, rewritten; see `trials`. Where none of that helps, the call
is run again with its data repaired, with the operand that failed kept inside of its
domain, in a wider dtype, or without rows of its batch, and the report says what came of
it.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaelab.debug._attempt import attempt
from vaelab.debug._lineage.findings import Findings
from vaelab.debug._replay.arrays import kinds
from vaelab.debug._verify.batch import failing_rows
from vaelab.debug._verify.clamp import clamped_outputs
from vaelab.debug._verify.trials import Outcome, outcome
from vaelab.debug.report import NonFiniteReport

__all__ = ["advised"]

_FINE = "all outputs and gradients are finite"
_CHANGED = ", and some that were finite before are others"


def advised(report: NonFiniteReport, found: Findings) -> NonFiniteReport:
    """The report with advice that was tried; `found` is what the replay has found."""
    result = attempt(lambda: outcome(found), Outcome(), found.problems)
    besides = f"\n{found.besides}" if found.besides else ""
    if result.what is not None:
        advice = f"Write {result.what}:\n{_shown(result, report.file)}{besides}"
        tried = f"tried: {_FINE}{_CHANGED if result.changes else ''}"
        return replace(report, advice=advice, tried=tried, rewrites=result.rewrites)
    for trial in _TRIALS:
        answer = attempt(lambda trial=trial: trial(report, found), None, found.problems)
        if answer is not None:
            advice, how = answer
            return replace(
                report, advice=f"{advice}{besides}", tried=f"tried, {how}: {_FINE}"
            )
    failed = f" ({'; '.join(result.failed)})" if result.failed else ""
    return replace(
        report,
        advice=f"{report.advice}{besides}",
        tried=f"nothing that was tried helps{failed}",
    )


def _shown(result: Outcome, file: str | None) -> str:
    """The new lines, after the number of the first."""
    shown = []
    for rewrite in result.rewrites:
        where = "" if rewrite.file == file else f"{Path(rewrite.file).name}, "
        code = "\n    ".join(_dedented(rewrite.new))
        shown.append(f"  {where}line {rewrite.first_line}: {code}")
    return "\n".join(shown)


def _dedented(code: str) -> list[str]:
    return [line.strip() for line in code.splitlines()]


Answer = tuple[str, str] | None


def _repaired_data(report: NonFiniteReport, found: Findings) -> Answer:
    """Zeros instead of what was not finite before the call."""
    leaves = list(found.call.leaves)
    roots = [story.root.source for story in found.stories]
    places = {s.leaf for s in roots if s is not None and s.leaf is not None}
    for k in places:
        array = jnp.asarray(leaves[k])
        leaves[k] = jnp.where(jnp.isfinite(array), array, jnp.zeros_like(array))
    if not places or not _is_finite(found, found.run(*leaves)):
        return None
    paths = ", ".join(found.call.paths[k] for k in sorted(places))
    return report.advice, f"with 0 for the non-finite entries of {paths}"


def _clamped(report: NonFiniteReport, found: Findings) -> Answer:
    """The operands of all first events kept inside of the domains."""
    targets = [story.root for story in found.stories]
    try:
        outs = clamped_outputs(found.closed, found.call.leaves, targets)
    except NotImplementedError:
        return None
    if outs is None or not _is_finite(found, outs):
        return None
    return report.advice, f"with the operand of {report.primitive} kept in its domain"


def _in_float32(report: NonFiniteReport, found: Findings) -> Answer:
    """The same call with arguments of 32 bits where there are fewer."""
    dtype = report.result.dtype
    if "float16" not in dtype and "float8" not in dtype:
        return None
    if not _is_finite_with(found, np.float32, np.complex64):
        return None
    return (
        f"A number is out of the range of {dtype}: compute it in float32, or scale the "
        "values (a loss scale down).",
        "in float32",
    )


def _in_float64(report: NonFiniteReport, found: Findings) -> Answer:
    """The same call with arguments of 64 bits."""
    with _x64()(True):
        if not _is_finite_with(found, np.float64, np.complex128):
            return None
    return (
        f"A number is out of the range of {report.result.dtype}: compute in a wider "
        'dtype, float64 with jax.config.update("jax_enable_x64", True), or scale the '
        "values.",
        "in float64",
    )


def _is_finite_with(found: Findings, real: Any, complex_: Any) -> bool:
    """Whether the call is finite if no argument is narrower than these dtypes."""
    call = found.call
    before = list(call.out_paths), list(call.out_states)

    def widened(leaf: Any) -> Any:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            return leaf
        wide = complex_ if jnp.issubdtype(dtype, jnp.complexfloating) else real
        return jnp.asarray(np.asarray(leaf).astype(jnp.promote_types(dtype, wide)))

    try:
        outs = jax.jit(call.flat)([widened(leaf) for leaf in call.leaves])
        return _is_finite(found, outs)
    except Exception:  # e.g. a loop whose carry has a fixed type: nothing is learned
        return False
    finally:
        call.out_paths, call.out_states = before


def _without_rows(report: NonFiniteReport, found: Findings) -> Answer:
    """The batch without the rows that fail when they make up all of it."""
    failing = failing_rows(
        found.call, lambda leaves: _is_finite(found, found.run(*leaves))
    )
    if failing is None:
        return None
    return (
        f"{report.advice} Of the {failing.size} rows of the batch only {failing}.",
        f"without {failing.named}",
    )


_TRIALS = (_repaired_data, _clamped, _in_float32, _in_float64, _without_rows)


def _is_finite(found: Findings, outs: Any) -> bool:
    return not any(any(kinds(outs[k])) for k in found.suspects)


def _x64() -> Callable[[bool], Any]:
    """The context manager that allows float64, in jax.experimental before jax 0.8."""
    context = getattr(jax, "enable_x64", None)
    if context is None:
        context = importlib.import_module("jax.experimental").enable_x64
    return context
