"""The compiled steps of a program that is not changed, each under a flight recorder.

While `Steps` is entered, `jax.jit` and `nnx.jit`, where the program itself writes them,
return functions that keep a record of their losses. Inside of another trace such a
function is as it was, and so is one that returns no number.
"""

import functools
import sys
import types
from typing import Any

import jax
from flax import nnx

from vaelab.debug import _arguments as arguments
from vaelab.debug._blame import has_tracer
from vaelab.debug._leaps import is_number
from vaelab.debug._places import is_user_file
from vaelab.debug.recorder import Guarded

__all__ = ["Steps"]

_EVERY = 20  # steps, whose losses are looked at together


class Steps:
    """Finds the steps of a program.

    Args:
        factor: what counts as a leap of a loss; None to look at no losses.
    """

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._steps: list[_Step] = []
        self._before: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        if self._factor is not None:
            owner: Any
            for owner in (jax, nnx):
                self._before.append((owner, owner.jit))
                owner.jit = self._watching(owner.jit)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for owner, jit in self._before:
            owner.jit = jit
        self._before.clear()
        if error is None or isinstance(error, SystemExit):
            for step in self._steps:
                step.check()

    def in_words(self) -> str:
        """What was looked at."""
        if self._factor is None:
            return ""
        counts = {s.name: s.calls for s in self._steps if s.calls}
        if not counts:
            return "; no compiled function returned a loss to look at"
        names = ", ".join(f"{name} ({calls} calls)" for name, calls in counts.items())
        return f"; no loss leapt {self._factor:g}-fold in {names}"

    def _watching(self, jit: Any) -> Any:
        @functools.wraps(jit)
        def watching(*args: Any, **kwargs: Any) -> Any:
            compiled = jit(*args, **kwargs)
            caller = sys._getframe(1).f_code.co_filename
            if not is_user_file(caller):
                return compiled
            if not args and "fun" not in kwargs:  # nnx.jit(donate_argnums=0)
                return lambda fun: self._step(compiled(fun))
            return self._step(compiled)

        return watching

    def _step(self, compiled: Any) -> Any:
        assert self._factor is not None
        step = _Step(compiled, self._factor)
        self._steps.append(step)
        return step


class _Step:
    """A compiled function with a record of its losses."""

    def __init__(self, compiled: Any, factor: float) -> None:
        functools.update_wrapper(self, compiled, updated=())
        self.name = getattr(compiled, "__name__", type(compiled).__name__)
        self.calls = 0
        self._compiled = compiled
        self._factor = factor
        self._recorder: Guarded | None = None
        self._is_step: bool | None = None  # until the first call, nobody knows

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_step is False or has_tracer((args, kwargs)):
            return self._compiled(*args, **kwargs)
        if self._recorder is not None:
            self.calls += 1
            return self._recorder(*args, **kwargs)
        out = self._compiled(*args, **kwargs)
        self._is_step = any(map(is_number, arguments.flatten(out)[0]))
        if self._is_step:
            self.calls += 1
            self._recorder = Guarded(self._compiled, every=_EVERY, spikes=self._factor)
            self._recorder.calls = 1  # this one
        return out

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name == "_compiled":
            raise AttributeError(name)
        return getattr(self._compiled, name)

    def check(self) -> None:
        """Looks at the last losses."""
        if self._recorder is not None:
            self._recorder.check()
