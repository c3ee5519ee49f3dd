"""Pixels between white and black."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaelab._arguments import checked_key
from vaelab._checks import real_array, require_same_shape, require_unit_interval
from vaelab.likelihoods._protocol import floats, sum_over_pixels


@dataclass(frozen=True)
class Bernoulli:
    r"""Black and white pixels, independent given z.

    .. math::

        p(x \mid z) = \prod_i \sigma(l_i)^{x_i} (1 - \sigma(l_i))^{1 - x_i}

    Grey targets in [0, 1] are accepted, as the cross-entropy that tutorials minimise,
    but then it is no log-probability and has a floor above 0.

    >>> import jax.numpy as jnp
    >>> likelihood = Bernoulli()
    >>> x = jnp.array([[[0.0, 1.0]]])
    >>> likelihood.nll(jnp.zeros((1, 1, 2)), x)  # 2 ln 2: a fair coin for each pixel
    Array([1.3862944], dtype=float32)
    >>> likelihood == Bernoulli()
    True
    """

    @property
    def outputs_per_pixel(self) -> int:
        """One logit for each pixel."""
        return 1

    def nll(self, logits: jax.Array, x: jax.Array) -> jax.Array:
        r"""Returns the negative log-likelihood of each image.

        .. math::

            -\ln p(x \mid z) = \sum_i \operatorname{softplus}(l_i) - x_i l_i

        Args:
            logits: shape `(batch, *image_shape)`.
            x: targets in [0, 1], shape `(batch, *image_shape)`.

        Returns:
            Nats per image, shape `(batch,)`.
        """
        require_same_shape(logits=logits, x=x)
        return sum_over_pixels(_softplus(logits) - x * logits)

    def mean(self, logits: jax.Array) -> jax.Array:
        r"""Returns the expected image, :math:`\sigma(l)`, of the shape of `logits`."""
        logits = floats(logits)
        return jax.nn.sigmoid(logits)

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws black and white images, float32 zeros and ones shaped like `logits`."""
        logits = floats(logits)
        key = checked_key("key", key)
        return jax.random.bernoulli(key, self.mean(logits)).astype(logits.dtype)

    def check(self, x: ArrayLike, name: str = "images") -> None:
        """Refuses targets outside [0, 1], for which the loss has no lower bound.

        Args:
            x: targets of any shape; they are copied to the host.
            name: what to call them in the message.

        Raises:
            ValueError: with the range seen and what to write instead.

        >>> Bernoulli().check([0.0, 7.0, 16.0])
        Traceback (most recent call last):
        ValueError: images lie in [0, 16], outside [0, 1]: for levels of 0 to 16 write \
images / 16
        """
        require_unit_interval(real_array(x, name), name)


@dataclass(frozen=True)
class ContinuousBernoulli:
    r"""Grey intensities in [0, 1]: the Bernoulli's formula, made a density.

    .. math::

        p(x \mid z) = \prod_i \frac{l_i}{e^{l_i} - 1} e^{l_i x_i}

    The constant that turns the cross-entropy of grey pixels into a log-density is
    computed without a singularity at l = 0.

    >>> import jax.numpy as jnp
    >>> uniform = jnp.zeros((1, 1, 2))  # l = 0: every intensity is as likely
    >>> ContinuousBernoulli().nll(uniform, jnp.array([[[0.1, 0.7]]]))
    Array([0.], dtype=float32)

    Source: G. Loaiza-Ganem and J. P. Cunningham (2019), The continuous Bernoulli,
    arXiv:1907.06845.
    """

    @property
    def outputs_per_pixel(self) -> int:
        """One logit for each pixel."""
        return 1

    def nll(self, logits: jax.Array, x: jax.Array) -> jax.Array:
        r"""Returns the negative log-density of each image.

        .. math::

            -\ln p(x \mid z) = \sum_i \ln \frac{\sinh(l_i / 2)}{l_i / 2}
            + (\tfrac12 - x_i) l_i

        Args:
            logits: shape `(batch, *image_shape)`.
            x: intensities in [0, 1], shape `(batch, *image_shape)`.

        Returns:
            Nats per image, shape `(batch,)`.
        """
        require_same_shape(logits=logits, x=x)
        return sum_over_pixels(_log_sinhc(logits / 2) + (0.5 - x) * logits)

    def mean(self, logits: jax.Array) -> jax.Array:
        r"""Returns the expected image, :math:`1 / (1 - e^{-l}) - 1 / l`."""
        logits = floats(logits)
        small = jnp.abs(logits) < 0.1
        safe = jnp.where(small, 1.0, logits)
        series = 0.5 + logits / 12 - logits**3 / 720
        return jnp.where(small, series, 0.5 / jnp.tanh(safe / 2) + 0.5 - 1 / safe)

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws intensities of the shape of `logits`."""
        logits = floats(logits)
        key = checked_key("key", key)
        uniform = jax.random.uniform(key, logits.shape, logits.dtype)
        rate = jnp.maximum(jnp.abs(logits), 1e-4)
        from_the_peak = -jnp.log1p(uniform * jnp.expm1(-rate)) / rate
        return jnp.where(logits > 0, 1 - from_the_peak, from_the_peak)

    def check(self, x: ArrayLike, name: str = "images") -> None:
        """Refuses intensities outside [0, 1]."""
        Bernoulli().check(x, name)


def _log_sinhc(a: jax.Array) -> jax.Array:
    """Returns ln(sinh(a) / a), also at 0 and where sinh overflows."""
    small = jnp.abs(a) < 0.3
    safe = jnp.where(small, 1.0, jnp.abs(a))
    series = a**2 / 6 - a**4 / 180 + a**6 / 2835
    return jnp.where(small, series, safe + jnp.log(-jnp.expm1(-2 * safe) / (2 * safe)))


@jax.custom_jvp
def _softplus(x: jax.Array) -> jax.Array:
    """Returns ln(1 + exp(x)); a training step with it is faster than with JAX's own."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@_softplus.defjvp
def _softplus_derivative(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    small = jnp.exp(-jnp.abs(x))  # the same exponential as above, taken once by XLA
    sigmoid = jnp.where(x >= 0, 1, small) / (1 + small)
    return _softplus(x), sigmoid * tangent
