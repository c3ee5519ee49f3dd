"""What the flight recorder keeps between two looks, and how it goes back.

A window holds the NNX state at its start and what each step was given since. Arrays are
held by reference, and copied only if the step deletes them. An array that the step
itself returned one call before is not held at all: the replay produces it again. So
the state of a pure step is kept once for each window, not once for each step.
"""

import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from vaelab.debug import _arguments as arguments

__all__ = ["Found", "Habits", "Window"]


@dataclass
class Habits:
    """What a step is known to do with its arguments, from its first call on.

    Attributes:
        known: whether there was a call.
        deleted: numbers of the argument leaves it takes as a donation.
        deleted_variables: numbers of such NNX variables.
        passed_on: for outputs that came back as arguments: output to argument.
        large: which of these are more than a number: the state, not a loss.
        usual: where the arguments came from the last time.
    """

    known: bool = False
    deleted: set[int] = field(default_factory=set)
    deleted_variables: set[int] = field(default_factory=set)
    passed_on: dict[int, int] = field(default_factory=dict)
    large: set[int] = field(default_factory=set)
    usual: "_Usual | None" = None


class _Previous(NamedTuple):
    """Stands for an output of the call before."""

    output: int


class _Usual:
    """Where the arguments of a call came from, to see at once if it is so again.

    A pure step passes its whole state on, and to look for each array anew would cost
    more than all the rest.

    Args:
        kept: the leaves of the call, `_Previous` where an output was passed on.
        count: the number of outputs before it.
    """

    def __init__(self, kept: list[Any], count: int) -> None:
        places = [i for i, x in enumerate(kept) if isinstance(x, _Previous)]
        taken = [kept[i].output for i in places]
        self.others = [i for i in range(len(kept)) if i not in places]
        self._left = [k for k in range(count) if k not in taken]
        self._count = count
        self._kept = [x if isinstance(x, _Previous) else None for x in kept]
        # The first one twice: itemgetter returns no tuple for a single place.
        self._passed = operator.itemgetter(*places, *places[:1])
        self._taken = operator.itemgetter(*taken, *taken[:1])

    def again(self, leaves: list[Any], outputs: list[Any]) -> list[Any] | None:
        """Returns what to keep but for the others, or None if something differs."""
        if len(outputs) != self._count:
            return None
        if not all(map(operator.is_, self._passed(leaves), self._taken(outputs))):
            return None
        left = [outputs[k] for k in self._left]
        if any(leaves[i] is output for i in self.others for output in left):
            return None
        return self._kept.copy()


class _Call(NamedTuple):
    """What a step was given.

    Attributes:
        leaves: of its arguments: arrays, `_Previous`, NNX objects, and so on.
        structure: of its arguments.
        edits: values of variables that someone changed after the step before.
    """

    leaves: list[Any]
    structure: Any
    edits: dict[int, Any]


class Found(NamedTuple):
    """A step that a replay stopped at; all arguments are copies.

    Attributes:
        number: its number in the window.
        args: its arguments.
        kwargs: its keyword arguments.
        before: those of the step before it, if that was asked for.
        bad: whether something is non-finite after it.
    """

    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: tuple[tuple[Any, ...], dict[str, Any]] | None
    bad: bool


class Window:
    """The steps since the last look, and the NNX state at their start.

    Args:
        nodes: the NNX objects among the arguments.
        habits: of the step about to be called.
        ignored: state that need not be finite, as `bad_from_the_start` names it; the
            caller may add to it.
    """

    def __init__(
        self, nodes: Sequence[Any], habits: Habits, ignored: set[Hashable]
    ) -> None:
        self.calls: list[_Call] = []
        self.bytes = 0
        self._nodes = list(nodes)
        self._variables = arguments.variables(nodes)
        self._values = self._read()  # by reference: what they hold now
        self._start = [
            arguments.copies(value) if _may_delete(habits, i) else value
            for i, value in enumerate(self._values)
        ]
        self._outputs: list[Any] = []
        self._picked: list[Any] = []
        self._habits = habits
        self._ignored = ignored
        self._held: set[int] = set()
        self._flag: Any = np.True_
        self._numbers: list[Any] = []

    def is_about(self, nodes: Sequence[Any]) -> bool:
        """Whether these NNX objects are of this window, or just came out of a step."""
        known = [*self._nodes, *self._outputs]
        return all(any(node is old for old in known) for node in nodes)

    def before(self, leaves: list[Any], structure: Any, habits: Habits) -> _Call:
        """Keeps what a step is about to be given."""
        edits = {}
        if self.calls:
            values = self._read()
            for i, (new, old) in enumerate(zip(values, self._values, strict=True)):
                if new is not old:
                    edits[i] = arguments.copies(new)
            self._values = values
        usual = habits.usual
        kept = usual.again(leaves, self._outputs) if usual else None
        if usual is None or kept is None:
            kept = self._traced(leaves, habits)
            others = [i for i, x in enumerate(kept) if not isinstance(x, _Previous)]
        else:
            others = usual.others
        for i in others:
            kept[i] = self._hold(leaves[i], _may_delete(habits, i, leaf=True))
        return _Call(kept, structure, edits)

    def after(
        self,
        call: _Call,
        leaves: list[Any],
        outputs: list[Any],
        picked: list[Any],
        habits: Habits,
    ) -> None:
        """Notes whether what a step returned is finite, without waiting for it."""
        if not self.calls or not habits.known:
            self._learn(leaves, habits)
        self._habits = habits
        self._outputs, self._picked = outputs, picked
        numbers: Any = range(len(picked))
        if picked is not outputs:
            known = {id(x): i for i, x in enumerate(outputs)}
            numbers = [known.get(id(x)) for x in picked]
        harmless = self._harmless() if self._ignored else ()
        tested = []
        for i, x in zip(numbers, picked, strict=True):
            if i in habits.large or not arguments.is_inexact(x) or id(x) in harmless:
                continue
            # Numbers, such as the loss, are cheap to keep until the look.
            if self.calls and np.ndim(x) == 0 and i not in habits.passed_on:
                self._numbers.append(x)
            else:
                tested.append(x)
        if tested:
            self._flag = arguments.finite(self._flag, tested)
        self._values = self._read()
        self.calls.append(call)

    @property
    def passed_on(self) -> set[int]:
        """The outputs that come back as arguments: the state."""
        return set(self._habits.passed_on)

    def is_finite(self) -> bool:
        """Looks: was everything returned finite, and is all of the state?"""
        alive = [
            x
            for x in self._numbers
            if not (isinstance(x, jax.Array) and x.is_deleted())
        ]
        return (
            bool(self._flag)
            and all(map(np.isfinite, jax.device_get(alive)))
            and arguments.all_finite(self._watched())
        )

    def bad_from_the_start(self) -> set[Hashable]:
        """Returns the state that was not finite before the first step."""
        found: set[Hashable] = set()
        for variable, value in zip(self._variables, self._start, strict=True):
            if not all(arguments.which_are_finite(jax.tree.leaves(value))):
                found.add(id(variable))
        for output, argument in self._habits.passed_on.items():
            first = self.calls[0].leaves[argument]
            if not arguments.deleted(first) and not all(
                arguments.which_are_finite(jax.tree.leaves(first))
            ):
                found.add(("output", output))
        return found

    def replay(
        self,
        step: Callable[..., Any],
        pick: Callable[[Any], tuple[list[Any], list[Any]]],
        until: int | None = None,
    ) -> Found | str | None:
        """Takes the steps again, with a test of the whole state after each.

        Args:
            step: the very function that was called before.
            pick: from what it returns, all leaves and those that must be finite.
            until: stops at this step, good or bad, and keeps the one before, too.

        Returns:
            The first bad step; the NNX objects of the user hold the values that they
            had before it. None if all steps are finite, or why there is no replay.
        """
        if arguments.deleted(self._start):
            return _GONE
        arguments.restore(self._variables, arguments.copies(self._start))
        before = None
        for index, call in enumerate(self.calls):
            for i, value in call.edits.items():
                arguments.write(self._variables[i], arguments.copies(value))
            leaves = [
                self._outputs[x.output] if isinstance(x, _Previous) else x
                for x in call.leaves
            ]
            if arguments.deleted(leaves):
                return _GONE
            nodes = [x for x in leaves if arguments.is_nnx(x)]
            variables = arguments.variables(nodes)
            values = arguments.copies([arguments.read(v) for v in variables])
            given = arguments.copies(leaves)
            if until is not None and index == until - 1:
                twins = iter(arguments.clones(nodes))
                kept = [next(twins) if arguments.is_nnx(x) else x for x in given]
                before = jax.tree.unflatten(call.structure, kept)
            args, kwargs = jax.tree.unflatten(call.structure, leaves)
            self._outputs, self._picked = pick(step(*args, **kwargs))
            bad = not arguments.all_finite(self._watched())
            if bad or index == until:
                arguments.restore(variables, values)
                clones = iter(arguments.clones(nodes))
                given = [next(clones) if arguments.is_nnx(x) else x for x in given]
                args, kwargs = jax.tree.unflatten(call.structure, given)
                return Found(index, args, kwargs, before, bad)
        return None

    def _traced(self, leaves: list[Any], habits: Habits) -> list[Any]:
        """Finds the arguments that are outputs of the call before."""
        produced = {
            id(x): i
            for i, x in enumerate(self._outputs)
            if isinstance(x, jax.Array) or arguments.is_nnx(x)
        }
        kept = list(leaves)
        for i, leaf in enumerate(leaves):
            output = produced.get(id(leaf))
            if output is None:
                continue
            kept[i] = _Previous(output)
            if output not in habits.passed_on:
                habits.passed_on[output] = i
                if getattr(leaf, "size", 2) > 1:
                    habits.large.add(output)
        if any(isinstance(x, _Previous) for x in kept):
            habits.usual = _Usual(kept, len(self._outputs))
        return kept

    def _hold(self, leaf: Any, may_delete: bool) -> Any:
        """Returns what to keep of an argument, and counts its bytes once."""
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            return leaf
        kept = leaf
        if may_delete or isinstance(leaf, np.ndarray):
            kept = arguments.copies(leaf)
        elif id(leaf) in self._held:
            return leaf
        self._held.add(id(kept))
        self.bytes += leaf.nbytes if self.calls else 0
        return kept

    def _watched(self) -> list[Any]:
        """Returns the leaves that must be finite at the end of a step."""
        values = [
            value
            for variable in self._variables
            if id(variable) not in self._ignored
            and not arguments.deleted(value := arguments.read(variable))
        ]
        passed_on = [
            self._outputs[i] for i in self._habits.passed_on if i < len(self._outputs)
        ]
        harmless = self._harmless()
        returned = [x for x in [*self._picked, *passed_on] if id(x) not in harmless]
        return jax.tree.leaves([values, returned])

    def _harmless(self) -> set[int]:
        outputs = enumerate(self._outputs)
        return {id(x) for i, x in outputs if ("output", i) in self._ignored}

    def _learn(self, leaves: list[Any], habits: Habits) -> None:
        """Finds out what the call deleted."""
        habits.known = True
        habits.deleted |= {
            i for i, leaf in enumerate(leaves) if arguments.deleted(leaf)
        }
        habits.deleted_variables |= {
            i for i, value in enumerate(self._values) if arguments.deleted(value)
        }

    def _read(self) -> list[Any]:
        return list(map(arguments.read, self._variables))


def _may_delete(habits: Habits, i: int, *, leaf: bool = False) -> bool:
    """Whether a step may delete an argument leaf, or an NNX variable."""
    deleted = habits.deleted if leaf else habits.deleted_variables
    return not habits.known or i in deleted


_GONE = (
    "an array that this needs was deleted since, as a donation to some other function: "
    "give every=1 to look after every step"
)
