"""The flight recorder: which step went wrong, and everything that went into it.

`guarded(step)` is called like `step` and computes the same bits, since it calls the
very same compiled program. The host looks only once in a while: at the losses since the
last look, and at the whole state (parameters can be NaN one step before the loss is).
Larger arrays that a step returns beside its state are tested on the device after each
step. Until the look, the recorder keeps what is needed to go back: the state at the
last look, and what each step was given. When a look finds something non-finite, the
steps since the last look are replayed one by one, each with a test of the whole state.
The first bad one is explained, and the user's model is left as it was before it.

Keeping the state costs nothing: JAX arrays never change, so a reference will do. Only
what the step takes as a donation (it deletes it) is copied, once for each look.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from vaelab.debug import _arguments as arguments
from vaelab.debug._failure import failure_of_step, leap_of_step
from vaelab.debug._leaps import Losses
from vaelab.debug._window import Habits, Window
from vaelab.debug.crash import Crash, save_crash
from vaelab.debug.report import NonFiniteError
from vaelab.debug.spikes import LossSpikeError

__all__ = ["Guarded", "guarded"]


def guarded(
    step: Callable[..., Any],
    *,
    every: int = 250,
    watch: Callable[[Any], Any] | None = None,
    memory: int = 2**30,
    spikes: float | None = None,
) -> "Guarded":
    """Wraps a training step in a flight recorder.

    Nothing else in the loop changes. The step may be an NNX step, `step(model,
    optimizer, *batch)` with models, optimizers and `Rngs` anywhere in its arguments, or
    a pure one, `step(state, *batch) -> (state, aux)` in any arrangement; jitted by
    `nnx.jit` or `jax.jit`, with donation or without.

    An alarm takes the steps since the last look a second time, so callbacks and prints
    in them run twice.

    Args:
        step: what is called again and again. Its state must be in its arguments, and
            the same arguments must give the same result.
        every: the host looks after so many steps; until then it waits for nothing.
        watch: takes what `step` returns and picks what must be finite, if not all of it
            must, such as `lambda out: out.loss`. The NNX state is always tested, except
            for values that were not finite from the start, such as a `best = inf`.
        memory: looks earlier when the batches since the last look take more bytes.
        spikes: also stops at a step whose loss leaps though everything is finite: to
            about so many times the median of the 20 losses before it. The loss is the
            first number among what `watch` picks, or else that `step` returns and does
            not take back as an argument.

    Returns:
        A `Guarded`, to be called like `step`. As a context manager, or by `check()`, it
        looks at the last steps, too.

    Raises:
        TypeError: `step` is not callable.
        ValueError: `every` or `memory` is not positive, `spikes` is not above 1; or,
            when the step is called, it returns no number that could be its loss.

    >>> import jax, jax.numpy as jnp
    >>> @jax.jit
    ... def step(x, y):
    ...     return x - 1.0, jnp.log(x) + y
    >>> x = jnp.float32(3)
    >>> try:
    ...     with guarded(step) as guarded_step:
    ...         for _ in range(10):
    ...             x, loss = guarded_step(x, 2.0)
    ... except FloatingPointError as error:
    ...     print(error.step, error.report.primitive, *guarded_step.crash.args)
    3 log 0.0 2.0
    """
    return Guarded(step, every=every, watch=watch, memory=memory, spikes=spikes)


class Guarded:
    """A step under a flight recorder, as `guarded` returns it.

    Attributes:
        calls: how many steps were taken.
        crash: the failing call, or None: `crash.args` and `crash.kwargs` are what the
            step was given, with all state and RNG streams as they were before it, and
            `crash.step` is its number, counted from 0.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        *,
        every: int = 250,
        watch: Callable[[Any], Any] | None = None,
        memory: int = 2**30,
        spikes: float | None = None,
    ) -> None:
        if not callable(step):
            raise TypeError(
                f"step is a {type(step).__name__}: give the function itself"
            )
        for name, value in (("every", every), ("memory", memory)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} is {value!r}: give a whole number, at least 1"
                )
        if watch is not None and not callable(watch):
            raise TypeError(
                f"watch is a {type(watch).__name__}: give a function of what step "
                "returns, such as lambda out: out.loss"
            )
        is_number = isinstance(spikes, int | float) and not isinstance(spikes, bool)
        if spikes is not None and not (is_number and 1 < spikes < float("inf")):
            raise ValueError(f"spikes is {spikes!r}: give a number above 1, such as 10")
        functools.update_wrapper(self, step, updated=())
        self.calls = 0
        self.crash: Crash | None = None
        self._step = step
        self._every = every
        self._watch = watch
        self._memory = memory
        self._window: Window | None = None
        self._habits: dict[Any, Habits] = {}
        self._ignored: set[Any] = set()
        self._losses = None if spikes is None else Losses(spikes, self._picked)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Takes one step, and now and then a look.

        Raises:
            NonFiniteError: a step since the last look was the first bad one. Its number
                is `.step`, its explanation `.report`.
            LossSpikeError: with `spikes`, likewise for a step whose loss leaps.
        """
        leaves, structure = arguments.flatten((args, kwargs))
        nodes = list(filter(arguments.is_nnx, leaves))
        if self._window is not None and not self._window.is_about(nodes):
            self.check()
        habits = self._habits.get(structure)
        if habits is None:
            habits = self._habits[structure] = Habits()
        if self._window is None:
            self._window = Window(nodes, habits, self._ignored)
        window = self._window
        call = window.before(leaves, structure, habits)
        out = self._step(*args, **kwargs)
        outputs, picked = self._picked(out)
        window.after(call, leaves, outputs, picked, habits)
        if self._losses is not None:
            self._losses.keep(picked)
        self.calls += 1
        if len(window.calls) >= self._every or window.bytes > self._memory:
            self.check()
        return out

    def check(self) -> None:
        """Looks now, whatever `every` says.

        Raises:
            NonFiniteError: as for a call.
            LossSpikeError: likewise.
        """
        window, self._window = self._window, None
        if window is None or not window.calls:
            return
        leap = None
        if self._losses is not None:
            leap = self._losses.leap(window.passed_on if self._watch is None else set())
        with arguments.unchecked():
            if leap is None and window.is_finite():
                return
            harmless = window.bad_from_the_start() - self._ignored
            self._ignored |= harmless
            if leap is None and harmless and window.is_finite():
                return
            stop = None if leap is None else leap.number
            found = window.replay(self._step, self._picked, stop)
        if found is None and harmless:
            return
        first = self.calls - len(window.calls)
        if found is None or isinstance(found, str):
            what = "something became non-finite" if leap is None else "the loss leapt"
            error = NonFiniteError if leap is None else LossSpikeError
            raise error(
                f"{what} in the steps {first} to {self.calls - 1}, but "
                + (found or _NOT_REPRODUCED)
            )
        number, call = first + found.number, (found.args, found.kwargs)
        self.crash = Crash(*call, number)
        if found.bad or leap is None:
            raise failure_of_step(number, self._step, *call)
        raise leap_of_step(number, self._step, leap, call, found.before)

    def save_crash(self, path: str | os.PathLike[str]) -> None:
        """Writes the failing call to one file, for `load_crash`.

        Args:
            path: the file, usually ending in `.npz`.

        Raises:
            RuntimeError: no step has failed.
        """
        if self.crash is None:
            raise RuntimeError("no step has failed: there is no crash to save")
        save_crash(
            path, self.crash.args, kwargs=self.crash.kwargs, step=self.crash.step
        )

    def __enter__(self) -> "Guarded":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            self.check()
        elif isinstance(error, Exception) and not isinstance(error, _ERRORS):
            try:
                self.check()
            except _ERRORS as explained:
                raise explained from error

    def _picked(self, out: Any) -> tuple[list[Any], list[Any]]:
        """Returns all leaves of what a step returns, and those that are watched."""
        leaves, _ = arguments.flatten(out)
        if self._watch is None:
            return leaves, leaves
        return leaves, arguments.flatten(self._watch(out))[0]


_ERRORS = (NonFiniteError, LossSpikeError)
_NOT_REPRODUCED = (
    "a replay of these steps was finite: the step is not a function of its arguments "
    "alone (does it use a global, a callback, or a model that is not an argument?)"
)
