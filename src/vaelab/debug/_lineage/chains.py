"""From events to a story: which birth matters most, and what became of it."""

from dataclasses import dataclass

from vaelab.debug._lineage.direction import direction_of
from vaelab.debug._replay.events import Event, Source, Taint
from vaelab.debug._trace.locate import place_of

__all__ = ["Story", "steered", "stories"]

# Longer chains are cut: nobody reads them.
_LONGEST = 8


@dataclass(frozen=True)
class Story:
    """A first event, what follows from it, and the outputs it reaches."""

    chain: tuple[Event, ...]
    outputs: tuple[str, ...]

    @property
    def root(self) -> Event:
        """The first event."""
        return self.chain[0]


def stories(paths: list[str], taints: list[Taint], events: list[Event]) -> list[Story]:
    """One story for each independent first event, the most important one first.

    Args:
        paths: the path of each non-finite output.
        taints: its taint.
        events: all events of the replay.

    A constant of the program, such as the -inf of a mask, is a first event only where
    nothing else is, and no operation turned it into something worse. The event that
    reaches most outputs comes first, of equal ones the earliest. But an event of the
    forward pass comes before one of the backward pass that happens on the same line:
    the derivative at a place where the value is infinite already is a consequence.
    """
    reached: dict[Event, set[int]] = {}
    for k, taint in enumerate(taints):
        for event in _with_ancestors(taint):
            reached.setdefault(event, set()).add(k)
    returned = {e for taint in taints for e in taint}
    roots = [
        event
        for event in reached
        if (event in returned if event.is_constant else not _parents(event))
    ]
    explained = {k for e in roots if not e.is_constant for k in reached[e]}
    roots = [e for e in roots if not e.is_constant or reached[e] - explained]
    roots.sort(key=lambda e: (e.is_constant, -len(reached[e]), e.number))
    roots = _forward_first(roots, events)
    found = []
    for root in roots:
        chain = [root]
        while len(chain) < _LONGEST:
            later = [e for e in reached if chain[-1] in e.parents and e not in chain]
            if not later:
                break
            chain.append(min(later, key=lambda e: (-len(reached[e]), e.number)))
        outputs = tuple(paths[k] for k in sorted(reached[root]))
        found.append(Story(tuple(chain), outputs))
    return found


def steered(story: Story, asked: Taint) -> Story | None:
    """A story that ends in a constant, told from what made the program choose it.

    Args:
        story: the story.
        asked: what comparisons were asked about.
    """
    events = [e for e in _with_ancestors(asked) if not e.is_constant]
    roots = [e for e in events if not _parents(e)]
    if not roots:
        return None
    root = min(roots, key=lambda e: e.number)
    return Story((root, *story.chain), story.outputs)


def _forward_first(roots: list[Event], events: list[Event]) -> list[Event]:
    if len(roots) < 2 or roots[0].is_constant:
        return roots
    where = place_of(roots[0].frame, roots[0].eqn).where
    if direction_of(roots[0], events) == "forward":
        return roots
    for root in roots[1:]:
        same = root.eqn is not None and place_of(root.frame, root.eqn).where == where
        if same and not root.is_constant and direction_of(root, events) == "forward":
            return [root, *(r for r in roots if r is not root)]
    return roots


def _parents(event: Event) -> list[Event]:
    return [p for p in event.parents if isinstance(p, Event) and not p.is_constant]


def _with_ancestors(taint: Taint) -> set[Event]:
    seen: set[Event] = set()
    todo: list[Event | Source] = list(taint)
    while todo:
        event = todo.pop()
        if isinstance(event, Event) and event not in seen:
            seen.add(event)
            todo += event.parents
    return seen
