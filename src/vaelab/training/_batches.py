"""What a batch is: images, images and what is given with them, or a dictionary.

Loaders have habits: PyTorch's gives lists of tensors, TensorFlow's and grain's give
dictionaries. Here they become NumPy arrays in a tuple or a dictionary, or one array.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vaelab._checks import host_array

_NAMES = ("image", "images", "x", "pixel_values", "inputs", "input")
"""How loaders call images, the likeliest first."""


def as_batch(
    batch: Any, image_shape: tuple[int, ...] | None = None, name: str = "images"
) -> Any:
    """Returns a batch, or whole data, as arrays in a tuple or a dictionary.

    Args:
        batch: as a loader gives it: arrays, tensors, or lists, tuples or dictionaries
            of them. A list or tuple of one is that one.
        image_shape: the shape of one image, if the model has one.
        name: what the caller calls it.

    Raises:
        TypeError: an entry is not numeric.
        ValueError: an entry has no axis of examples.
    """
    if isinstance(batch, Mapping):
        return {
            key: as_batch(value, image_shape, f"{name}[{key!r}]")
            for key, value in batch.items()
        }
    if isinstance(batch, list):
        if _is_one_array(batch, image_shape):
            return _array(batch, name)
        batch = tuple(batch)
    if isinstance(batch, tuple):
        entries = [
            as_batch(entry, image_shape, f"{name}[{i}]")
            for i, entry in enumerate(batch)
        ]
        if len(entries) == 1:
            return entries[0]
        return type(batch)(*entries) if hasattr(batch, "_fields") else tuple(entries)
    return _array(batch, name)


def images_of(batch: Any, image_shape: tuple[int, ...] | None = None) -> Any:
    """Returns the images of a batch that `as_batch` returned.

    Args:
        batch: an array, a tuple that begins with the images, or a dictionary with one
            entry of the model's image shape or of a usual name.
        image_shape: the shape of one image, if the model has one.
    """
    if isinstance(batch, Mapping):
        return images_of(batch[_key_of_images(batch, image_shape)], image_shape)
    if isinstance(batch, tuple):
        return images_of(batch[0], image_shape)
    return batch


def with_images(
    batch: Any,
    change: Callable[[Any], Any],
    image_shape: tuple[int, ...] | None = None,
) -> Any:
    """Returns a batch whose images are replaced by what `change` makes of them."""
    if isinstance(batch, Mapping):
        key = _key_of_images(batch, image_shape)
        return {**batch, key: with_images(batch[key], change, image_shape)}
    if isinstance(batch, tuple):
        first = with_images(batch[0], change, image_shape)
        entries = [first, *batch[1:]]
        return type(batch)(*entries) if hasattr(batch, "_fields") else tuple(entries)
    return change(batch)


def _key_of_images(
    batch: Mapping[Any, Any], image_shape: tuple[int, ...] | None
) -> Any:
    fitting = [
        key
        for key, value in batch.items()
        if image_shape is not None and np.shape(value)[1:] == tuple(image_shape)
    ]
    if len(fitting) == 1:
        return fitting[0]
    for key in _NAMES:
        if key in (fitting or batch):
            return key
    if fitting:
        raise ValueError(
            f"images is a dictionary in which {', '.join(map(str, fitting))} have the "
            'shape of images: call the images "image"'
        )
    return next(iter(batch))


def _is_one_array(items: list[Any], image_shape: tuple[int, ...] | None) -> bool:
    """Whether a list holds images, rather than arrays of a batch each."""
    if image_shape is not None and all(
        np.shape(item) == tuple(image_shape) for item in items
    ):
        return True
    return not any(hasattr(item, "shape") for item in items) and not any(
        isinstance(item, Mapping | tuple) for item in items
    )


def _refuse_columns(table: Any, name: str) -> None:
    """Names the columns of a pandas DataFrame that are no numbers."""
    if hasattr(table, "select_dtypes"):
        others = list(table.select_dtypes(exclude=["number", "bool"]).columns)
        raise TypeError(
            f"{name} has columns that are no numbers, {others}: leave them out, as in "
            f"table.drop(columns={others}), or encode them as numbers"
        )


def _array(value: Any, name: str) -> Any:
    if isinstance(value, jax.Array):
        array = value  # stays where it is
    else:
        array = host_array(value, name)
    if getattr(array.dtype, "kind", "?") not in "biufcV":
        _refuse_columns(value, name)
        raise TypeError(
            f"{name} has dtype {array.dtype}: give numbers, and leave out what the "
            "loss does not need"
        )
    if array.ndim == 0:
        raise ValueError(
            f"{name} is a single number: give an array with one entry for each image"
        )
    return array
