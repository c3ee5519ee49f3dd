"""Why an operation failed, and what to do about it, in plain sentences.

The diseases are asked in their order, the more special ones first; the first one that
knows the event gives the answer.
"""

from collections.abc import Iterator, Sequence

from vaelab.debug._attempt import attempt
from vaelab.debug._diagnosis.disease import Answer, Rank
from vaelab.debug._diagnosis.diseases import diseases
from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._lineage.findings import Findings
from vaelab.debug.report import Link

__all__ = ["cause_and_advice"]

_OF_ITSELF = (Rank.CALL, Rank.OPERATION, Rank.RANGE)


def cause_and_advice(found: Findings, chain: Sequence[Link]) -> Answer:
    """Why the first link of a chain happened, and what helps."""
    main = found.stories[0].chain
    facts = [Facts(found, *pair) for pair in zip(chain, main, strict=True)]
    cause, advice = _answer(facts)
    for note, besides in _answers(facts, Rank.BESIDES):
        cause, found.besides = f"{cause} {note}", besides
    return cause, advice


def _answer(facts: list[Facts]) -> Answer:
    for rank in (Rank.SOURCE, Rank.PATTERN, *_OF_ITSELF):
        for answer in _answers(facts, rank):
            return answer
    f = facts[0]
    finite = not any(o.nans or o.infs for o in f.link.operands)
    operands = "finite operands" if finite else "operands that are partly infinite"
    kind = "a NaN" if f.link.kind == "nan" else "an Inf"
    return (
        f"{f.primitive} makes {kind} of {operands}.",
        "Look at the ranges of the operands above, and at what is known of "
        f"{f.primitive} outside of its domain.",
    )


def _answers(facts: list[Facts], *ranks: Rank) -> Iterator[Answer]:
    problems = facts[0].found.problems
    for disease in diseases().values():
        if disease.rank not in ranks:
            continue
        answer = attempt(lambda d=disease: d.cause(*facts), None, problems)
        if answer is None:
            continue
        cause, advice = answer
        if disease.explains_operation:
            why = next(_answers(facts[:1], *_OF_ITSELF), None)
            cause = f"{cause} {why[0]}" if why is not None else cause
        yield cause, advice
