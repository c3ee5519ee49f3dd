"""The derivative of eigenvectors (or singular vectors) where two values are equal."""

from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if not f.backward or not f.comes_from("eigh", "svd", "eig"):
        return None
    return (
        "Eigenvectors have no derivative where eigenvalues (or singular values) "
        f"are equal: {example(f)}.",
        "Separate the values, for example by a small random diagonal, or use a "
        "loss of the values alone.",
    )


def _apart(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    a = s.text(called.args[0])
    scale = facts.matrix_scale or 1.0
    for factor in (1e-4, 1e-3):
        step = f"{factor * scale:.0e}"
        n = f"{a}.shape[-1]"
        diagonal = f"{step} * {s.jnp}.eye({a}.shape[-2], {n}) * {s.jnp}.arange({n})"
        yield "eigenvalues kept apart", s.with_argument(f"{a} + {diagonal}")


DISEASE = Disease(
    _cause,
    Rank.CALL,
    before=("singular_matrix",),
    remedies=dict.fromkeys(("eigh", "svd", "eigvalsh"), _apart),
)
