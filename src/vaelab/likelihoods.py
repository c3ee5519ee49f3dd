r"""The distribution p(x | z) of an image, given what the decoder says about it.

A decoder returns unconstrained numbers, the logits; a likelihood turns them into a
probability distribution over images. It owns four things: the negative log-likelihood
`nll` that training minimises, the `mean` that one shows, the `sample` that one draws,
and the support outside of which the first of these has no meaning, which `check`
enforces. `outputs_per_pixel` says how many numbers it needs for each pixel; if that is
more than one, the logits end in an axis of that length.

A likelihood without parameters is a frozen dataclass: two equal ones share compiled
programs.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np
from jax.typing import ArrayLike

from vaelab._checks import require_finite, require_unit_interval

__all__ = ["Bernoulli", "Likelihood"]


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
        pixelwise = jax.nn.softplus(logits) - x * logits
        return pixelwise.sum(axis=range(1, pixelwise.ndim))

    def mean(self, logits: jax.Array) -> jax.Array:
        r"""Returns the expected image, :math:`\sigma(l)`, of the shape of `logits`."""
        return jax.nn.sigmoid(logits)

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draws black and white images, float32 zeros and ones shaped like `logits`."""
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
        array = np.asarray(x)
        require_finite(array, name)
        require_unit_interval(array, name)
