"""Examples as the rows of a table."""

import numpy as np
from jax.typing import ArrayLike

from vaelab._checks import real_array, require_finite


def rows_of(
    x: ArrayLike, *, binary: bool = False, like: int | None = None
) -> np.ndarray:
    """Returns examples as rows of float64 numbers.

    Args:
        x: shape `(n, ...)`.
        binary: refuse what is neither 0 nor 1.
        like: the number of pixels that they must have.
    """
    array = real_array(x, "x")
    if array.ndim < 2 or not array.size:
        raise ValueError(f"x has shape {array.shape}: give (n, ...) with n at least 1")
    require_finite(array, "x")
    flat = array.astype(np.float64).reshape(len(array), -1)
    if binary and ((flat != 0) & (flat != 1)).any():
        seen = flat[(flat != 0) & (flat != 1)][0]
        raise ValueError(
            f"x contains {seen:g}: give zeros and ones, such as (x > 0.5).astype(float)"
        )
    if like is not None and flat.shape[1] != like:
        raise ValueError(f"x has {flat.shape[1]} pixels: this model is of {like}")
    return flat
