"""What is replaced in JAX and Flax while a call is traced, and put back afterwards.

Several threads may trace at once, and a call that is traced may itself trace another:
the first one in replaces, the last one out puts back. What stands in the place acts in
the threads that trace, and hands all other threads on to what it replaces.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

__all__ = ["Patch", "patched"]

_tracing: ContextVar[bool] = ContextVar("vaelab_debug_tracing", default=False)
_lock = threading.Lock()
_originals: dict[tuple[Any, str], Any] = {}
_depth = 0


class Patch(NamedTuple):
    """One attribute to replace.

    Attributes:
        owner: the class or the module that has the attribute.
        name: of the attribute.
        wrap: takes the original and returns what stands in for it.
    """

    owner: Any
    name: str
    wrap: Callable[[Any], Any]


@contextlib.contextmanager
def patched(patches: Callable[[], Iterable[Patch]]) -> Iterator[None]:
    """Inside, the attributes are replaced, for this thread.

    Args:
        patches: what to replace; asked with nothing replaced twice, so that classes
            which were defined since the last time get their turn.
    """
    global _depth
    with _lock:
        _depth += 1
        try:
            for owner, name, wrap in patches():
                if (owner, name) not in _originals:
                    original = vars(owner)[name]
                    setattr(owner, name, _only_here(wrap(original), original))
                    _originals[owner, name] = original
        except BaseException:
            _leave()
            raise
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)
        with _lock:
            _leave()


def _leave() -> None:
    global _depth
    _depth -= 1
    if not _depth:
        for (owner, name), original in _originals.items():
            setattr(owner, name, original)
        _originals.clear()


def _only_here(new: Any, old: Any) -> Any:
    @functools.wraps(old)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (new if _tracing.get() else old)(*args, **kwargs)

    return chosen
