"""A matrix that cannot be decomposed or solved: singular, or not positive definite."""

from collections.abc import Iterator

import numpy as np

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import entering

_SOLVERS = frozenset(
    {"cholesky", "custom_linear_solve", "eigh", "lu", "triangular_solve"}
)


def _cause(f: Facts, *_: Facts) -> Answer | None:
    callers = ("inv", "solve", "cg", "slogdet")
    if f.primitive not in _SOLVERS and f.callee not in callers:
        return None
    spectrum = _spectrum(f)
    if f.primitive == "cholesky":
        return (
            f"cholesky cannot handle this matrix: it is not positive definite, or "
            f"singular{spectrum}.",
            "Symmetrise it and add a small multiple of the identity, sized from the "
            "matrix.",
        )
    return (
        f"{f.callee or f.primitive} cannot handle this matrix: it is singular, or "
        f"nearly so{spectrum}; a pivot is zero{entering(f)}.",
        "Add a small multiple of the identity, sized from the matrix, or use "
        "jnp.linalg.lstsq or pinv.",
    )


def _spectrum(f: Facts) -> str:
    """The condition number of the matrix that enters, and its smallest eigenvalue."""
    for definition in f.found.origins.entering(f.event):
        array = np.asarray(f.found.values([definition]).get(definition.key, ()))
        shape = array.shape
        if len(shape) == 2 and shape[0] == shape[1] and np.isfinite(array).all():
            wide = np.asarray(array, np.float64)
            values = np.linalg.svd(wide, compute_uv=False)
            ratio = values[0] / values[-1] if values[-1] else np.inf
            told = f"; its condition number is {ratio:.2g}"
            if np.allclose(wide, wide.T):
                lowest = np.linalg.eigvalsh(wide)[0]
                told += f", its smallest eigenvalue {lowest:.2g}"
            return told
    return ""


def _jitter(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    """A small multiple of the identity."""
    a = s.text(called.args[0])
    scale = facts.matrix_scale
    for factor in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        jitter = f"{factor * scale:.0e}" if scale else f"{factor:.0e}"
        eye = f"{jitter} * {s.jnp}.eye({a}.shape[-1], dtype={a}.dtype)"
        yield "a jitter sized from the matrix", s.with_argument(f"{a} + {eye}")


_CALLS = "bicgstab cg cho_factor cholesky det gmres inv slogdet solve".split()
DISEASE = Disease(_cause, Rank.CALL, remedies=dict.fromkeys(_CALLS, _jitter))
