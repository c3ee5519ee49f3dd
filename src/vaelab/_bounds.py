"""Bounds that a parameter can come back from."""

import math

import jax
import jax.numpy as jnp


def bounded(x: jax.Array, low: float, high: float = math.inf) -> jax.Array:
    r"""Keeps numbers inside an open interval, with a gradient everywhere.

    .. math::

        f(x) = h - \frac{m^2}{m + x - (h - m)} \quad (x > h - m), \quad
        f(x) = x \text{ further inside},

    and its mirror image at the lower end, with a margin m of 1 or a quarter of the
    interval, whichever is less. The value and the slope are continuous. Inside of the
    margins not a bit of x changes; outside the slope falls with the square of the
    distance, where that of `clip` is 0 and holds what went there for ever.

    Args:
        x: any shape.
        low: the lower end.
        high: the upper end.

    Returns:
        Numbers in (low, high) up to rounding, of the shape of `x`.

    >>> import jax, jax.numpy as jnp
    >>> bounded(jnp.array([-30.0, -10.0, 0.25, 30.0]), -10.0, 10.0)
    Array([-9.954545, -9.5     ,  0.25    ,  9.954545], dtype=float32)
    >>> print(f"{jax.grad(bounded)(30.0, -10.0, 10.0):.4f}")
    0.0021
    """
    margin = min(1.0, (high - low) / 4)
    inner_low, inner_high = low + margin, high - margin
    under = jnp.maximum(inner_low - x, 0)
    lowered = margin * (1 - margin / (margin + under))
    if math.isinf(high):
        return jnp.maximum(x, inner_low) - lowered
    over = jnp.maximum(x - inner_high, 0)
    raised = margin * (1 - margin / (margin + over))
    return jnp.clip(x, inner_low, inner_high) - lowered + raised
