"""Ctrl-C, kept until the computation at hand is done."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupt:
    """Whether someone pressed Ctrl-C."""

    def __init__(self) -> None:
        self.happened = False


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Interrupt]:
    """Notes a first Ctrl-C; a second one interrupts as usual.

    Outside of the main thread, which alone is interrupted, this does nothing. Nor does
    it replace a handler that someone else has set.
    """
    interrupt = Interrupt()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield interrupt
        return

    def note(number: int, frame: Any) -> None:
        interrupt.happened = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
