"""The loss function of a run: what it is given, and what it may return."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaelab.losses import ELBOTerms
from vaelab.training._sameness import Interned

LossFunction = Callable[..., Any]
"""From a model and a batch to `ELBOTerms`, or a number for each example or for all.

Metrics may stand beside it: `(loss, {"accuracy": a})`, or a dictionary with a `"loss"`.
"""


class Means(NamedTuple):
    """What a loss function returned, averaged over the batch.

    Attributes:
        loss: what is minimised, a scalar.
        recorded: scalars for the history, the loss among them.
        returned: everything, as the function returned it.
    """

    loss: jax.Array
    recorded: dict[str, jax.Array]
    returned: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A loss function, with those of its arguments that a run sets.

    Attributes:
        loss_fn: as in `fit`.
        schedules: arguments that are functions of the update's number.
        transform: as in `fit`.
    """

    loss_fn: LossFunction
    schedules: tuple[tuple[str, Callable[[Any], Any]], ...] = ()
    transform: Callable[..., Any] | None = None

    def transformed(self, key: jax.Array, batch: Any, step: Any) -> Any:
        """Returns what the loss is given of a batch."""
        if self.transform is None:
            return batch
        step_too = {"step": step} if takes(self.transform, "step") else {}
        return self.transform(key, batch, **step_too)

    def arguments(self, step: Any, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the loss is given at a step, its key apart."""
        scheduled = {
            name: jnp.asarray(schedule(step), jnp.float32)
            for name, schedule in self.schedules
        }
        return {**numbers, **scheduled}

    @property
    def takes_key(self) -> bool:
        """Whether there is an argument `key`."""
        return takes(self.loss_fn, "key")

    @property
    def needs_key(self) -> bool:
        """Whether the argument `key` has no default."""
        parameter = signature_of(self.loss_fn).parameters.get("key")
        return parameter is not None and parameter.default is parameter.empty


_objectives = Interned(maxsize=16)


def objective_of(
    loss_fn: LossFunction,
    given: Mapping[str, Any],
    transform: Callable[..., Any] | None = None,
) -> tuple[Objective, dict[str, Any]]:
    """Returns the objective of a run, and the numbers among its loss's arguments.

    Equal functions make the same objective, and so share what is compiled for it.

    Args:
        loss_fn: as in `fit`.
        given: numbers, sizes and schedules under the names of arguments.
        transform: as in `fit`.
    """
    schedules = {name: value for name, value in given.items() if callable(value)}
    others = {name: given[name] for name in given if name not in schedules}
    fixed, numbers = fixed_and_traced(loss_fn, others)
    bound = partial(loss_fn, **fixed) if fixed else loss_fn
    parts = bound, tuple(sorted(schedules.items())), transform
    return _objectives.get(parts, lambda: Objective(*parts)), numbers


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Returns a function's signature; of some builtins, that of any function."""
    try:
        return inspect.signature(function)
    except ValueError:
        return inspect.Signature(
            [
                inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL),
                inspect.Parameter("named", inspect.Parameter.VAR_KEYWORD),
            ]
        )


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function has an argument of this name, `**kwargs` apart."""
    return argument in signature_of(function).parameters


def fixed_and_traced(
    loss_fn: Callable[..., Any], arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts a loss's arguments into those of the program and those of a call.

    A size, a flag or a name shapes the program; other numbers do not. An integer for an
    argument whose default is a float is such a number.
    """

    def is_fixed(name: str, value: Any) -> bool:
        if not isinstance(value, bool | int | str | None):
            return False
        parameter = signature_of(loss_fn).parameters.get(name)
        default = None if parameter is None else parameter.default
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return not (is_number and isinstance(default, float))

    fixed = {name: value for name, value in arguments.items() if is_fixed(name, value)}
    traced = {
        name: np.float32(value) if isinstance(value, int) else value
        for name, value in arguments.items()
        if name not in fixed
    }
    return fixed, traced


def default_of(function: Callable[..., Any], argument: str) -> float:
    """Returns a number that is an argument's default, or NaN."""
    parameter = signature_of(function).parameters.get(argument)
    default = None if parameter is None else parameter.default
    return float(default) if isinstance(default, int | float) else math.nan


def name_of(function: Any) -> str:
    """Names a function for a message."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def means(result: Any, what: str = "loss_fn") -> Means:
    """Averages what a loss function returned over the batch.

    Args:
        result: see `LossFunction`.
        what: the function, for an error.

    Raises:
        TypeError: it is none of the kinds.
        ValueError: it has the wrong shape, or two entries share a name.
    """
    loss, metrics = _taken_apart(result, what)
    if isinstance(loss, ELBOTerms):
        terms = jax.tree.map(partial(jnp.mean, axis=0), loss)
        recorded = {
            "loss": terms.loss,
            "elbo": terms.elbo,
            "reconstruction": terms.reconstruction,
            "kl": terms.kl.sum(),
        }
        minimised = terms
    else:
        minimised = _mean(loss, f"the loss of {what}")
        recorded = {"loss": minimised}
    more = {name: _mean(value, f"{name} of {what}") for name, value in metrics.items()}
    if twice := sorted(set(more) & set(recorded)):
        raise ValueError(
            f"the metrics of {what} contain {', '.join(twice)}, which is recorded "
            "anyway: choose another name"
        )
    if isinstance(result, Mapping):
        returned: Any = {"loss": minimised, **more}
    elif isinstance(result, tuple) and not isinstance(result, ELBOTerms):
        returned = minimised, more
    else:
        returned = minimised
    return Means(recorded["loss"], recorded | more, returned)


def _taken_apart(result: Any, what: str) -> tuple[Any, Mapping[str, Any]]:
    """Returns the loss and the metrics."""
    if isinstance(result, ELBOTerms):
        return result, {}
    if isinstance(result, Mapping):
        if "loss" not in result:
            raise ValueError(
                f"{what} returned a dictionary of {', '.join(map(str, result))}: one "
                'entry must be "loss", which is minimised'
            )
        return result["loss"], {k: v for k, v in result.items() if k != "loss"}
    if isinstance(result, tuple):
        if len(result) != 2 or not isinstance(result[1], Mapping):
            kinds = ", ".join(type(part).__name__ for part in result)
            raise TypeError(
                f"{what} returned a tuple of {kinds}: return a loss, or (loss, "
                '{"accuracy": a}) with a dictionary of metrics'
            )
        return result
    return result, {}


def _mean(value: Any, what: str) -> jax.Array:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{what} is a {type(value).__name__}: return a number, or one for each "
            "example"
        ) from None
    if array.ndim > 1:
        raise ValueError(
            f"{what} has shape {array.shape}: return a number, or one for each example"
            " (sum over pixels and latent dimensions)"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(f"{what} is complex: return real numbers")
        array = array.astype(jnp.float32)
    return array.mean()
