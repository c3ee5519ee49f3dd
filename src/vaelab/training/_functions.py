"""The functions that a run is given: checked before anything is compiled."""

import contextlib
import inspect
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from vaelab._arguments import checked_number, shown
from vaelab.training._objective import name_of, signature_of, takes

NOTHING: Mapping[str, Any] = {}


def check_function(name: str, function: Any, example: str) -> None:
    """Refuses what cannot be called, and a module, which is called as a model."""
    if not callable(function) or isinstance(function, nnx.Module):
        raise TypeError(
            f"{name} is {shown(function)}: give a function, such as {example}"
        )


_HINTS = {
    "loss_fn": "bind its other arguments with functools.partial, and take a batch of "
    "several arrays apart inside, as in images, labels = batch",
    "transform": "bind its other arguments with functools.partial",
    "optimizer": "write lambda rate: optax.adamw(rate, weight_decay=0.1)",
    "make_model": "write lambda seed: vaelab.VAE(..., rngs=nnx.Rngs(seed, noise=1))",
}


def check_loss(loss_fn: Any, given: Mapping[str, Any] = NOTHING) -> None:
    """Refuses what is no function of a model, a batch and the given arguments."""
    check_function("loss_fn", loss_fn, "vaelab.losses.elbo")
    _refuse_class("loss_fn", loss_fn)
    _check_call("loss_fn", loss_fn, ("model", "batch"), given)


def check_transform(transform: Any) -> None:
    """Refuses what is no function of a key and a batch."""
    if transform is not None:
        check_function("transform", transform, "lambda key, batch: batch")
        _refuse_class("transform", transform)
        given = {"step": 0} if takes(transform, "step") else {}
        _check_call("transform", transform, ("key", "batch"), given)


def _refuse_class(name: str, function: Any) -> None:
    if isinstance(function, type):
        raise TypeError(f"{name} is {shown(function)}: give a function, not a class")


def _check_call(
    name: str, function: Any, positional: Sequence[str], given: Mapping[str, Any]
) -> None:
    """Refuses a function that cannot be called with these arguments."""
    signature = signature_of(function)
    keywords = dict.fromkeys(given)
    if takes(function, "key") and "key" not in positional:
        keywords["key"] = None  # it gets one if it must have one
    unknown = [k for k in given if not _has_argument(signature, k)]
    if unknown:
        argument = unknown[0]
        value = given[argument]
        seen = "given" if isinstance(value, jax.Array) else shown(value)
        raise ValueError(
            f"{argument} is {seen}, but {name} {name_of(function)} has no argument "
            f"{argument}: leave it out, or add it to the function's arguments"
        )
    try:
        signature.bind(*positional, **keywords)
    except TypeError as error:
        call = ", ".join([*positional, *(f"{k}=..." for k in given)])
        raise TypeError(
            f"{name} {name_of(function)} cannot be called as ({call}): "
            f"{error}; {_HINTS[name]}"
        ) from None


def _has_argument(signature: inspect.Signature, name: str) -> bool:
    parameters = signature.parameters
    return name in parameters or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    )


def checked_knobs(
    loss_fn: Any, knobs: Mapping[str, Any] | None, beta: Any
) -> dict[str, Any]:
    """Returns what `fit` is to give the loss: numbers and schedules by their names."""
    if knobs is not None and not isinstance(knobs, Mapping):
        raise TypeError(
            f"knobs is {reprlib.repr(knobs)}: give a dictionary, such as "
            '{"beta": 0.5}'
        )
    given = dict(knobs or {})
    if beta is not None:
        if "beta" in given:
            raise ValueError(
                f"beta is {beta!r} and knobs has a beta, too: give one of them"
            )
        given["beta"] = beta
    if "key" in given:
        raise ValueError(
            "knobs has a key: leave it out; a loss that needs one gets another key for "
            "each step, made from seed"
        )
    check_loss(loss_fn, given)
    return {name: checked_knob(name, value) for name, value in given.items()}


def checked_knob(name: str, value: Any) -> Any:
    if callable(value):
        check_schedule(name, value)
        return value
    if name == "beta":
        value = checked_number(name, value, least=0)
    if isinstance(value, bool | str | int):
        return value
    try:
        array = np.asarray(value) + np.float32(0)
    except (TypeError, ValueError):
        array = None
    if array is None or array.dtype.kind == "c" or not np.isfinite(array).all():
        raise ValueError(f"{name} is {value!r}: give a finite number, or a schedule")
    return array.astype(np.float32)


_INSTEAD = (
    ". The number is not known yet while the schedule is compiled: write "
    "jnp.minimum(1.0, step / 20) for min(1.0, step / 20), and jnp.where for if"
)


def check_schedule(name: str, schedule: Any) -> None:
    """Refuses what gives no number for the number of an update."""
    try:
        value = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), np.int32))
    except Exception as error:
        traced = isinstance(error, jax.errors.JAXTypeError)
        raise TypeError(
            f"{name} is {name_of(schedule)}, which fails for the number of an update: "
            f"{str(error).partition(chr(10))[0]}; give a number, or a schedule such as "
            "vaelab.losses.kl_warmup(1000)"
            f"{_INSTEAD if traced else ''}"
        ) from error
    if getattr(value, "shape", None) != ():
        raise TypeError(
            f"{name} is {name_of(schedule)}, which gives {value} for the number of an "
            "update: give a schedule that returns one number"
        )


def check_optimizer(optimizer: Any) -> None:
    """Refuses what is no optax transformation."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}: give an optax transformation, "
            "such as optax.adam(1e-3)"
        )


@contextlib.contextmanager
def clear_about_optimizer() -> Iterator[None]:
    """Says of an optimizer with a line search that it cannot be used."""
    try:
        yield
    except TypeError as error:
        if "value_fn" not in str(error):
            raise
        raise TypeError(
            "optimizer asks for value_fn, since it searches along a line with more "
            "evaluations of the loss: give one that needs gradients alone, such as "
            "optax.adam(1e-3)"
        ) from error


def check_optimizer_maker(optimizer: Any) -> None:
    """Refuses what makes no optax transformation from a learning rate."""
    if isinstance(optimizer, optax.GradientTransformation | nnx.Module) or not callable(
        optimizer
    ):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}: give a function from a "
            "learning rate to an optax transformation, such as optax.adam or "
            "lambda rate: optax.adamw(rate, weight_decay=0.1)"
        )
    _check_call("optimizer", optimizer, ("learning_rate",), {})


def check_model_maker(make_model: Any) -> None:
    """Refuses what is no function of a seed."""
    check_function("make_model", make_model, "lambda seed: vaelab.VAE(...)")
    _check_call("make_model", make_model, ("seed",), {})
