"""The function after a hidden layer."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from vaelab._arguments import shown

Activation = Callable[[jax.Array], jax.Array]

_ACTIVATIONS = frozenset(
    "celu elu gelu hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu log_sigmoid "
    "relu relu6 selu sigmoid silu soft_sign softplus tanh".split()
)


@dataclass(frozen=True)
class Named:
    """A function of NNX under its name, since pickle cannot write some of them.

    Attributes:
        name: such as `relu`.
    """

    name: str

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies it."""
        return getattr(nnx, self.name)(x)


def activation_of(activation: Any) -> Any:
    """Refuses what is no function; those of NNX become `Named`."""
    if not callable(activation) or isinstance(activation, type):
        is_named = isinstance(activation, str) and activation in _ACTIVATIONS
        name = activation if is_named else "relu"
        raise TypeError(
            f"activation is {shown(activation)}: give a function, such as nnx.{name}"
        )
    if not isinstance(activation, nnx.Module):
        try:
            inspect.signature(activation).bind(None)
        except (TypeError, ValueError) as error:
            if isinstance(error, TypeError):  # else it does not say what it takes
                raise TypeError(
                    f"activation is {shown(activation)}, which cannot be called with "
                    f"one array: {error}; give a function, such as nnx.relu"
                ) from None
    name = getattr(activation, "__name__", None)
    if name in _ACTIVATIONS and getattr(nnx, name) is activation:
        return Named(name)
    return activation


def named_activation(name: Any) -> Activation:
    """Returns the function that a description names, and no other kind of thing."""
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ValueError(
            f"activation is {shown(name)}: a saved model has one of "
            f"{', '.join(sorted(_ACTIVATIONS))}"
        )
    return Named(name)
