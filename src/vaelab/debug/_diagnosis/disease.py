"""What a disease is: a way in which numbers go bad, with its words and repairs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from vaelab.debug._diagnosis.facts import Facts
from vaelab.debug._diagnosis.sketch import Called, Sketch

__all__ = ["Answer", "Cause", "Disease", "Rank", "Remedy"]

Answer = tuple[str, str]
"""A cause, and general advice; both are sentences."""

Cause = Callable[..., Answer | None]
"""Asked about the first link of a chain and the later ones: `cause(f, *later)`."""

Remedy = Callable[[Sketch, Facts, Called], Iterator[tuple[str, str]]]
"""Yields other ways to write a call: the idea in a few words, and the expression."""


class Rank(IntEnum):
    """Which diseases are asked first: the more special ones."""

    SOURCE = 0  # no operation made it
    PATTERN = 1  # several operations together
    CALL = 2  # a call of many operations, of which one failed
    OPERATION = 3  # one operation outside of its domain
    RANGE = 4  # a number too large for its dtype
    BESIDES = 5  # no cause, but a fault that is told after it


@dataclass(frozen=True)
class Disease:
    """One way in which numbers go bad.

    Attributes:
        cause: says whether an event is a case of it, and in which words.
        rank: when it is asked.
        before: names of diseases of the same rank that are asked later.
        remedies: by what stands in the source, such as `log` or `/`.
        explains_operation: whether what is known of the operation is told as well.
    """

    cause: Cause
    rank: Rank
    before: tuple[str, ...] = ()
    remedies: Mapping[str, Remedy] = field(default_factory=dict)
    explains_operation: bool = False
