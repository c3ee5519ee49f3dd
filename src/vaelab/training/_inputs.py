"""What `fit` is given: checked on the host, before anything is compiled."""

import contextlib
import inspect
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Number, Real
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from vaelab._arguments import checked_module, checked_number, shown
from vaelab._checks import numeric_images, require_finite
from vaelab.callbacks import Callback
from vaelab.data import ImageData
from vaelab.training._batches import as_batch, images_of, with_images
from vaelab.training._objective import name_of, signature_of, takes

NOTHING: Mapping[str, Any] = {}


def is_stream(images: Any, name: str = "images") -> bool:
    """Whether images come in batches, rather than as arrays."""
    if isinstance(images, tuple | list | Mapping) or hasattr(images, "__array__"):
        return False
    if images is None or isinstance(images, str | bytes):
        raise TypeError(f"{name} is {images!r}: give an array, or a loader of batches")
    if hasattr(images, "__getitem__") and not hasattr(images, "__iter__"):
        raise TypeError(
            f"images is a {type(images).__name__}, which gives single examples: wrap "
            "it in a loader of batches, such as "
            "torch.utils.data.DataLoader(dataset, batch_size=64)"
        )
    return isinstance(images, Iterable)


def check_model(model: Any, name: str = "model") -> None:
    """Refuses what is no NNX module, such as a class of models."""
    checked_module(name, model)


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


def check_schedule(name: str, schedule: Any) -> None:
    """Refuses what gives no number for the number of an update."""
    try:
        value = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), np.int32))
    except Exception as error:
        raise TypeError(
            f"{name} is {name_of(schedule)}, which fails for the number of an update: "
            f"{error}; give a number, or a schedule such as "
            "vaelab.losses.kl_warmup(1000)"
        ) from error
    if getattr(value, "shape", None) != ():
        raise TypeError(
            f"{name} is {name_of(schedule)}, which gives {value} for the number of an "
            "update: give a schedule that returns one number"
        )


def checked_data(model: Any, data: Any, name: str, transform: Any = None) -> Any:
    """Returns images, or images with other arrays, as arrays that fit the model.

    Args:
        model: its `image_shape` and `likelihood`, if it has them, say what is allowed.
        data: see `as_batch`.
        name: what the caller calls them.
        transform: makes batches of these into what the model sees.
    """
    if isinstance(data, ImageData):
        part = "test" if name == "validation" else "train"
        raise TypeError(
            f"{name} is an ImageData, which holds two parts: give its {part}, as in "
            f"{name}=digits.{part}"
        )
    if is_stream(data, name):
        raise TypeError(
            f"{name} is a {type(data).__name__}: give an array, or a tuple of arrays"
        )
    image_shape = _image_shape(model)
    data = as_batch(data, image_shape, name)
    if not jax.tree.leaves(data):
        raise ValueError(f"{name} is empty: give at least one array")
    raw = transform is not None
    data = with_images(
        data, lambda images: _checked_images(model, images, name, raw=raw), image_shape
    )
    images = images_of(data, image_shape)
    for other in jax.tree.leaves(data):
        if other.shape[:1] != images.shape[:1]:
            raise ValueError(
                f"{name} holds arrays of shapes {images.shape} and {other.shape}: "
                "give as many labels (or other values) as images"
            )
        if other is not images and other.dtype.kind == "f":
            require_finite(np.asarray(other), name)
    if transform is not None:
        seen = images_of(transformed_example(transform, data), image_shape)
        _checked_images(model, seen, f"transform(key, {name})")
    return data


def batch_for(model: Any, batch: Any, *, raw: bool) -> Any:
    """Returns a loader's batch as arrays; the model gets its images as float32."""
    image_shape = _image_shape(model)
    batch = as_batch(batch, image_shape)
    if raw or image_shape is None:
        return batch
    return with_images(
        batch, lambda images: np.asarray(images, np.float32), image_shape
    )


def transformed_example(transform: Any, data: Any) -> Any:
    """Returns what a transform makes of the first two images."""
    two = jax.tree.map(lambda leaf: leaf[:2], data)
    step = {"step": np.int32(0)} if takes(transform, "step") else {}
    seen = transform(jax.random.key(0), two, **step)
    if not all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(seen)) or not (
        jax.tree.leaves(seen)
    ):
        raise TypeError(
            f"transform {name_of(transform)} returned {reprlib.repr(seen)}: return a "
            "batch of arrays"
        )
    return seen


def check_alike(training: Any, validation: Any) -> None:
    """Refuses validation data of another structure than what the loss is trained on."""
    ours, theirs = map(jax.tree.structure, (training, validation))
    if ours != theirs:
        raise TypeError(
            f"validation is {_kind(validation)}, but the loss is given "
            f"{_kind(training)}: give the same, images not trained on and what goes "
            "with them (transform is not applied to validation)"
        )


def _kind(data: Any) -> str:
    if isinstance(data, Mapping):
        return f"a dictionary of {', '.join(map(str, data))}"
    if isinstance(data, tuple):
        return f"a tuple of {len(data)}"
    return "an array"


def _image_shape(model: Any) -> tuple[int, ...] | None:
    shape = getattr(model, "image_shape", None)
    return None if shape is None else tuple(shape)


def _checked_images(model: Any, images: Any, name: str, *, raw: bool = False) -> Any:
    """Returns images as an array, on the device if they were there."""
    image_shape = _image_shape(model)
    likelihood = getattr(model, "likelihood", None)
    on_device = images if isinstance(images, jax.Array) else None
    if image_shape is not None:
        if raw:
            images = numeric_images(images, name, image_shape=np.shape(images)[1:])
        else:
            images = numeric_images(images, name, image_shape=image_shape)
    else:
        images = np.asarray(images)
        if images.dtype.kind == "f":
            require_finite(images, name)
    if likelihood is not None and not raw:
        likelihood.check(images, name)
    if on_device is None or on_device.dtype != images.dtype:
        return images
    return on_device


def checked_epochs(epochs: int) -> int:
    """Refuses a run of no epochs."""
    if not _is_whole(epochs) or epochs < 1:
        raise ValueError(f"epochs is {epochs!r}: give at least 1, a whole number")
    return int(epochs)


def _is_whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or getattr(value, "shape", None) == ()


def checked_batch_size(batch_size: int | None, num_images: int) -> int:
    """Refuses a batch that is empty or larger than the data."""
    if batch_size is None:
        raise ValueError(
            f"batch_size is missing: give at most {num_images}, the number of images"
        )
    if not (_is_whole(batch_size) and 1 <= batch_size <= num_images):
        raise ValueError(
            f"batch_size is {batch_size!r}: give at least 1 and at most the "
            f"{num_images} images there are, a whole number"
        )
    return int(batch_size)


def check_mesh(mesh: Mesh | None) -> None:
    """Refuses what is no mesh."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh is a {type(mesh).__name__}: give "
            'jax.sharding.Mesh(jax.devices(), ("data",))'
        )


def check_divides(mesh: Mesh | None, batch_size: int) -> None:
    """Refuses a batch that cannot be shared evenly."""
    if mesh is not None and batch_size % mesh.size:
        nearest = batch_size // mesh.size * mesh.size or mesh.size
        raise ValueError(
            f"mesh has {mesh.size} devices, which do not divide a batch of "
            f"{batch_size}: use batches of {nearest}"
        )


def check_stream(
    images: Any, epochs: int, batch_size: int | None, steps_per_epoch: int | None
) -> None:
    """Refuses an iterator that ends before the run does, and idle arguments."""
    if batch_size is not None:
        raise ValueError(
            f"batch_size is {batch_size}, but images come in batches already: leave "
            "batch_size out"
        )
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch is {steps_per_epoch}: give at least 1")
    if isinstance(images, Iterator) and steps_per_epoch is None and epochs > 1:
        raise ValueError(
            f"images is an iterator, which ends after one epoch of {epochs}: give "
            "steps_per_epoch, or an iterable that starts anew, such as a DataLoader"
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


def check_step_batch(batch: Any) -> None:
    """Refuses what is no batch; its values are not read."""
    no_batch = (type(None), Number, str, bytes, Iterator)
    if isinstance(batch, no_batch) or isinstance(batch, np.ma.MaskedArray | nnx.Rngs):
        raise TypeError(f"batch is {shown(batch)}: give an array of images")
    if getattr(batch, "shape", ())[:1] == (0,):
        raise ValueError(f"batch has shape {batch.shape}: give at least one image")


def checked_callbacks(callbacks: Any) -> list[Callback]:
    """Refuses what is no callback."""
    is_other = isinstance(callbacks, str | bytes | Mapping | np.ndarray | jax.Array)
    if is_other or not isinstance(callbacks, Iterable):
        raise TypeError(
            f"callbacks is a {type(callbacks).__name__}: give a list, such as "
            "[EarlyStopping(patience=10)]"
        )
    callbacks = list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"callbacks holds a {getattr(callback, '__name__', callback)!r}: give "
                "objects of classes that inherit from vaelab.callbacks.Callback"
            )
        every = callback.every
        if every is not None and (type(every) is not int or every < 1):
            raise ValueError(
                f"every of {type(callback).__name__} is {every}: give at least 1 "
                "epoch, or None"
            )
    return callbacks


def check_metrics(callbacks: Sequence[Callback], recorded: Sequence[str]) -> None:
    """Refuses callbacks that watch what is not recorded."""
    for callback in callbacks:
        metric = callback.metric
        if not isinstance(metric, str) or metric in recorded:
            continue
        trained = metric.removeprefix("validation_")
        if trained in recorded:
            advice = f"give validation=images, or metric={trained!r}"
        else:
            advice = f"choose one of {', '.join(recorded)}"
        raise ValueError(
            f"metric of {type(callback).__name__} is {metric!r}, which is not "
            f"recorded: {advice}"
        )
