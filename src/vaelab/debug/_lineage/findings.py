"""All that a replay has found, and what can still be asked about it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vaelab.debug._attempt import attempt
from vaelab.debug._lineage.chains import Story
from vaelab.debug._lineage.direction import direction_of
from vaelab.debug._lineage.origins import Definition, Origins
from vaelab.debug._replay.events import CLEAN, Event
from vaelab.debug._replay.interpreter import Replay, Watch
from vaelab.debug._trace.call import PureCall
from vaelab.debug._trace.jaxprs import open_jaxpr
from vaelab.debug._trace.locate import Frame, place_to_report
from vaelab.debug.report import ArraySummary, Link

__all__ = ["Findings"]


class Findings:
    """All that a replay has found.

    Args:
        call: the call.
        closed: its jaxpr.
        outs: its outputs.
        bad: which of them are non-finite.
        suspects: the numbers of those that count: not the states that were non-finite
            before and were not used.
        events: all events.
        stories: what they mean, the most important one first.
        outputs: the path of each returned array, with its value.
        run: the compiled call.
        again: investigates the call as it is now, under another key.
        problems: what went wrong with the explanation itself.

    Attributes:
        besides: advice for a second fault that does no harm yet.
    """

    def __init__(
        self,
        call: PureCall,
        closed: Any,
        outs: list[Any],
        bad: list[bool],
        suspects: list[int],
        events: list[Event],
        stories: list[Story],
        outputs: list[tuple[str, ArraySummary]],
        run: Any,
        again: Callable[[str], "Findings | None"],
        problems: list[str],
    ) -> None:
        self.call = call
        self.jaxpr, self.consts = open_jaxpr(closed)
        self.closed = closed
        self.outs = outs
        self.bad = bad
        self.suspects = suspects
        self.events = events
        self.stories = stories
        self.outputs = outputs
        self.origins = Origins(call.paths)
        self.run = run
        self.again = again
        self.problems = problems
        self.besides = ""
        self.seen: dict[Any, Any] = {}
        self.links: dict[Event, Link] = {}

    def link(self, event: Event) -> Link:
        """An event in words."""
        if event not in self.links:
            self.links[event] = _link(event, self)
        return self.links[event]

    @property
    def root(self) -> Event:
        """The first event of the most important story."""
        return self.stories[0].root

    def values(self, definitions: list[Definition]) -> dict[Any, Any]:
        """The arrays that were defined there, from another replay, by their keys."""
        wanted = {definition.key for definition in definitions}
        if wanted - self.seen.keys():
            watch = Watch(wanted - self.seen.keys())
            arguments = self.call.leaves
            clean = [CLEAN] * len(arguments)
            replay = Replay(watch=watch)
            replay.run(Frame(self.jaxpr), self.consts, arguments, clean, self.bad)
            self.seen |= {key: watch.found.get(key) for key in watch.wanted}
        return {key: self.seen[key] for key in wanted if self.seen[key] is not None}


def _link(event: Event, found: Findings) -> Link:
    place = place_to_report(event.frame, event.eqn)
    problems = found.problems
    unknown = [None] * len(event.operands)
    origins = attempt(lambda: found.origins.of_operands(event), unknown, problems)
    direction = attempt(lambda: direction_of(event, found.events), "forward", problems)
    return Link(
        kind=event.kind,
        primitive=event.primitive,
        file=place.file,
        line=place.line,
        function=place.function,
        source=place.source,
        direction=direction,
        module=place.module,
        inside=place.inside,
        iteration=event.frame.iterations,
        operands=tuple(
            replace(operand, origin=origin)
            for operand, origin in zip(event.operands, origins, strict=True)
        ),
        result=event.result,
    )
