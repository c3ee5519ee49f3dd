"""The approximate posterior of a latent vector."""

from typing import NamedTuple

import jax

from vaelab._arguments import checked_key


class Posterior(NamedTuple):
    """A diagonal Gaussian q(z | x) for each image of a batch.

    Attributes:
        mean: shape `(batch, latent)`.
        std: positive, shape `(batch, latent)`.
    """

    mean: jax.Array
    std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        r"""Draws one z for each image.

        .. math::

            z = \mathrm{mean} + \mathrm{std} \cdot \varepsilon, \quad
            \varepsilon \sim N(0, I)

        Args:
            key: a `jax.random` key.

        Returns:
            z, shape `(batch, latent)`, with a gradient to both parameters.

        >>> import jax, jax.numpy as jnp
        >>> certain = Posterior(jnp.ones((1, 2)), jnp.zeros((1, 2)))
        >>> certain.sample(jax.random.key(0))
        Array([[1., 1.]], dtype=float32)

        Source: the reparameterisation of Kingma and Welling (2013), section 2.4.
        """
        return self.mean + self.std * jax.random.normal(
            checked_key("key", key), self.mean.shape, self.mean.dtype
        )
