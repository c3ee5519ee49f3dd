"""A sum of exponentials (or powers) that is zero: a divisor, or under a logarithm."""

from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.remedy import LOG_SPACE
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._diagnosis.words import example


def _cause(f: Facts, *_: Facts) -> Answer | None:
    terms = f.summed if f.primitive in ("log", "div") else None
    if terms == "exp":
        return (
            "A sum of exponentials is 0: all of them underflow, because the entries "
            f"are very negative, or they are masked with -inf; and {example(f)}.",
            "Leave at least one entry of each row valid, or mask with "
            "jnp.finfo(x.dtype).min instead of -inf.",
        )
    if terms == "pow":
        return (
            "A sum of powers is 0: all of them underflow, because the exponent is "
            f"large; and {example(f)}.",
            "Divide by the largest entry before the power is taken, or compute with "
            "logarithms, jax.nn.softmax(exponent * jnp.log(p)).",
        )
    return None


def _logsumexp(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    total = s.call(s.resolved(called.args[0]))
    if total is None or total.name != "sum" or not total.args:
        return
    terms = s.call(s.resolved(total.args[0]))
    if terms is not None and terms.name == "exp":
        rest = s.options(total, "axis", "keepdims")
        exponents = s.plain(terms.args[0])
        yield LOG_SPACE, f"{s.jax}.nn.logsumexp({exponents}{rest})"
        floor = f"{s.jnp}.maximum({exponents}, {s.lowest})"
        yield LOG_SPACE, f"{s.jax}.nn.logsumexp({floor}{rest})"


DISEASE = Disease(
    _cause,
    Rank.PATTERN,
    before=("double_where", "saturation"),
    remedies={"log": _logsumexp},
)
