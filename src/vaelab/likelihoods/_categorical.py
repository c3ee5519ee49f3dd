"""Pixels of a number of grey levels."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaelab._arguments import checked_key, checked_whole
from vaelab._checks import (
    real_array,
    require_levels,
    require_numbers,
    require_unit_interval,
)
from vaelab.likelihoods._protocol import floats, require_outputs, sum_over_pixels


@dataclass(frozen=True)
class Categorical:
    r"""One of a number of evenly spaced grey levels for each pixel.

    .. math::

        p(x \mid z) = \prod_i \operatorname{softmax}(l_i)_{k_i}, \quad
        x_i = k_i / (\mathrm{levels} - 1)

    Args:
        levels: how many, at least 2; scikit-learn's grey digits have 17.

    Raises:
        ValueError: `levels` is below 2.

    >>> import jax.numpy as jnp
    >>> grey = Categorical(levels=17)
    >>> print(grey.nll(jnp.zeros((1, 1, 1, 17)), jnp.array([[[0.5]]])))  # ln 17
    [2.8332133]
    """

    levels: int

    def __post_init__(self) -> None:
        levels = checked_whole("levels", self.levels, least=2)
        object.__setattr__(self, "levels", levels)

    @property
    def outputs_per_pixel(self) -> int:
        """One logit for each level."""
        return self.levels

    def nll(self, logits: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the negative log-probability of each image, nats, `(batch,)`.

        Args:
            logits: shape `(batch, *image_shape, levels)`.
            x: multiples of 1 / (levels - 1) in [0, 1], shape `(batch, *image_shape)`.
        """
        require_outputs(logits, x, self.levels)
        level = jnp.round(x * (self.levels - 1)).astype(jnp.int32)[..., None]
        log_probability = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_probability, level, axis=-1)
        return -sum_over_pixels(chosen)

    def mean(self, logits: jax.Array) -> jax.Array:
        """Returns the expected intensities, shape `(batch, *image_shape)`."""
        logits = floats(logits, self.levels)
        return jax.nn.softmax(logits) @ jnp.linspace(0.0, 1.0, self.levels)

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws intensities, shape `(batch, *image_shape)`."""
        logits = floats(logits, self.levels)
        key = checked_key("key", key)
        level = jax.random.categorical(key, logits)
        return level.astype(logits.dtype) / (self.levels - 1)

    def check(self, x: ArrayLike, name: str = "images") -> None:
        """Refuses intensities that are no multiple of 1 / (levels - 1) in [0, 1]."""
        array = real_array(x, name)
        require_unit_interval(array, name)
        require_levels(array, self.levels, name)


def uniform_dequantize(key: jax.Array, x: jax.Array, levels: int) -> jax.Array:
    r"""Spreads each grey level over its share of [0, 1).

    .. math::

        y = \frac{x (\mathrm{levels} - 1) + u}{\mathrm{levels}}, \quad u \sim U[0, 1)

    The log-density of y under a continuous likelihood, less `ln(levels)` per pixel, is
    a lower bound of the log-probability of the level.

    Args:
        key: a `jax.random` key.
        x: multiples of 1 / (levels - 1) in [0, 1], any shape.
        levels: how many there are, such as 17 for scikit-learn's digits.

    Returns:
        Numbers in [0, 1), of the shape of `x`.

    >>> import jax, jax.numpy as jnp
    >>> y = uniform_dequantize(jax.random.key(0), jnp.array([0.0, 1.0]), levels=2)
    >>> (y * 2).astype(int)
    Array([0, 1], dtype=int32)

    Source: L. Theis et al. (2016), A note on the evaluation of generative models,
    arXiv:1511.01844, section 3.1.
    """
    levels = checked_whole("levels", levels, least=2)
    require_numbers(x=x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x has dtype {x.dtype}: give floats, such as jnp.float32(x)")
    x, count = jnp.asarray(x), float(levels)  # a float may be large
    uniform = jax.random.uniform(checked_key("key", key), x.shape, x.dtype)
    return (jnp.round(x * (count - 1)) + uniform) / count
