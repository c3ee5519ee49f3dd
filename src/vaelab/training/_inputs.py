"""What `fit` is given: checked on the host, before anything is compiled."""

import inspect
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from vaelab._checks import numeric_images, require_finite, require_image_shape
from vaelab.callbacks import Callback


def is_stream(images: Any) -> bool:
    """Whether images come in batches, rather than as arrays."""
    if isinstance(images, tuple | list | dict) or hasattr(images, "__array__"):
        return False
    return isinstance(images, Iterable)


def check_model(model: Any, name: str = "model") -> None:
    """Refuses what is no NNX module, such as a class of models."""
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"{name} is {reprlib.repr(model)}: give an NNX module, such as "
            "vaelab.VAE((8, 8), 64, 8, rngs=nnx.Rngs(0, noise=1))"
        )


def check_loss(loss_fn: Any) -> None:
    """Refuses what is no function."""
    if not callable(loss_fn):
        raise TypeError(
            f"loss_fn is {loss_fn!r}: give a function, such as vaelab.losses.elbo"
        )


def checked_data(model: Any, data: Any, name: str, transform: Any = None) -> Any:
    """Returns images, or a tuple of images and other arrays, as NumPy arrays.

    Args:
        model: its `image_shape` and `likelihood`, if it has them, say what is allowed.
        data: an array, or a tree of arrays of which the first is the images.
        name: what the caller calls them.
        transform: makes batches of these into what the model sees.
    """
    if is_stream(data):
        raise TypeError(
            f"{name} is a {type(data).__name__}: give an array, or a tuple of arrays"
        )
    leaves, structure = jax.tree.flatten(data, is_leaf=_is_list)
    if not leaves:
        raise ValueError(f"{name} is empty: give at least one array")
    images, *others = leaves
    images = _checked_images(model, images, name, raw=transform is not None)
    others = [np.asarray(other) for other in others]
    for other in others:
        if other.shape[:1] != images.shape[:1]:
            raise ValueError(
                f"{name} holds arrays of shapes {images.shape} and {other.shape}: "
                "give as many labels (or other values) as images"
            )
        if other.dtype.kind == "f":
            require_finite(other, name)
    data = jax.tree.unflatten(structure, [images, *others])
    if transform is not None:
        two = jax.tree.map(lambda leaf: leaf[:2], data)
        seen = jax.tree.leaves(transform(jax.random.key(0), two))[0]
        _checked_images(model, seen, f"transform(key, {name})")
    return data


def _is_list(tree: Any) -> bool:
    return isinstance(tree, list)


def _checked_images(model: Any, images: Any, name: str, *, raw: bool = False) -> Any:
    """Returns images as an array, on the device if they were there."""
    image_shape = getattr(model, "image_shape", None)
    likelihood = getattr(model, "likelihood", None)
    on_device = images if isinstance(images, jax.Array) else None
    if image_shape is not None:
        images = numeric_images(images, name)
        if not raw:
            require_image_shape(images.shape, image_shape, name)
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


def check_optimizer_maker(optimizer: Any) -> None:
    """Refuses what makes no optax transformation from a learning rate."""
    if isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}: give a function from a "
            "learning rate to an optax transformation, such as optax.adam or "
            "lambda rate: optax.adamw(rate, weight_decay=0.1)"
        )


def checked_callbacks(callbacks: Any) -> list[Callback]:
    """Refuses what is no callback."""
    if not isinstance(callbacks, Iterable):
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


def takes(loss_fn: Callable[..., Any], argument: str) -> bool:
    """Whether a loss function has an argument of this name."""
    return argument in inspect.signature(loss_fn).parameters


def check_beta(loss_fn: Callable[..., Any], beta: Any) -> None:
    """Refuses what is no weight, and a beta for a loss that takes none."""
    if not callable(beta) and not (_is_number(beta) and math.isfinite(beta)):
        raise ValueError(f"beta is {beta!r}: give a finite number, or a schedule")
    if not takes(loss_fn, "beta") and (callable(beta) or beta != 1.0):
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise ValueError(
            f"beta is {beta}, but loss_fn {name} has no argument beta: leave beta "
            "out, or add it to the function's arguments"
        )
