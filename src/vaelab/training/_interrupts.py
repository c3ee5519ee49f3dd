"""Ctrl-C, kept until the computation at hand is done.

Python raises it wherever it is, and there are places that swallow it: a finalizer, or
what JAX calls back while it traces. So a run only notes it, from its beginning to its
end, and acts on it where it is safe: before the next compiled call.
"""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Interrupt:
    """Whether someone pressed Ctrl-C."""

    def __init__(self) -> None:
        self._noted = False
        self._heard = False

    @property
    def happened(self) -> bool:
        """Whether it did; who asks has to act on it."""
        self._heard = self._noted
        return self._noted

    def note(self) -> None:
        """Someone did."""
        self._noted = True

    def raise_unheard(self) -> None:
        """Lets one that nobody acted on interrupt the caller."""
        if self._noted and not self._heard:
            raise KeyboardInterrupt


_current: Interrupt | None = None  # of the main thread, which alone is interrupted


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Interrupt]:
    """Notes a first Ctrl-C; a second one interrupts as usual.

    Within another one it gives that one's: Ctrl-C ends a run within a run, and then the
    run around it. Outside of the main thread this does nothing. Nor does it replace a
    handler that someone else has set.

    Raises:
        KeyboardInterrupt: at the end, if it happened and nobody asked for it.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield Interrupt()
        return
    if _current is not None:
        yield _current
        return
    interrupt = Interrupt()
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return

    def note(number: int, frame: Any) -> None:
        interrupt.note()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    _current = interrupt
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _current = None
    interrupt.raise_unheard()


def interrupted_safely(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function note Ctrl-C from its beginning to its end."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with deferred_interrupts():
            return function(*args, **kwargs)

    return call
