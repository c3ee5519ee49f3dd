"""Warnings that point at the user's line, however deep in vaelab they are found."""

import sys
import types
import warnings


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called vaelab."""
    level, frame = 1, sys._getframe()
    while frame is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_ours(frame: types.FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] == "vaelab"
