r"""The variational autoencoder and its two parts.

An `Encoder` maps an image x to an approximate posterior over a small latent vector z, a
diagonal Gaussian q(z | x) = N(mean, std²). A `Decoder` maps z back to the numbers that
a likelihood p(x | z) needs. A `VAE` holds one of each, and is trained by making both
agree with a standard normal prior on z (D. P. Kingma and M. Welling, 2013,
Auto-Encoding Variational Bayes, arXiv:1312.6114).

Calling a model draws z, from the model's own NNX stream `noise`; everything else it
offers is deterministic or takes a key.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from vaelab._bounds import bounded
from vaelab._checks import require_image_shape, require_one_array
from vaelab.likelihoods import Bernoulli, Likelihood

__all__ = [
    "VAE",
    "Decoder",
    "Encoder",
    "EncoderOutput",
    "Posterior",
    "VAEOutput",
    "evaluation_view",
]

LogStdBounds = tuple[float, float] | None
Activation = Callable[[jax.Array], jax.Array]


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
            key, self.mean.shape, self.mean.dtype
        )


class EncoderOutput(NamedTuple):
    """A draw z from the posterior and its parameters, each `(batch, latent)`."""

    z: jax.Array
    mean: jax.Array
    std: jax.Array


class VAEOutput(NamedTuple):
    """Logits `(batch, *image_shape)` of one draw z; mean and std `(batch, latent)`."""

    logits: jax.Array
    mean: jax.Array
    std: jax.Array


class Encoder(nnx.Module):
    r"""Dense layers from a flat image to q(z | x).

    .. math::

        h &= a(W x + b) \\
        \mathrm{mean} &= W_m h + b_m \\
        \mathrm{std} &= \exp(f(W_s h + b_s))

    with the activation a, by default relu. The bound f changes nothing for a healthy
    model: between l + 1 and u - 1 it is the identity. Outside it bends smoothly towards
    the bounds l and u on log std, which keeps `log(std)` finite and leaves a gradient
    by which a posterior comes back.

    Args:
        input_size: the number of values in one image.
        hidden_size: the width of the hidden layer, or a tuple with one width for each;
            `()` makes the encoder linear.
        latent_size: the length of z.
        log_std_bounds: the range of log std, or None for the textbook's unbounded form.
        dropout: the probability of dropping a hidden unit while training.
        activation: the function after each hidden layer, such as `nnx.gelu`.
        dtype: of the layers' computation, such as `jnp.bfloat16`. The parameters, the
            mean and the std stay float32.
        rngs: initialises the parameters; its stream `noise` is kept for the draws.

    >>> import jax.numpy as jnp
    >>> encoder = Encoder(64, 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> z, mean, std = encoder(jnp.zeros((5, 64)))
    >>> z.shape, mean.shape, std.shape
    ((5, 8), (5, 8), (5, 8))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        latent_size: int,
        *,
        log_std_bounds: LogStdBounds = (-10.0, 10.0),
        dropout: float = 0.0,
        activation: Activation = nnx.relu,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        _require_positive(latent_size=latent_size)
        _require_bounds(log_std_bounds)
        self.rngs = rngs
        self.latent_size = latent_size
        self.log_std_bounds = log_std_bounds
        self.hidden, width = _hidden_layers(
            input_size, hidden_size, dropout, activation, dtype, rngs
        )
        self.linear_mean = nnx.Linear(width, latent_size, dtype=dtype, rngs=rngs)
        self.linear_std = nnx.Linear(width, latent_size, dtype=dtype, rngs=rngs)

    def posterior(self, x: jax.Array) -> Posterior:
        """Returns q(z | x), without a draw.

        Args:
            x: shape `(batch, input_size)`; further axes are flattened.
        """
        x = x.reshape(x.shape[0], -1)  # (batch, input_size)
        h = self.hidden(x)
        log_std = _float32(self.linear_std(h))
        if self.log_std_bounds is not None:
            log_std = bounded(log_std, *self.log_std_bounds)
        mean = _float32(self.linear_mean(h))
        std = jnp.exp(log_std)
        return Posterior(mean, std)

    def __call__(self, x: jax.Array) -> EncoderOutput:
        """Returns one draw z, from the stream `noise`, with the mean and std."""
        posterior = self.posterior(x)
        return EncoderOutput(posterior.sample(self.rngs.noise()), *posterior)


class Decoder(nnx.Module):
    """Dense layers from z to logits.

    Args:
        latent_size: the length of z.
        hidden_size: as in `Encoder`.
        output_size: the number of logits for one image.
        dropout: the probability of dropping a hidden unit while training.
        activation: the function after each hidden layer, such as `nnx.gelu`.
        dtype: of the layers' computation; parameters and logits stay float32.
        rngs: initialises the parameters.

    >>> import jax.numpy as jnp
    >>> Decoder(8, 32, 64, rngs=nnx.Rngs(0))(jnp.zeros((5, 8))).shape
    (5, 64)
    """

    def __init__(
        self,
        latent_size: int,
        hidden_size: int | Sequence[int],
        output_size: int,
        *,
        dropout: float = 0.0,
        activation: Activation = nnx.relu,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        _require_positive(output_size=output_size)
        self.hidden, width = _hidden_layers(
            latent_size, hidden_size, dropout, activation, dtype, rngs
        )
        self.linear = nnx.Linear(width, output_size, dtype=dtype, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        """Returns logits, shape `(batch, output_size)`, for z `(batch, latent)`."""
        return _float32(self.linear(self.hidden(z)))


class VAE(nnx.Module):
    """A variational autoencoder with dense layers.

    Args:
        image_shape: the shape of one image, such as `(8, 8)`.
        hidden_size: the width of the hidden layer of encoder and decoder, or a tuple
            of the encoder's widths, which the decoder uses in reverse; `()` makes a
            linear VAE.
        latent_size: the length of z.
        likelihood: p(x | z), by default black and white pixels.
        log_std_bounds: the range of the posterior's log std, or None for the textbook's
            unbounded form, which can underflow to 0 and overflow to infinity.
        dropout: the probability of dropping a hidden unit while training.
        activation: the function after each hidden layer, such as `nnx.gelu`.
        dtype: of the layers' computation, such as `jnp.bfloat16`, which is faster on
            accelerators. Parameters, logits and losses stay float32.
        rngs: initialises the parameters and, with its stream `noise`, draws z:
            `nnx.Rngs(0, noise=1)`.

    Raises:
        ValueError: a size is not positive, or the bounds are not in order.

    >>> import jax.numpy as jnp
    >>> vae = VAE((8, 8), hidden_size=32, latent_size=8, rngs=nnx.Rngs(0, noise=1))
    >>> logits, mean, std = vae(jnp.zeros((5, 8, 8)))
    >>> logits.shape, mean.shape, std.shape
    ((5, 8, 8), (5, 8), (5, 8))
    >>> vae.sample(3, key=jax.random.key(2)).shape
    (3, 8, 8)
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_size: int | Sequence[int],
        latent_size: int,
        *,
        likelihood: Likelihood = Bernoulli(),
        log_std_bounds: LogStdBounds = (-10.0, 10.0),
        dropout: float = 0.0,
        activation: Activation = nnx.relu,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.image_shape = tuple(image_shape)
        self.latent_size = latent_size
        self.likelihood = likelihood
        self.rngs = rngs
        _require_positive(**{f"image_shape[{i}]": n for i, n in enumerate(image_shape)})
        num_pixels = math.prod(self.image_shape)
        widths = _widths(hidden_size)
        self.encoder: Any = Encoder(
            num_pixels,
            widths,
            latent_size,
            log_std_bounds=log_std_bounds,
            dropout=dropout,
            activation=activation,
            dtype=dtype,
            rngs=rngs,
        )
        self.decoder: Any = Decoder(
            latent_size,
            widths[::-1],
            num_pixels * likelihood.outputs_per_pixel,
            dropout=dropout,
            activation=activation,
            dtype=dtype,
            rngs=rngs,
        )

    @classmethod
    def from_parts(
        cls,
        encoder: Any,
        decoder: Callable[[jax.Array], jax.Array],
        *,
        image_shape: Sequence[int],
        likelihood: Likelihood = Bernoulli(),
        rngs: nnx.Rngs,
    ) -> "VAE":
        """Joins an encoder and a decoder of your own.

        Args:
            encoder: has `latent_size` and `posterior(x) -> Posterior` for images x of
                shape `(batch, *image_shape)`.
            decoder: maps z `(batch, latent)` to as many numbers for each image as the
                likelihood needs, in any shape.
            image_shape: the shape of one image.
            likelihood: p(x | z).
            rngs: its stream `noise` draws z.

        >>> rngs = nnx.Rngs(0, noise=1)
        >>> vae = VAE.from_parts(
        ...     Encoder(64, (256, 128), 2, rngs=rngs),
        ...     Decoder(2, 16, 64, rngs=rngs),
        ...     image_shape=(8, 8),
        ...     rngs=rngs,
        ... )
        >>> vae.latent_size
        2
        """
        # NNX makes modules through __init__ alone, so the parts replace smallest ones.
        vae = cls(image_shape, (), 1, likelihood=likelihood, rngs=nnx.Rngs(0))
        vae.encoder = encoder
        vae.decoder = decoder
        vae.latent_size = encoder.latent_size
        vae.rngs = rngs
        return vae

    def encode(self, x: jax.Array) -> Posterior:
        """Returns q(z | x) for images x of shape `(batch, *image_shape)`."""
        require_one_array(x, "x")
        require_image_shape(jnp.shape(x), self.image_shape, "x")
        return self.encoder.posterior(x)

    def decode(self, z: jax.Array) -> jax.Array:
        """Returns the likelihood's logits for z of shape `(batch, latent)`.

        Their shape is `(batch, *image_shape)`, followed by an axis of
        `likelihood.outputs_per_pixel` if that is more than one.
        """
        if jnp.ndim(z) != 2 or z.shape[1] != self.latent_size:
            raise ValueError(
                f"z has shape {jnp.shape(z)}: this model takes (batch, "
                f"{self.latent_size}); for a single vector write z[None]"
            )
        k = self.likelihood.outputs_per_pixel
        per_pixel = () if k == 1 else (k,)
        return self.decoder(z).reshape(z.shape[0], *self.image_shape, *per_pixel)

    def __call__(self, x: jax.Array) -> VAEOutput:
        """Encodes images, draws z from the stream `noise`, and decodes it.

        Args:
            x: shape `(batch, *image_shape)`.
        """
        posterior = self.encode(x)
        z = posterior.sample(self.rngs.noise())
        return VAEOutput(self.decode(z), *posterior)

    def reconstruct(self, x: jax.Array) -> jax.Array:
        """Returns E[x | z] at the posterior's mean: the same image at every call.

        Args:
            x: shape `(batch, *image_shape)`.

        Returns:
            Expected images, of the shape of `x`.
        """
        return self.generate(evaluation_view(self).encode(x).mean)

    def generate(self, z: jax.Array) -> jax.Array:
        """Returns E[x | z], shape `(batch, *image_shape)`, for z `(batch, latent)`."""
        return self.likelihood.mean(evaluation_view(self).decode(z))

    def sample(self, n: int, *, key: jax.Array, draw_pixels: bool = False) -> jax.Array:
        """Decodes n draws from the prior.

        Args:
            n: how many images.
            key: a `jax.random` key.
            draw_pixels: draw from p(x | z) instead of returning its mean E[x | z].

        Returns:
            Shape `(n, *image_shape)`.
        """
        latent_key, pixel_key = jax.random.split(key)
        z = jax.random.normal(latent_key, (n, self.latent_size))
        if not draw_pixels:
            return self.generate(z)
        return self.likelihood.sample(pixel_key, evaluation_view(self).decode(z))


def evaluation_view(model: Any) -> Any:
    """Returns the model without dropout, sharing its parameters.

    The model itself keeps its mode and its random streams.

    Args:
        model: any NNX module.

    >>> vae = VAE((8, 8), 32, 8, dropout=0.5, rngs=nnx.Rngs(0))
    >>> view = evaluation_view(vae)
    >>> view.encoder.hidden.layers[2].deterministic
    True
    >>> vae.encoder.hidden.layers[2].deterministic
    False
    """
    view = nnx.merge(*nnx.split(model))
    view.eval()
    return view


def _widths(hidden_size: int | Sequence[int]) -> tuple[int, ...]:
    return (hidden_size,) if isinstance(hidden_size, int) else tuple(hidden_size)


def _hidden_layers(
    input_size: int,
    hidden_size: int | Sequence[int],
    dropout: float,
    activation: Activation,
    dtype: Any,
    rngs: nnx.Rngs,
) -> tuple[nnx.Sequential, int]:
    """Returns the hidden layers and the number of values that leave them."""
    sizes = (input_size, *_widths(hidden_size))
    _require_positive(input_size=input_size)
    _require_positive(**{f"hidden_size[{i}]": n for i, n in enumerate(sizes[1:])})
    if not 0 <= dropout < 1:
        raise ValueError(
            f"dropout is {dropout}: give the probability of dropping a unit, in [0, 1)"
        )
    layers: list[Callable] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nnx.Linear(n_in, n_out, dtype=dtype, rngs=rngs), activation]
        if dropout:
            layers.append(nnx.Dropout(dropout, rngs=rngs))
    return nnx.Sequential(*layers), sizes[-1]


def _float32(x: jax.Array) -> jax.Array:
    """Widens half precision, in which sums over pixels would lose digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size!r}: give a positive integer")


def _require_bounds(log_std_bounds: LogStdBounds) -> None:
    if log_std_bounds is not None and not log_std_bounds[0] < log_std_bounds[1]:
        raise ValueError(
            f"log_std_bounds is {log_std_bounds}: give (low, high) with low < high, "
            "such as (-10.0, 10.0), or None for an unbounded std"
        )
