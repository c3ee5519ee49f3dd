"""Dense layers from an image to its posterior, and from a latent vector to logits."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from vaelab._arguments import (
    checked_number,
    checked_rngs,
    checked_size,
    checked_sizes,
    shown,
)
from vaelab._bounds import bounded
from vaelab._checks import require_numbers
from vaelab._signatures import ConstructorSignature
from vaelab.models._activation import Activation, activation_of
from vaelab.models._posterior import Posterior

LogStdBounds = Sequence[float] | None


class EncoderOutput(NamedTuple):
    """A draw z from the posterior and its parameters, each `(batch, latent)`."""

    z: jax.Array
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

    __signature__ = ConstructorSignature()

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
        self.rngs = checked_rngs("rngs", rngs)
        self.latent_size = checked_size("latent_size", latent_size)
        self.log_std_bounds = bounds_of(log_std_bounds)
        dtype = dtype_of(dtype)
        self.hidden, width = _hidden_layers(
            input_size, hidden_size, dropout, activation, dtype, rngs
        )
        latent_size = self.latent_size
        self.linear_mean = nnx.Linear(width, latent_size, dtype=dtype, rngs=rngs)
        self.linear_std = nnx.Linear(width, latent_size, dtype=dtype, rngs=rngs)

    def posterior(self, x: jax.Array) -> Posterior:
        """Returns q(z | x), without a draw.

        Args:
            x: shape `(batch, input_size)`; further axes are flattened.
        """
        require_numbers(x=x)
        size = _inputs_of(self.hidden, self.linear_mean)
        if x.ndim < 2 or not x.size or math.prod(x.shape[1:]) != size:
            raise ValueError(
                f"x has shape {x.shape}: this encoder takes (batch, {size}), and at "
                "least one image"
            )
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

    __signature__ = ConstructorSignature()

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
        checked_rngs("rngs", rngs)
        checked_size("latent_size", latent_size)
        checked_size("output_size", output_size)
        dtype = dtype_of(dtype)
        self.hidden, width = _hidden_layers(
            latent_size, hidden_size, dropout, activation, dtype, rngs
        )
        self.linear = nnx.Linear(width, output_size, dtype=dtype, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        """Returns logits, shape `(batch, output_size)`, for z `(batch, latent)`."""
        require_numbers(z=z)
        size = _inputs_of(self.hidden, self.linear)
        if jnp.shape(z)[-1:] != (size,):
            raise ValueError(
                f"z has shape {jnp.shape(z)}: this decoder takes (batch, {size})"
            )
        return _float32(self.linear(self.hidden(z)))


def _inputs_of(hidden: Any, last: nnx.Linear) -> int:
    """Returns the length of the vectors that layers take."""
    first = next((part for part in hidden.layers if isinstance(part, nnx.Linear)), last)
    return first.in_features


def widths_of(hidden_size: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the widths of hidden layers, of which an int is one."""
    if isinstance(hidden_size, list | tuple):
        return checked_sizes("hidden_size", hidden_size)
    if isinstance(hidden_size, set | frozenset | dict | str):
        raise TypeError(
            f"hidden_size is {shown(hidden_size)}: give the width of the hidden layer, "
            "or a tuple with one width for each"
        )
    return (checked_size("hidden_size", hidden_size),)


def bounds_of(log_std_bounds: LogStdBounds) -> tuple[float, float] | None:
    """Returns bounds in order, or None for none."""
    if log_std_bounds is None:
        return None
    is_pair = isinstance(log_std_bounds, list | tuple) and len(log_std_bounds) == 2
    if not is_pair:
        raise TypeError(
            f"log_std_bounds is {shown(log_std_bounds)}: give (low, high), such as "
            "(-10.0, 10.0), or None for an unbounded std"
        )
    low, high = (
        checked_number(f"log_std_bounds[{i}]", bound)
        for i, bound in enumerate(log_std_bounds)
    )
    if not low < high:
        raise ValueError(
            f"log_std_bounds is {log_std_bounds}: give (low, high) with low < high, "
            "such as (-10.0, 10.0), or None for an unbounded std"
        )
    return low, high


def dtype_of(dtype: Any) -> Any:
    """Refuses what is no floating-point type; None stays None."""
    if dtype is None:
        return None
    try:
        is_array = hasattr(dtype, "__array__") and not isinstance(dtype, type)
        checked = None if is_array else jnp.dtype(dtype)
    except TypeError:
        checked = None
    if checked is None or not jnp.issubdtype(checked, jnp.floating):
        raise TypeError(
            f"dtype is {shown(dtype)}: give a floating-point type, such as "
            "jnp.bfloat16, or None"
        )
    return checked


def _hidden_layers(
    input_size: int,
    hidden_size: int | Sequence[int],
    dropout: float,
    activation: Activation,
    dtype: Any,
    rngs: nnx.Rngs,
) -> tuple[nnx.Sequential, int]:
    """Returns the hidden layers and the number of values that leave them."""
    sizes = (checked_size("input_size", input_size), *widths_of(hidden_size))
    dropout = checked_number("dropout", dropout, least=0, below=1)
    function = activation_of(activation)
    layers: list[Callable] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nnx.Linear(n_in, n_out, dtype=dtype, rngs=rngs), function]
        if dropout:
            layers.append(nnx.Dropout(dropout, rngs=rngs))
    return nnx.Sequential(*layers), sizes[-1]


def _float32(x: jax.Array) -> jax.Array:
    """Widens half precision, in which sums over pixels would lose digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
