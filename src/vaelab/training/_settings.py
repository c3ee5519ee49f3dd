"""What a run is made with, in words and numbers that two runs can be compared by."""

import math
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np


def settings(
    optimizer: Callable[..., Any], loss_fn: Callable[..., Any], knobs: Mapping[str, Any]
) -> dict[str, Any]:
    """Describes what changes a run without changing the structure of its state.

    Args:
        optimizer: the `update` of an optax transformation.
        loss_fn: what is minimised.
        knobs: the numbers that are given to it.

    Returns:
        Names, and under each a number or a text, for JSON.
    """
    described: dict[str, Any] = {"loss_fn": _name(loss_fn)}
    described |= {f"loss_fn: {name}": value for name, value in _values(loss_fn)}
    for name, value in knobs.items():
        described[name] = float(value) if np.ndim(value) == 0 else str(value)
    for name, value in _values(optimizer):
        unique, count = f"optimizer: {name}", 1
        while unique in described:
            count += 1
            unique = f"optimizer: {name} ({count})"
        described[unique] = value
    return described


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Says in what two descriptions differ, such as `beta was 1.0 and is 4.0`."""
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{name} was {before.get(name, 'absent')} and is {now.get(name, 'absent')}"
        for name in names
        if before.get(name, "absent") != now.get(name, "absent")
    ]


def _name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


def _values(function: Any) -> Iterator[tuple[str, Any]]:
    """Yields the numbers that a function closes over, through others it closes over."""
    seen: set[int] = set()

    def walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, bool | str | int | float | np.number):
            yield _readable(name, value)
        elif id(value) in seen:
            return
        elif isinstance(value, partial):
            seen.add(id(value))
            for key, part in value.keywords.items():
                yield from walk(part, key)
            yield from walk(value.args, "argument")
            yield from walk(value.func, name)
        elif isinstance(value, types.FunctionType):
            seen.add(id(value))
            whose = value.__qualname__.partition(".")[0]
            cells = zip(
                value.__code__.co_freevars, value.__closure__ or (), strict=True
            )
            for key, cell in cells:
                try:
                    content = cell.cell_contents
                except ValueError:  # not assigned yet
                    continue
                yield from walk(content, f"{whose}.{key}")
        elif type(value) in (tuple, list):
            for part in value:
                yield from walk(part, name)
        elif hasattr(value, "update") and hasattr(value, "init"):
            yield from walk(value.update, name)

    yield from walk(function, "value")


def _readable(name: str, value: Any) -> tuple[str, Any]:
    value = value.item() if isinstance(value, np.generic) else value
    if name == "scale.step_size" and value < 0:
        return "learning_rate", -value
    if isinstance(value, float) and not math.isfinite(value):
        return name, str(value)
    return name, value
