"""The variational autoencoder."""

import html
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from vaelab._arguments import (
    checked_flag,
    checked_key,
    checked_number,
    checked_rngs,
    checked_size,
    checked_sizes,
    checked_whole,
    listed,
    shown,
)
from vaelab._checks import require_image_shape, require_numbers, require_one_array
from vaelab._signatures import ConstructorSignature
from vaelab.likelihoods import Bernoulli, Likelihood
from vaelab.models._activation import Activation, activation_of
from vaelab.models._dense import (
    Decoder,
    Encoder,
    LogStdBounds,
    bounds_of,
    dtype_of,
    widths_of,
)
from vaelab.models._posterior import Posterior
from vaelab.models._view import evaluation_view


class VAEOutput(NamedTuple):
    """Logits `(batch, *image_shape)` of one draw z; mean and std `(batch, latent)`."""

    logits: jax.Array
    mean: jax.Array
    std: jax.Array


class VAE(nnx.Module):
    """A variational autoencoder with dense layers.

    Args:
        image_shape: the shape of one image, such as `(8, 8)`, or of one row of a table,
            such as `(30,)`.
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

    __signature__ = ConstructorSignature()

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
        self.image_shape = checked_sizes("image_shape", image_shape)
        if not self.image_shape:
            raise ValueError(
                "image_shape is (): give the shape of one image, such as (8, 8)"
            )
        self.latent_size = checked_size("latent_size", latent_size)
        self.likelihood = _checked_likelihood(likelihood)
        self.rngs = checked_rngs("rngs", rngs)
        num_pixels = math.prod(self.image_shape)
        widths = widths_of(hidden_size)
        options = {
            "log_std_bounds": bounds_of(log_std_bounds),
            "dropout": checked_number("dropout", dropout, least=0, below=1),
            "activation": activation_of(activation),
            "dtype": dtype_of(dtype),
        }
        sizes = num_pixels, widths, self.latent_size, likelihood.outputs_per_pixel
        self.encoder: Any
        self.decoder: Any
        self.encoder, self.decoder = _dense_parts(
            self.rngs, sizes, tuple(options.items())
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
        if not callable(getattr(encoder, "posterior", None)) or not hasattr(
            encoder, "latent_size"
        ):
            raise TypeError(
                f"encoder is {shown(encoder)}: give an object with latent_size and "
                "posterior(x), which returns vaelab.Posterior(mean, std)"
            )
        if not callable(decoder):
            raise TypeError(
                f"decoder is {shown(decoder)}: give a function of z, or a module"
            )
        checked_rngs("rngs", rngs)
        # NNX makes modules through __init__ alone, so the parts replace smallest ones.
        vae = cls(image_shape, (), 1, likelihood=likelihood, rngs=nnx.Rngs(0))
        vae.encoder = encoder
        vae.decoder = decoder
        vae.latent_size = checked_size("encoder.latent_size", encoder.latent_size)
        vae.rngs = rngs
        _check_parts(encoder, decoder, vae)
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
        require_numbers(z=z)
        if jnp.ndim(z) != 2 or jnp.shape(z)[1] != self.latent_size:
            raise ValueError(
                f"z has shape {jnp.shape(z)}: this model takes (batch, "
                f"{self.latent_size}); for a single vector write z[None]"
            )
        k = self.likelihood.outputs_per_pixel
        per_pixel = () if k == 1 else (k,)
        z = jnp.asarray(z)
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
        n = checked_whole("n", n, least=1)
        latent_key, pixel_key = jax.random.split(checked_key("key", key))
        z = jax.random.normal(latent_key, (n, self.latent_size))
        if not checked_flag("draw_pixels", draw_pixels):
            return self.generate(z)
        return self.likelihood.sample(pixel_key, evaluation_view(self).decode(z))

    def __repr__(self) -> str:
        """Says in one line what the model is."""
        kind = type(self).__name__
        parameters = sum(x.size for x in jax.tree.leaves(nnx.state(self, nnx.Param)))
        return (
            f"{kind}(image_shape={self.image_shape}, latent_size={self.latent_size}, "
            f"likelihood={self.likelihood}, {parameters:,} parameters)"
        )

    def _repr_html_(self) -> str:
        """Shows that line in a notebook."""
        return f"<code>{html.escape(repr(self))}</code>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Lets pickle write what the model is built of and its arrays.

        A model with parts of one's own is pickled as they can be.
        """
        from vaelab.models._description import packed, unpacked

        content = packed(self)
        if content is None:
            return super().__reduce_ex__(protocol)
        return unpacked, content


def _dense_parts(rngs: nnx.Rngs, *config: Any) -> tuple[Encoder, Decoder]:
    """Makes both parts in one program, which starts faster than one for each array."""
    graphdef, state = nnx.split(rngs)
    is_traced = any(
        isinstance(x, Tracer) for x in (*jax.tree.leaves(state), jnp.zeros(()))
    )
    is_slow_start = jax.default_backend() == "cpu" and (
        not jax.config.read("jax_disable_most_optimizations")
    )
    new = _initialised if is_traced else _compiled(with_little_effort=is_slow_start)
    encoder, decoder, drawn_from = nnx.merge(*new(graphdef, state, *config))
    nnx.update(rngs, nnx.state(drawn_from))
    encoder.rngs = rngs
    return encoder, decoder


@lru_cache(maxsize=2)
def _compiled(with_little_effort: bool) -> Callable[..., Any]:
    """`_initialised`, which runs once; little effort takes half as long on a CPU."""
    options = {"xla_backend_optimization_level": 1} if with_little_effort else None
    return jax.jit(_initialised, static_argnums=(0, 2, 3), compiler_options=options)


def _initialised(
    graphdef: Any,
    state: Any,
    sizes: tuple[Any, ...],
    options: tuple[tuple[str, Any], ...],
) -> tuple[Any, Any]:
    rngs = nnx.merge(graphdef, state)
    num_pixels, widths, latent_size, outputs_per_pixel = sizes
    of_both = dict(options)
    log_std_bounds = of_both.pop("log_std_bounds")
    encoder = Encoder(
        num_pixels,
        widths,
        latent_size,
        log_std_bounds=log_std_bounds,
        rngs=rngs,
        **of_both,
    )
    decoder = Decoder(
        latent_size, widths[::-1], num_pixels * outputs_per_pixel, rngs=rngs, **of_both
    )
    return nnx.split((encoder, decoder, rngs))


def _checked_likelihood(likelihood: Any) -> Any:
    asked = "nll", "mean", "sample", "check", "outputs_per_pixel"
    if isinstance(likelihood, type):
        raise TypeError(
            f"likelihood is {shown(likelihood)}: give one of it, such as "
            f"{likelihood.__name__}()"
        )
    if missing := [name for name in asked if not hasattr(likelihood, name)]:
        raise TypeError(
            f"likelihood is {shown(likelihood)}, which has no {listed(missing)}: give "
            "one from vaelab.likelihoods, such as Gaussian(), or one with its methods"
        )
    checked_size("likelihood.outputs_per_pixel", likelihood.outputs_per_pixel)
    if not isinstance(likelihood, nnx.Module) and likelihood.__hash__ is None:
        raise TypeError(
            f"likelihood is a {type(likelihood).__name__}, which cannot be hashed: "
            "write @dataclass(frozen=True) above it, or make it an nnx.Module"
        )
    return likelihood


def _check_parts(encoder: Any, decoder: Any, vae: VAE) -> None:
    """Refuses parts that do not fit, by what they say of two empty images."""
    graphdef, state = nnx.split((encoder, decoder))

    def through(state: Any, x: jax.Array) -> tuple[Any, Any]:
        encoder, decoder = nnx.merge(graphdef, state)
        try:
            posterior = encoder.posterior(x)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"encoder.posterior does not take images of shape {x.shape}, (batch, "
                f"*image_shape): {error}"
            ) from error
        if not isinstance(posterior, Posterior):
            raise TypeError(
                f"encoder.posterior returned {shown(posterior)}: return "
                "vaelab.Posterior(mean, std)"
            )
        try:
            return posterior, decoder(posterior.mean)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"decoder does not take z of shape {posterior.mean.shape}, (batch, "
                f"encoder.latent_size): {error}"
            ) from error

    x = jax.ShapeDtypeStruct((2, *vae.image_shape), jnp.float32)
    posterior, logits = jax.eval_shape(through, state, x)
    for name, array in posterior._asdict().items():
        if array.shape != (2, vae.latent_size):
            raise ValueError(
                f"encoder.posterior returned a {name} of shape {array.shape} for 2 "
                f"images: return (batch, {vae.latent_size}), as encoder.latent_size "
                "says"
            )
    num_pixels, k = math.prod(vae.image_shape), vae.likelihood.outputs_per_pixel
    if math.prod(logits.shape) != 2 * num_pixels * k:
        raise ValueError(
            f"decoder returned shape {logits.shape} for 2 vectors z: return "
            f"{num_pixels * k} numbers for each, {k} for each of the {num_pixels} "
            f"values of an image {vae.image_shape}"
        )
