"""A branch that a `where` hides in the value, and not in the gradient."""

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.words import example


def _cause(f: Facts, *later: Facts) -> Answer | None:
    chain = (f, *later)
    masked = next((g for g in chain if g.backward and g.is_masked()), None)
    if not any(g.backward for g in chain):
        return None
    if (masked is None or not f.backward) and not f.is_hidden:
        return None
    if masked is not None and f.callee in ("eigh", "svd", "eig", "qr"):
        return None  # a `where` of JAX's own rule
    shown = example(masked) if masked is not None else ""
    through = f": {shown}" if shown not in ("", example(f)) else ""
    hiding = "A jnp.where" if f.is_hidden else "A jnp.where, nan_to_num or clip"
    return (
        f"{hiding} hides the branch in which {example(f)}, but the gradient "
        f"still passes through that branch{through}, which is the double-where "
        "problem.",
        "Make the argument safe before the operation as well, with a jnp.where of its "
        "own.",
    )


DISEASE = Disease(
    _cause,
    Rank.PATTERN,
    before=("underflowed_square", "saturation", "norm_at_zero"),
    explains_operation=True,
)
