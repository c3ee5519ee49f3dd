"""What `fit` is given: checked on the host, before anything is compiled."""

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Number, Real
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vaelab._arguments import checked_module, shown
from vaelab._checks import numeric_images, require_finite
from vaelab._warnings import warn_user
from vaelab.callbacks import Callback
from vaelab.data import ImageData
from vaelab.likelihoods import Gaussian, LearnedGaussian, PixelwiseGaussian
from vaelab.training._batches import as_batch, images_of, with_images
from vaelab.training._objective import name_of, takes

_GAUSSIANS = Gaussian, LearnedGaussian, PixelwiseGaussian
_FAR = 100.0


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
    else:
        _warn_of_scale(model, images, name)
    return data


def _warn_of_scale(model: Any, images: Any, name: str) -> None:
    """Names the columns of a table to whose scale a Gaussian cannot get by training."""
    likelihood = getattr(model, "likelihood", None)
    if not isinstance(likelihood, _GAUSSIANS) or np.ndim(images) != 2:
        return
    largest = np.abs(np.asarray(images)).max(axis=0)
    far = [k for k, size in enumerate(largest) if size > _FAR]
    if far:
        warn_user(
            f"columns {far} of {name} hold numbers above {_FAR:g}, for which a "
            "Gaussian likelihood trains slowly or not at all: standardise them, as in "
            f"({name} - {name}.mean(0)) / {name}.std(0)"
        )


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
