"""What every likelihood has, and what several share."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaelab._checks import require_numbers


class Likelihood(Protocol):
    """What a model and a loss ask of p(x | z)."""

    @property
    def outputs_per_pixel(self) -> int:
        """How many decoder outputs each pixel needs."""
        ...

    def nll(self, logits: jax.Array, x: jax.Array) -> jax.Array:
        """Returns -ln p(x | z) of each image in nats, shape `(batch,)`."""
        ...

    def mean(self, logits: jax.Array) -> jax.Array:
        """Returns E[x | z], shape `(batch, *image_shape)`."""
        ...

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws from p(x | z), shape `(batch, *image_shape)`."""
        ...

    def check(self, x: ArrayLike, name: str = "images") -> None:
        """Raises ValueError if x is outside the support."""
        ...


def floats(logits: jax.Array, k: int | None = None) -> jax.Array:
    """Returns logits as JAX's floats, k of them for each pixel in the last axis."""
    require_numbers(logits=logits)
    if k is not None and jnp.shape(logits)[-1:] != (k,):
        raise ValueError(
            f"logits has shape {jnp.shape(logits)}: give {k} for each pixel, in the "
            "last axis"
        )
    logits = jnp.asarray(logits)
    is_float = jnp.issubdtype(logits.dtype, jnp.floating)
    return logits if is_float else logits.astype(jnp.float32)


def require_outputs(logits: jax.Array, x: jax.Array, k: int) -> None:
    """Refuses logits that are not k numbers for each pixel."""
    require_numbers(logits=logits, x=x)
    if jnp.shape(logits) != (*jnp.shape(x), k):
        raise ValueError(
            f"logits has shape {jnp.shape(logits)} and x has shape {jnp.shape(x)}: "
            f"give logits of shape {(*jnp.shape(x), k)}"
        )


def sum_over_pixels(pixelwise: jax.Array) -> jax.Array:
    """Sums over all axes but the first."""
    return pixelwise.sum(axis=range(1, pixelwise.ndim))
