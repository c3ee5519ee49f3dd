"""The report on what was found."""

from dataclasses import fields, replace

from vaelab.debug._attempt import attempt
from vaelab.debug._diagnosis.answer import cause_and_advice
from vaelab.debug._lineage.findings import Findings
from vaelab.debug._replay.arrays import summary, value_at
from vaelab.debug._replay.events import Event
from vaelab.debug.report import ArraySummary, Link, NonFiniteReport

__all__ = ["write_report"]


def write_report(found: Findings) -> NonFiniteReport:
    """The report on the most important story; the others are listed."""
    main = found.stories[0]
    chain = tuple(found.link(event) for event in main.chain)
    problems = found.problems
    entering = attempt(lambda: _line_inputs(main.root, found), (), problems)
    first = replace(chain[0], line_inputs=entering)
    chain = (first, *chain[1:])
    others: list[Link] = []
    seen = {(first.file, first.line, first.direction)}
    for story in found.stories[1:]:
        if story.root.source is not None and not story.root.is_constant:
            continue
        link = found.link(story.root)
        if (link.file, link.line, link.direction) not in seen:
            seen.add((link.file, link.line, link.direction))
            others.append(link)
    sources = [story.root.source for story in found.stories]
    inputs = [s.argument for s in sources if s is not None and s.argument is not None]
    plain = f"{first.primitive} gives a non-finite result.", "Look at its operands."
    cause, advice = attempt(lambda: cause_and_advice(found, chain), plain, problems)
    return NonFiniteReport(
        **{field.name: getattr(first, field.name) for field in fields(first)},
        chain=chain,
        outputs=main.outputs,
        others=tuple(others),
        inputs=tuple(dict.fromkeys(inputs)),
        cause=cause,
        advice=advice,
    )


def _line_inputs(event: Event, found: Findings) -> tuple[ArraySummary, ...]:
    definitions = found.origins.entering(event)
    values = found.values(definitions)
    summaries = []
    for definition in definitions:
        if definition.key in values:
            array = values[definition.key]
            index = event.result.index
            value = value_at(array, index or (), event.result.shape)
            origin = found.origins.origin(definition)
            summaries.append(summary(array, index, value, origin))
    return tuple(summaries)
