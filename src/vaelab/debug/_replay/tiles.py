"""Single operations without a compilation for each shape.

A replay runs each operation by itself, and on a CPU the compiler takes far more time
than the operations do. An elementwise operation is the same for each element, so that
one program, for tiles of a fixed length, serves arrays of all shapes. A reshape or a
transpose only moves elements: NumPy does that without any compiler. What is computed is
computed by XLA all the same, which flushes subnormal numbers, and NumPy does not.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

__all__ = ["in_tiles"]

_TILE = 2**14
# Above, tiles take longer than another compilation.
_LARGEST = 2**22

_ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp
    convert_element_type cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor
    ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg
    nextafter not or pow reduce_precision rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh
    xor""".split()
)


def in_tiles(eqn: Any, operands: list[Any]) -> list[Any] | None:
    """The results of one equation as NumPy arrays; None if it must run in full."""
    name = eqn.primitive.name
    if name not in _ELEMENTWISE and name not in _MOVES:
        return None
    if eqn.params.get("sharding") is not None or jax.default_backend() != "cpu":
        return None
    pairs = zip(operands, eqn.invars, strict=True)
    found = [_on_host(x, atom.aval.dtype) for x, atom in pairs]
    arrays = [array for array in found if array is not None]
    if len(arrays) < len(found):
        return None
    if name in _MOVES:
        moved = _MOVES[name](eqn.params, arrays)
        return None if moved is None else [moved]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    size = math.prod(shape)
    if not 0 < size <= _LARGEST:
        return None
    program = _program(eqn.primitive, tuple(sorted(eqn.params.items())))
    return [_computed(program, arrays, shape, size).reshape(shape)]


def _computed(
    program: Callable[..., Any], arrays: list[Any], shape: tuple[int, ...], size: int
) -> np.ndarray:
    whole = [
        np.broadcast_to(array, shape).reshape(-1)
        if array.ndim
        else np.full(_TILE, array)
        for array in arrays
    ]
    parts = []
    for start in range(0, size, _TILE):
        length = min(_TILE, size - start)
        tiles = [
            flat if array.ndim == 0 else _padded(flat[start : start + length])
            for flat, array in zip(whole, arrays, strict=True)
        ]
        parts.append(np.asarray(program(*tiles))[:length])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _padded(part: np.ndarray) -> np.ndarray:
    if part.size == _TILE:
        return part
    tile = np.ones(_TILE, part.dtype)
    tile[: part.size] = part
    return tile


@lru_cache(maxsize=1024)
def _program(primitive: Any, params: tuple[tuple[str, Any], ...]) -> Any:
    return jax.jit(lambda *tiles: primitive.bind(*tiles, **dict(params)))


def _on_host(value: Any, dtype: Any) -> np.ndarray | None:
    """The array without a copy, if it is in the memory of a single host."""
    if not isinstance(dtype, np.dtype):  # random keys
        return None
    if isinstance(value, jax.Array):
        devices = value.devices()
        if len(devices) > 1 or any(device.platform != "cpu" for device in devices):
            return None
    return np.asarray(value, dtype)


def _broadcast(params: Any, arrays: list[Any]) -> np.ndarray | None:
    if len(arrays) > 1:  # a shape that is not known before
        return None
    [array] = arrays
    lengths = [1] * len(params["shape"])
    for axis, length in zip(params["broadcast_dimensions"], array.shape, strict=True):
        lengths[axis] = length
    return np.broadcast_to(array.reshape(lengths), params["shape"])


def _reshaped(params: Any, arrays: list[Any]) -> np.ndarray | None:
    if params.get("dimensions") is not None or len(arrays) > 1:
        return None
    return arrays[0].reshape(params["new_sizes"])


_MOVES: dict[str, Callable[[Any, list[Any]], np.ndarray | None]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshaped,
    "squeeze": lambda params, arrays: np.squeeze(arrays[0], params["dimensions"]),
    "transpose": lambda params, arrays: arrays[0].transpose(params["permutation"]),
}
