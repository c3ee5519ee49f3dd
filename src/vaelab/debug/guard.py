"""`jax.debug_nans`, done right: an error that explains the call which failed.

JAX can check the result of every compiled call and raise `FloatingPointError`, but its
message names one operation, and the global flag (`jax.config.update("jax_debug_nans",
True)`, `JAX_DEBUG_NANS=1`) is forgetful: since some version after 0.7, one eager
gradient of a relu, or one of many other operations, and compiled functions are no
longer checked. The reason is that JAX switches its checks off for a moment inside these
operations, and afterwards restores what was set in this thread; nothing was, and
nothing counts as off. The context manager `jax.debug_nans(True)` sets it in this
thread, so it holds. `nan_guard` uses it, reads from the failing frames which call it
was, and explains that call.

It checks as much as `jax.debug_nans`, at the same price: every result of a compiled
call is copied to the host. `vaelab.debug.guarded` does not have this price.
"""

import threading
import types
from typing import Any

import jax

from vaelab.debug._arguments import updates_so_far
from vaelab.debug._blame import is_from_jax, suspects, user_traceback
from vaelab.debug.explain import explain
from vaelab.debug.report import NonFiniteError

__all__ = ["nan_guard"]

_FILTERING = "jax_traceback_filtering"


class nan_guard:
    """Raises `NonFiniteError` at the first call whose result has a NaN.

    The results of compiled functions and of eager operations are checked, in the thread
    that enters the context. All settings are restored on exit.

    Args:
        infs: raise at infinities as well. Many programs have them on purpose, as a mask
            or as the first value of a minimum.
        verify: whether the advice is tried before it is given, as `explain` does it.

    Raises:
        NonFiniteError: a `FloatingPointError` whose `.report` explains the failing
            call: the outermost compiled one. Its `__cause__` is the error that JAX
            raised. `.step` is the number of updates an optimizer among the arguments
            has made, if there is one.

    >>> import jax, jax.numpy as jnp
    >>> @jax.jit
    ... def loss(x):
    ...     return jnp.sum(jnp.log(x))
    >>> try:  # doctest: +ELLIPSIS
    ...     with nan_guard():
    ...         loss(jnp.array([1.0, -1.0]))
    ... except FloatingPointError as error:
    ...     print(error.report.primitive, error.report.kind)
    Invalid nan value encountered in the output of a jax.jit function. ...
    log nan
    """

    def __init__(self, *, infs: bool = False, verify: bool = True) -> None:
        for name, flag in (("infs", infs), ("verify", verify)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} is {flag!r}: give True or False")
        self._infs = infs
        self._verify = verify
        self._entered: list[list[Any]] = []

    def __enter__(self) -> None:
        states = [jax.debug_nans(True)] + [jax.debug_infs(True)] * self._infs
        for state in states:
            state.__enter__()
        self._entered.append(states)
        _unfiltered.enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        filtering = _unfiltered.leave()
        for state in reversed(self._entered.pop()):
            state.__exit__(kind, error, traceback)
        if error is None or traceback is None:
            return
        found = _explained(error, traceback, self._verify)
        if filtering != "off":
            error.__traceback__ = user_traceback(traceback)
        if found is not None:
            raise found from error


class _Unfiltered:
    """JAX's tracebacks with all of their frames, for as long as any guard needs them.

    The setting is one for all threads: the first guard changes it, the last restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guards = 0
        self._before: str | None = None

    def enter(self) -> None:
        """Lets the frames of the failing call stay readable."""
        with self._lock:
            if not self._guards:
                self._before = getattr(jax.config, _FILTERING)
                if self._before != "off":
                    jax.config.update(_FILTERING, "tracebackhide")
            self._guards += 1

    def leave(self) -> str | None:
        """Returns what was set before the first guard, and sets it after the last."""
        with self._lock:
            self._guards -= 1
            if not self._guards:
                jax.config.update(_FILTERING, self._before)
            return self._before


_unfiltered = _Unfiltered()


def _explained(
    error: BaseException, traceback: types.TracebackType, verify: bool
) -> NonFiniteError | None:
    """Explains an error of JAX's checks; None for any other error."""
    if isinstance(error, NonFiniteError) or not _is_of_a_check(error, traceback):
        return None
    problems = []
    with jax.debug_nans(False), jax.debug_infs(False):
        for suspect in suspects(traceback):
            if suspect.is_gone:
                problems.append(f"{suspect.name}: {_DONATED}")
                continue
            try:
                fn, args, kwargs = suspect.function, suspect.args, suspect.kwargs
                report = explain(fn, *args, verify=verify, **kwargs)
            except Exception as problem:  # the call inside of it may do better
                problems.append(f"{suspect.name}: explain() failed, {problem!r}")
                continue
            if report is not None:
                report = suspect.located(report)
                step = updates_so_far((suspect.args, suspect.kwargs))
                return NonFiniteError(f"{error}\n{report}", report=report, step=step)
            problems.append(f"{suspect.name}: explain() finds all outputs finite")
    why = "\n  ".join(dict.fromkeys(problems)) or "JAX does not say which call it was"
    return NonFiniteError(f"{error}\nThere is no explanation:\n  {why}")


def _is_of_a_check(error: BaseException, traceback: types.TracebackType) -> bool:
    if isinstance(error, FloatingPointError):
        return is_from_jax(traceback)
    # A call of an AOT program raises an error of JAX's own type; a call whose arguments
    # were donated raises another one while that is handled.
    return "InternalFloatingPointError" in (
        type(error).__name__,
        type(error.__context__).__name__,
    )


_DONATED = (
    "its arguments were deleted as a donation, which was compiled before the guard; "
    "enter the guard before the first call, or use vaelab.debug.guarded"
)
