"""What vaelab refuses about single arguments, each kind in the same words.

Every check runs on the host, before anything is compiled, and returns the value in the
form that the library uses: an int for a NumPy integer, a tuple for a list.
"""

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")


def hinting_at(hint: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Adds to Python's message about an argument that a function does not have.

    Args:
        hint: what to say, with `{name}` for that of the argument.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise TypeError(
                        f"{function.__name__} has no argument {name}: "
                        + hint.format(name=name)
                    )
            return function(*args, **kwargs)

        return call

    return decorate


def checked_whole(name: str, value: Any, *, least: int = 0) -> int:
    """Refuses what is no whole number, or a smaller one than allowed."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} is {shown(value)}: give a whole number{_or_(least)}")
    if value < least:
        raise ValueError(f"{name} is {value}: give at least {least}")
    return int(value)


def checked_size(name: str, value: Any) -> int:
    """Refuses what is no positive whole number."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {shown(value)}: give a positive integer")
    return int(value)


def checked_sizes(name: str, value: Any) -> tuple[int, ...]:
    """Refuses what is no sequence of positive whole numbers."""
    is_scalar = isinstance(value, np.ndarray) and not value.ndim
    if is_scalar or not isinstance(value, list | tuple | np.ndarray):
        raise TypeError(
            f"{name} is {shown(value)}: give a tuple of positive integers, such as "
            "(8, 8)"
        )
    return tuple(checked_size(f"{name}[{i}]", size) for i, size in enumerate(value))


def checked_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Refuses what is no finite number within its range.

    Args:
        name: of the argument.
        value: a number, or an array of one.
        least: the smallest number allowed.
        most: the largest number allowed.
        above: all numbers allowed are larger.
        below: all numbers allowed are smaller.
    """
    if is_array_of_numbers(value) and value.shape == ():
        value = value.item()
    asked = _range(least, most, above, below)
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {shown(value)}: give {asked}")
    number = float(value)
    within = least <= number <= most and above < number < below
    if not (math.isfinite(number) and within):
        raise ValueError(f"{name} is {value}: give {asked}")
    return number


def checked_numbers(name: str, values: Any, *, least: float) -> list[float]:
    """Refuses what is no sequence of finite numbers, at least one."""
    return [
        checked_number(f"{name}[{i}]", value, least=least)
        for i, value in enumerate(checked_list(name, values))
    ]


def checked_list(name: str, values: Any) -> list[Any]:
    """Refuses what has no order, or nothing in it."""
    is_vector = is_array_of_numbers(values) and values.ndim == 1
    if not (is_vector or isinstance(values, list | tuple | range)):
        one = values if isinstance(values, Real) else 0
        raise TypeError(f"{name} is {shown(values)}: give a list, such as [{one}]")
    if not len(values):
        raise ValueError(f"{name} is empty: give at least one")
    return list(values)


def checked_weight(name: str, value: Any) -> Any:
    """Refuses what weighs no term of a loss; traced values cannot be looked into."""
    if not isinstance(value, jax.Array):
        return checked_number(name, value, least=0)
    if value.shape or not is_array_of_numbers(value):
        raise TypeError(f"{name} is {shown(value)}: give 0 or a positive number")
    if not isinstance(value, Tracer):
        checked_number(name, value, least=0)
    return value


def checked_seed(name: str, value: Any) -> int:
    """Refuses what scikit-learn does not take as a seed."""
    seed = checked_whole(name, value)
    if seed >= 2**32:
        raise ValueError(f"{name} is {seed}: give less than 2**32")
    return seed


def checked_flag(name: str, value: Any) -> bool:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {shown(value)}: give True or False")
    return bool(value)


def checked_key(name: str, value: Any) -> jax.Array:
    """Refuses what is not one random key, of the new kind or the old."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    is_new = _is_kind(dtype, jax.dtypes.prng_key)
    is_old = dtype == np.uint32 and shape in ((2,), (4,))
    if not (is_new or is_old):
        raise TypeError(
            f"{name} is {shown(value)}: give a random key, such as jax.random.key(0)"
        )
    if is_new and value.ndim:
        raise ValueError(
            f"{name} holds {value.size} random keys: give one, such as {name}[0]"
        )
    return value


def checked_rngs(name: str, value: Any) -> nnx.Rngs:
    """Refuses what is no collection of random streams."""
    if not isinstance(value, nnx.Rngs):
        number = value if isinstance(value, Integral) else 0
        raise TypeError(
            f"{name} is {shown(value)}: give random streams, such as "
            f"{name}=nnx.Rngs({number}, noise=1)"
        )
    return value


def checked_path(name: str, value: Any, kind: str = "folder") -> Path:
    """Refuses what is no path; `~` becomes the home directory."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise TypeError(f"{name} is {shown(value)}: give the path of a {kind}")
    return Path(value).expanduser().absolute()


def checked_module(name: str, value: Any) -> nnx.Module:
    """Refuses what is no NNX module, such as a class of models."""
    if not isinstance(value, nnx.Module):
        raise TypeError(
            f"{name} is {shown(value)}: give an NNX module, such as "
            "vaelab.VAE((8, 8), 64, 8, rngs=nnx.Rngs(0, noise=1))"
        )
    return value


def is_array_of_numbers(value: Any) -> bool:
    """Whether this is an array, or a traced one, of real numbers without a mask."""
    is_array = hasattr(value, "shape") and not isinstance(value, type)
    dtype = getattr(value, "dtype", None)
    is_real = any(_is_kind(dtype, kind) for kind in (np.floating, np.integer, np.bool_))
    return is_array and is_real and not np.ma.is_masked(value)


def _is_kind(dtype: Any, kind: Any) -> bool:
    try:
        return dtype is not None and bool(jnp.issubdtype(dtype, kind))
    except TypeError:  # of another library
        return False


def shown(value: Any) -> str:
    """Shows a value in a few words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, nnx.Module) or hasattr(value, "__array__"):
        shape = getattr(value, "shape", None)
        kind = type(value).__name__
        has_shape = isinstance(shape, tuple)  # nnx.Rngs has any attribute
        return f"a {kind} of shape {tuple(shape)}" if has_shape else f"a {kind}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def listed(names: Iterable[str]) -> str:
    """Writes names after one another."""
    return ", ".join(map(str, names))


def _or_(least: int) -> str:
    return f", at least {least}" if least else ""


def _range(least: float, most: float, above: float, below: float) -> str:
    low = least if least > -math.inf else above
    high = most if most < math.inf else below
    if low == -math.inf and high == math.inf:
        return "a finite number"
    if high == math.inf:
        if low == 0:
            return "a positive number" if above == 0 else "0 or a positive number"
        return f"a number {'of at least' if low == least else 'above'} {low:g}"
    left = "[" if low == least else "("
    right = "]" if high == most else ")"
    return f"a number in {left}{low:g}, {high:g}{right}"
