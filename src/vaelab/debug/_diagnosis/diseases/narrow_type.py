"""A number that does not fit into the dtype that it is converted to."""

from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.remedy import WIDER
from vaelab.debug._diagnosis.sketch import Called, Sketch


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if f.primitive not in ("convert_element_type", "reduce_precision"):
        return None
    return (
        f"{number(f.value(0))} does not fit into {f.dtype}, whose largest number is "
        f"{f.limit:.4g}.",
        "Scale the values before the cast, or use bfloat16, which has the range of "
        "float32.",
    )


def _cast(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if len(called.args) == 2:
        yield WIDER, f"{s.text(called.args[0])}.astype({s.jnp}.float32)"


DISEASE = Disease(_cause, Rank.OPERATION, remedies={"astype": _cast})
