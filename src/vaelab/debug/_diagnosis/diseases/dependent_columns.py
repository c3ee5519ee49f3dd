"""The derivative of a QR decomposition of columns that depend on each other."""

from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import entering, example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if not f.backward or f.callee != "qr":
        return None
    return (
        "The derivative of qr solves with the triangle R, which is singular where a "
        f"column is zero or a sum of others: {example(f)}{entering(f)}.",
        "Leave out the columns that depend on others, or add a small multiple of the "
        "identity, sized from the matrix.",
    )


def _apart(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    a = s.text(called.args[0])
    scale = facts.matrix_scale or 1.0
    for factor in (1e-4, 1e-3):
        eye = f"{factor * scale:.0e} * {s.jnp}.eye({a}.shape[-2], {a}.shape[-1])"
        yield "columns kept independent", s.with_argument(f"{a} + {eye}")


DISEASE = Disease(
    _cause, Rank.CALL, before=("singular_matrix",), remedies={"qr": _apart}
)
