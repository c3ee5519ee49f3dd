"""Real-valued pixels, with a spread that is known, learned, or the decoder's."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from vaelab._arguments import checked_key, checked_number
from vaelab._bounds import bounded
from vaelab._checks import real_array, require_finite, require_same_shape
from vaelab._signatures import ConstructorSignature
from vaelab.likelihoods._protocol import floats, require_outputs, sum_over_pixels


@dataclass(frozen=True)
class Gaussian:
    r"""Real-valued pixels around the decoder's output, with one known spread.

    .. math::

        p(x \mid z) = \prod_i N(x_i; l_i, \mathrm{std}^2)

    Args:
        std: the spread of every pixel.

    Raises:
        ValueError: `std` is not positive.

    >>> import jax.numpy as jnp
    >>> zeros = jnp.zeros((1, 1, 2))
    >>> Gaussian(std=1.0).nll(zeros, zeros)  # ln(2 pi)
    Array([1.837877], dtype=float32)
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", checked_number("std", self.std, above=0))

    @property
    def outputs_per_pixel(self) -> int:
        """One mean for each pixel."""
        return 1

    def nll(self, logits: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the negative log-density of each image, nats, shape `(batch,)`."""
        return _gaussian_nll(logits, jnp.log(self.std), x)

    def mean(self, logits: jax.Array) -> jax.Array:
        """Returns the decoder's output itself."""
        logits = floats(logits)
        return logits

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws images of the shape of `logits`."""
        logits = floats(logits)
        key = checked_key("key", key)
        return logits + self.std * jax.random.normal(key, logits.shape, logits.dtype)

    def check(self, x: ArrayLike, name: str = "images") -> None:
        """Refuses NaN and infinity."""
        require_finite(real_array(x, name), name)


class LearnedGaussian(nnx.Module):
    r"""A Gaussian whose one spread is learned with the model.

    Args:
        std: the spread to start from.
        floor: the least spread; without one, a model that reconstructs perfectly has
            an unbounded likelihood. The std is never below it, keeps a gradient near
            it, and is its own between e times the floor and infinity.

    Raises:
        ValueError: `std` or `floor` is not positive.

    >>> import jax.numpy as jnp
    >>> zeros = jnp.zeros((1, 1, 2))
    >>> LearnedGaussian(std=1.0).nll(zeros, zeros)  # ln(2 pi)
    Array([1.837877], dtype=float32)
    """

    __signature__ = ConstructorSignature()

    def __init__(self, std: float = 1.0, *, floor: float = 1e-3) -> None:
        std = checked_number("std", std, above=0)
        self.floor = checked_number("floor", floor, above=0)
        self.log_std = nnx.Param(jnp.log(jnp.float32(std)))

    @property
    def outputs_per_pixel(self) -> int:
        """One mean for each pixel."""
        return 1

    @property
    def std(self) -> jax.Array:
        """The spread as it is now, a scalar."""
        return jnp.exp(self._bounded_log_std())

    def nll(self, logits: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the negative log-density of each image, nats, shape `(batch,)`."""
        return _gaussian_nll(logits, self._bounded_log_std(), x)

    def mean(self, logits: jax.Array) -> jax.Array:
        """Returns the decoder's output itself."""
        logits = floats(logits)
        return logits

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws images of the shape of `logits`."""
        logits = floats(logits)
        key = checked_key("key", key)
        return logits + self.std * jax.random.normal(key, logits.shape, logits.dtype)

    def check(self, x: ArrayLike, name: str = "images") -> None:
        """Refuses NaN and infinity."""
        require_finite(real_array(x, name), name)

    def _bounded_log_std(self) -> jax.Array:
        return bounded(self.log_std[...], math.log(self.floor))


@dataclass(frozen=True)
class PixelwiseGaussian:
    r"""Real-valued pixels, each with a mean and a spread from the decoder.

    The decoder's two outputs for a pixel are its mean and its log std, which bends
    smoothly to stay above the logarithm of `floor`.

    Args:
        floor: the least spread of a pixel.

    Raises:
        ValueError: `floor` is not positive.

    >>> import jax.numpy as jnp
    >>> PixelwiseGaussian().nll(jnp.zeros((1, 1, 2, 2)), jnp.zeros((1, 1, 2)))
    Array([1.837877], dtype=float32)
    """

    floor: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "floor", checked_number("floor", self.floor, above=0))

    @property
    def outputs_per_pixel(self) -> int:
        """The mean and the log std of each pixel."""
        return 2

    def nll(self, logits: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the negative log-density of each image, nats, shape `(batch,)`.

        Args:
            logits: shape `(batch, *image_shape, 2)`.
            x: shape `(batch, *image_shape)`.
        """
        require_outputs(logits, x, 2)
        return _gaussian_nll(logits[..., 0], self._log_std(logits), x)

    def mean(self, logits: jax.Array) -> jax.Array:
        """Returns the means, shape `(batch, *image_shape)`."""
        logits = floats(logits, 2)
        return logits[..., 0]

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws images, shape `(batch, *image_shape)`."""
        logits = floats(logits, 2)
        key = checked_key("key", key)
        mean = logits[..., 0]
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + jnp.exp(self._log_std(logits)) * noise

    def check(self, x: ArrayLike, name: str = "images") -> None:
        """Refuses NaN and infinity."""
        require_finite(real_array(x, name), name)

    def _log_std(self, logits: jax.Array) -> jax.Array:
        return bounded(logits[..., 1], math.log(self.floor))


def _gaussian_nll(mean: jax.Array, log_std: jax.Array, x: jax.Array) -> jax.Array:
    require_same_shape(logits=mean, x=x)
    standardised = (x - mean) * jnp.exp(-log_std)
    return sum_over_pixels(0.5 * standardised**2 + log_std + 0.5 * jnp.log(2 * jnp.pi))
