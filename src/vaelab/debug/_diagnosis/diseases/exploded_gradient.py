"""A gradient that is finite and too large for what the optimizer does with it."""

import math
from collections import defaultdict
from collections.abc import Iterator

from vaelab.debug._diagnosis.disease import Answer, Disease, Rank
from vaelab.debug._diagnosis.facts import Facts, number
from vaelab.debug._diagnosis.sketch import Called, Sketch
from vaelab.debug._lineage.origins import Definition
from vaelab.debug._replay.arrays import largest
from vaelab.debug._trace.locate import Place, place_to_report

_MOST_CANDIDATES = 400
_GREW = 10.0  # what is less is no explosion


def _cause(f: Facts, *_: Facts) -> Answer | None:
    if not f.in_optimizer or not f.is_overflow:
        return None
    size = f.largest_operand
    shown = f": {f.link.example}" if f.link.example else ""
    return (
        f"The gradient exploded: it is as large as {number(size)} where the "
        f"optimizer takes {f.primitive} of it, which overflows {f.dtype}{shown}"
        f"{_steepest(f)}.",
        "Find out why the gradient grew, lower the learning rate, or clip it with "
        "optax.clip_by_global_norm before the optimizer.",
    )


def _steepest(f: Facts) -> str:
    """The line of the user's at which the gradient grew most, on its way back."""
    logarithms: dict[Place, float] = defaultdict(float)
    for place, ratio in _growths(f):
        if place.line is not None and ratio > 0:
            logarithms[place] += math.log(ratio)
    place = max(logarithms, key=logarithms.__getitem__, default=None)
    if place is None or logarithms[place] < math.log(_GREW):
        return ""
    factor = math.exp(min(logarithms[place], math.log(1e300)))
    module = f" in module {place.module}" if place.module else ""
    return (
        f"; it grew most, by a factor of {factor:.2g}, on its way back through line "
        f"{place.line}{module}: {place.source}"
    )


def _growths(f: Facts) -> Iterator[tuple[Place, float]]:
    """The operations of the backward pass, from the optimizer on: where, how much."""
    start = [f.maker(k) for k in range(len(f.values))]
    reached: dict[Definition, list[Definition]] = {}
    todo = list(start)
    while todo and len(reached) < _MOST_CANDIDATES:
        made = todo.pop(0)
        if made.eqn is None or made in reached:
            continue
        parents = [
            f.found.origins.definition(made.frame, atom) for atom in made.eqn.invars
        ]
        if made.frame.is_backward(made.eqn):
            parents = [p for p in parents if p.eqn and p.frame.is_backward(p.eqn)]
        reached[made] = parents
        todo += parents
    arrays = f.found.values([d for d in reached if not d.is_constant])
    sizes = {d: largest(arrays[d.key]) for d in reached if d.key in arrays}
    current = max((d for d in start if d in sizes), key=sizes.__getitem__, default=None)
    while current is not None:
        parents = [p for p in reached[current] if p in sizes]
        parent = max(parents, key=sizes.__getitem__, default=None)
        before = sizes[parent] if parent is not None else 1.0  # d loss / d loss
        if before and current.frame.is_backward(current.eqn):
            place = place_to_report(current.frame, current.eqn)
            yield place, sizes[current] / before
        current = parent


def _clipped(s: Sketch, facts: Facts, called: Called) -> Iterator[tuple[str, str]]:
    if not facts.in_optimizer or not facts.is_overflow:
        return
    places = range(1, len(called.args))
    for k in sorted(places, key=lambda k: "grad" not in s.plain(called.args[k])):
        gradient = s.plain(called.args[k])
        clip = f"lambda g: {s.jnp}.clip(g, -1, 1)"
        code = f"{s.jax}.tree.map({clip}, {gradient})"
        yield "the gradient clipped", s.with_argument(code, k)


DISEASE = Disease(
    _cause, Rank.RANGE, before=("overflow",), remedies={"update": _clipped}
)
