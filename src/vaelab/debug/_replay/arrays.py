"""What the replay asks of single arrays: is it finite, where not, and in short."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaelab.debug.report import ArraySummary, Bin, Origin

__all__ = [
    "Kinds",
    "bad_mask",
    "first_bad",
    "kinds",
    "largest",
    "summary",
    "to_numpy",
    "value_at",
]

Kinds = tuple[bool, bool]  # any NaN, any Inf


def kinds(array: Any) -> Kinds:
    """Whether an array contains NaNs, and whether Infs; never, for other things."""
    dtype = getattr(array, "dtype", None)
    if isinstance(array, (float, complex)):
        array = np.asarray(array)
    elif dtype is None or not _is_inexact(dtype):
        return False, False
    if isinstance(array, jax.Array) and not _on_host(array):
        nan, inf = _device_kinds(array)
        return bool(nan), bool(inf)
    values = to_numpy(array)
    if np.isfinite(values).all():
        return False, False
    return bool(np.isnan(values).any()), bool(np.isinf(values).any())


@lru_cache(maxsize=256)
def _is_inexact(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _on_host(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.devices())


@jax.jit
def _device_kinds(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.isnan(array).any(), jnp.isinf(array).any()


def to_numpy(array: Any) -> np.ndarray:
    """The array on the host; of random keys their data."""
    if isinstance(array, jax.Array) and jnp.issubdtype(
        array.dtype, jax.dtypes.prng_key
    ):
        array = jax.random.key_data(array)
    return np.asarray(array)


def largest(array: Any) -> float:
    """The largest finite modulus; 0 of what are no numbers, such as random keys."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.number):
        return 0.0
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    wide = np.complex128 if is_complex else np.float64
    values = np.abs(np.asarray(array).astype(wide))
    return float(np.max(values, initial=0.0, where=np.isfinite(values)))


def bad_mask(array: Any) -> np.ndarray:
    """Which elements are NaN or Inf."""
    dtype = getattr(array, "dtype", np.dtype(type(array)))
    if not _is_inexact(dtype):
        return np.zeros(np.shape(array), bool)
    return ~np.isfinite(to_numpy(array))


def first_bad(array: Any, kind: str, fresh: np.ndarray | None) -> tuple[int, ...]:
    """The first index at which an array is NaN or Inf, among the fresh ones if any."""
    values = to_numpy(array)
    test = np.isnan if kind == "nan" else np.isinf
    mask = test(values)
    if fresh is not None and (mask & fresh).any():
        mask = mask & fresh
    if not mask.any():
        mask = ~np.isfinite(values)
    if not mask.any():
        return ()
    flat = int(np.argmax(mask))
    return tuple(int(i) for i in np.unravel_index(flat, values.shape))


def value_at(array: Any, index: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """The element that an elementwise operation uses for `index` of its result.

    Args:
        array: an operand.
        index: an index of the result.
        shape: the shape of the result; the operand's may have ones instead, or be ().
    """
    values = to_numpy(array)
    if not _is_number(values.dtype):
        return None
    if values.ndim:
        if not values.ndim == len(shape) == len(index):
            return None
        if any(n not in (1, m) for n, m in zip(values.shape, shape, strict=True)):
            return None
        index = tuple(min(i, n - 1) for i, n in zip(index, values.shape, strict=True))
    value = values[index] if values.ndim else values[()]
    if values.dtype == bool or np.issubdtype(values.dtype, np.integer):
        return int(value)
    return complex(value) if np.iscomplexobj(values) else float(value)


def summary(
    array: Any,
    index: tuple[int, ...] | None = None,
    value: Any = None,
    origin: Origin | None = None,
    bad: np.ndarray | None = None,
) -> ArraySummary:
    """An array in a few numbers.

    Args:
        array: the array.
        index: where an operation's result first goes wrong.
        value: the element there.
        origin: where the array was computed.
        bad: the elements of the operation's result that are not finite, if each
            depends on one element of the array alone.
    """
    shape = tuple(np.shape(array))
    dtype = getattr(array, "dtype", None)
    name = str(dtype) if dtype is not None else type(array).__name__
    if dtype is not None and not _is_number(dtype):
        return ArraySummary(shape, name, index=index, origin=origin)
    values = to_numpy(array)
    if np.iscomplexobj(values):
        values = np.abs(values)
    if values.dtype != np.float64:
        values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    return ArraySummary(
        shape,
        name,
        min=float(finite.min()) if finite.size else None,
        max=float(finite.max()) if finite.size else None,
        zeros=int((values == 0).sum()),
        nans=int(np.isnan(values).sum()),
        infs=int(np.isinf(values).sum()),
        index=index,
        value=value,
        origin=origin,
        bins=_bins(values, bad),
    )


def _bins(values: np.ndarray, result_bad: np.ndarray | None) -> tuple[Bin, ...]:
    """How the finite elements are distributed, by sign and quarters of a decade."""
    kept = np.isfinite(values)
    if not kept.any():
        return ()
    bad = _spoiling(values.shape, result_bad)[kept]
    values = values[kept]
    signs = np.sign(values).astype(int)
    quarters = np.zeros(values.shape)
    np.log10(np.abs(values), out=quarters, where=signs != 0)
    quarters = np.floor(4 * quarters).astype(int)
    lowest = int(quarters.min())
    keys = 3 * (quarters - lowest) + signs + 1
    counts, spoilt = np.bincount(keys), np.bincount(keys, bad)
    return tuple(
        Bin(int(k) % 3 - 1, (int(k) // 3 + lowest) / 4, int(counts[k]), int(spoilt[k]))
        for k in np.flatnonzero(counts)
    )


def _spoiling(shape: tuple[int, ...], bad: np.ndarray | None) -> np.ndarray:
    """Which elements of an operand the bad elements of the result were made of."""
    none = np.zeros(shape, bool)
    if bad is None or bad.ndim < len(shape):
        return none
    extra = bad.ndim - len(shape)
    pairs = enumerate(zip(shape, bad.shape[extra:], strict=True), extra)
    wide = tuple(k for k, (n, m) in pairs if n == 1 != m)
    spoilt = bad.any((*range(extra), *wide), keepdims=True).reshape(-1)
    return spoilt.reshape(shape) if spoilt.size == none.size else none


def _is_number(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_))
