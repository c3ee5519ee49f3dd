"""An explanation that lacks a part is better than an error in its place."""

from collections.abc import Callable
from typing import TypeVar

__all__ = ["attempt"]

T = TypeVar("T")


def attempt(work: Callable[[], T], otherwise: T, problems: list[str]) -> T:
    """What `work` returns, or something else if it fails.

    Args:
        work: a part of an explanation.
        otherwise: what stands in for it.
        problems: gets a sentence about what failed.
    """
    try:
        return work()
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        code = where.tb_frame.f_code if where is not None else None
        name = f" in {code.co_qualname}" if code is not None else ""
        problems.append(f"a part of this explanation failed{name}: {error!r:.300}")
        return otherwise
