"""What vaelab refuses about images, in words that say what was seen and what to write.

All checks run on the host, before anything is compiled.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vaelab._arguments import is_array_of_numbers, listed, shown


def host_array(values: Any, name: str = "images") -> np.ndarray:
    """Returns an array on the host, also of tensors of PyTorch that have a gradient."""
    if isinstance(values, nnx.Rngs):  # it has whatever attribute it is asked for
        raise TypeError(f"{name} is {shown(values)}: give an array of numbers")
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} has masked values: write {name}.filled(0), or leave them out"
        )
    if isinstance(values, list | tuple):
        values = [_detached(value) for value in values]
    try:
        array = np.asarray(_detached(values))
        if not isinstance(array.dtype, np.dtype):
            raise TypeError("it holds random keys")
        return array
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, jax.errors.JAXTypeError):  # a value inside of jax.jit
            raise
        raise TypeError(
            f"{name} is a {type(values).__name__} that makes no array: {error}"
        ) from error


def real_array(values: Any, name: str) -> np.ndarray:
    """Returns an array of real numbers on the host."""
    array = host_array(values, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} has dtype {array.dtype}: give numbers, such as "
            f"np.asarray({name}, np.float32)"
        )
    return array


def _detached(values: Any) -> Any:
    return values.detach().cpu() if hasattr(values, "detach") else values


def numeric_images(
    images: Any,
    name: str = "images",
    *,
    image_shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Returns a batch of images as finite float32 values on the host.

    Args:
        images: shape `(n, height, width)` or `(n, height, width, channels)`, or what
            else `image_shape` asks for, such as the `(n, d)` of a table.
        name: what the caller calls them.
        image_shape: of one image, if the model says it.
    """
    array = real_array(images, name)
    if image_shape is not None:
        require_image_shape(array.shape, image_shape, name)
    elif array.ndim not in (3, 4):
        raise ValueError(
            f"{name} has shape {array.shape}: expected (n, height, width) or "
            f"(n, height, width, channels); {_reshape_advice(array.shape, name)}"
        )
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: give at least one image")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        array = array.astype(np.float32, copy=False)
    require_finite(array, name)
    return array


def images_for(model: Any, images: Any, name: str = "images") -> np.ndarray:
    """Returns images that a model can be judged by: of its shape, in its support.

    Args:
        model: has an `image_shape`, and maybe a `likelihood`.
        images: an array, a table, or tensors.
        name: what the caller calls them.
    """
    require_model(model, "image_shape", "encode", "decode")
    array = numeric_images(images, name, image_shape=model.image_shape)
    likelihood = getattr(model, "likelihood", None)
    if likelihood is not None:
        likelihood.check(array, name)
    return array


def require_model(model: Any, *parts: str) -> None:
    """Refuses what has not the parts of a model, such as a class of models."""
    missing = [name for name in parts if not hasattr(model, name)]
    if isinstance(model, type | nnx.Rngs) or missing:
        lack = f", which has no {listed(missing)}" if missing else ""
        raise TypeError(
            f"model is {shown(model)}{lack}: give a vaelab.VAE, or a model with its "
            "methods"
        )


def require_numbers(**arrays: Any) -> None:
    """Refuses what is no array of real numbers; their values are not read."""
    for name, array in arrays.items():
        if not is_array_of_numbers(array):
            raise TypeError(f"{name} is {shown(array)}: give an array of real numbers")


def require_finite(array: np.ndarray, name: str) -> None:
    """Refuses NaN and infinity."""
    if array.size and np.isfinite(array.min()) and np.isfinite(array.max()):
        return  # both would be NaN if any value were
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(np.argwhere(bad)[0].tolist())
        raise ValueError(
            f"{name} contains {bad.sum()} NaN or infinite values, the first at index "
            f"{first}: leave out those images, or replace the values with "
            f"np.nan_to_num({name})"
        )


def require_unit_interval(array: np.ndarray, name: str = "images") -> None:
    """Refuses NaN, and values outside [0, 1]."""
    if not array.size:
        return
    low, high = float(array.min()), float(array.max())
    if 0 <= low and high <= 1:
        return
    require_finite(array, name)
    if low < 0:
        advice = (
            f"write ({name} - {low:g}) / {high - low:g}, or check how they were read"
        )
    elif high <= 16:
        advice = f"for levels of 0 to 16 write {name} / 16"
    elif high <= 255:
        advice = f"for 8-bit images write {name} / 255"
    else:
        advice = f"write {name} / {high:g}"
    raise ValueError(f"{name} lie in [{low:g}, {high:g}], outside [0, 1]: {advice}")


def require_levels(array: np.ndarray, levels: int, name: str) -> None:
    """Refuses intensities in [0, 1] between the given number of levels."""
    scaled = array * (levels - 1)
    off = np.abs(scaled - np.round(scaled)) > 1e-3
    if off.any():
        raise ValueError(
            f"{name} contains {array[off].flat[0]:g}, between two of {levels} levels: "
            f"write np.round({name} * {levels - 1}) / {levels - 1}, or use another "
            "likelihood"
        )


def require_image_shape(
    shape: tuple[int, ...], image_shape: tuple[int, ...], name: str
) -> None:
    """Refuses a batch whose images have another shape than the model's."""
    shape, image_shape = tuple(shape), tuple(image_shape)
    if shape[1:] == image_shape and len(shape) == 1 + len(image_shape):
        return
    if shape == image_shape:
        advice = f"for a single image write {name}[None]"
    elif len(shape) == 2 and shape[1] == math.prod(image_shape):
        sizes = ", ".join(map(str, image_shape))
        advice = f"for flattened images write {name}.reshape(-1, {sizes})"
    elif len(image_shape) == 3 and shape[1:] == (image_shape[2], *image_shape[:2]):
        advice = f"channels come last, so write np.moveaxis({name}, 1, -1)"
    elif len(shape) < 2:
        advice = f"these look like labels: give {name} as images"
    else:
        advice = f"reshape {name}, or build the model with image_shape={shape[1:]}"
    expected = ", ".join(["batch", *map(str, image_shape)])
    raise ValueError(
        f"{name} has shape {shape}: this model takes ({expected}); {advice}"
    )


def require_one_array(x: Any, name: str) -> None:
    """Refuses a batch of images and labels where images alone belong."""
    if isinstance(x, tuple | list | dict):
        raise TypeError(
            f"{name} is a {type(x).__name__}: give an array of images alone; images "
            "and labels need a loss_fn of your own that takes them apart, or "
            "vaelab.fit(..., transform=lambda key, batch: batch[0])"
        )
    if hasattr(x, "detach") or hasattr(x, "iloc"):
        raise TypeError(
            f"{name} is a {type(x).__name__}, which JAX does not take: write "
            f"np.asarray({name})"
        )
    require_numbers(**{name: x})
    if 0 in x.shape:
        raise ValueError(f"{name} has shape {x.shape}: give at least one image")


def _reshape_advice(shape: tuple[int, ...], name: str) -> str:
    side = math.isqrt(shape[-1]) if len(shape) == 2 else 0
    if side > 1 and side * side == shape[-1]:
        return f"for flattened square images write {name}.reshape(-1, {side}, {side})"
    if len(shape) == 2:
        return f"for a single image write {name}[None]"
    return f"reshape {name} to one of them"


def require_same_shape(**arrays: Any) -> None:
    """Refuses arrays that NumPy's rules would stretch to fit each other."""
    require_numbers(**arrays)
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        seen = " and ".join(f"{name} has shape {s}" for name, s in shapes.items())
        raise ValueError(f"{seen}: give them the same shape")
