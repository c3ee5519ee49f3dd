"""Pictures of images and of what a model makes of them.

Each function returns the matplotlib Figure. Give `axes` to draw into your own, or
`figsize` for the size in inches. Images are shown with 0 as white and 1 as black.
matplotlib is imported when a function is called.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaelab._arguments import checked_key, checked_number, checked_whole, shown
from vaelab._checks import (
    host_array,
    images_for,
    real_array,
    require_finite,
    require_model,
)
from vaelab.models import evaluation_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "plot_history",
    "plot_images",
    "plot_interpolation",
    "plot_reconstructions",
    "plot_samples",
]


def plot_images(
    images: ArrayLike,
    *,
    columns: int | None = None,
    axes: Any = None,
    figsize: tuple[float, float] | None = None,
) -> "Figure":
    """Shows images on a grid, row by row.

    Args:
        images: in [0, 1], shape `(n, height, width)` or `(n, height, width, channels)`.
        columns: images in one row; None makes one row of up to ten.
        axes: an array of n or more matplotlib axes to draw into, or None.
        figsize: width and height in inches, or None.

    Returns:
        The figure.

    Raises:
        ValueError: `images` has another rank, or there are too few `axes`.

    >>> import numpy as np
    >>> len(plot_images(np.zeros((12, 8, 8)), columns=4).axes)
    12
    """
    images = real_array(images, "images")
    if images.ndim not in (3, 4) or not images.size:
        raise ValueError(
            f"images has shape {images.shape}: expected (n, height, width) or "
            "(n, height, width, channels); for a single image write images[None], and "
            "for vectors images[:, None]"
        )
    if images.ndim == 4 and images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"images has shape {images.shape}: a picture has 1, 3 or 4 channels; "
            "choose one, such as images[..., 0]"
        )
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim == 4 and images.shape[-1] not in (3, 4):
        raise ValueError(
            f"images has shape {images.shape}: give 1, 3 or 4 channels, the last axis"
        )
    require_finite(images, "images")
    if columns is not None:
        columns = checked_whole("columns", columns, least=1)
    columns = columns or min(len(images), 10)
    rows = math.ceil(len(images) / columns)
    _check_frame(axes, figsize, len(images))
    figure, axes = _image_axes(rows, columns, axes, figsize)
    for axis, image in zip(axes, images, strict=False):
        axis.imshow(image, cmap="binary", vmin=0, vmax=1)
    for axis in axes[len(images) :]:
        axis.set_axis_off()
    return figure


def plot_reconstructions(
    model: Any,
    images: ArrayLike,
    *,
    axes: Any = None,
    figsize: tuple[float, float] | None = None,
) -> "Figure":
    """Shows images above what the model reconstructs from the posterior's mean.

    Args:
        model: has `reconstruct`, as `vaelab.VAE` has.
        images: shape `(n, *model.image_shape)`.
        axes: an array of 2n matplotlib axes to draw into, or None.
        figsize: width and height in inches, or None.

    Returns:
        The figure, with the images in the first row.
    """
    require_model(model, "reconstruct")
    images = images_for(model, images)
    _check_frame(axes, figsize, 2 * len(images))
    pairs = jnp.concatenate([images, model.reconstruct(images)])
    return plot_images(_rows(pairs), columns=len(images), axes=axes, figsize=figsize)


def plot_samples(
    model: Any,
    n: int = 36,
    *,
    key: jax.Array,
    columns: int | None = None,
    axes: Any = None,
    figsize: tuple[float, float] | None = None,
) -> "Figure":
    """Shows what the model decodes from n draws of the prior.

    Args:
        model: has `sample`, as `vaelab.VAE` has.
        n: how many images.
        key: a `jax.random` key.
        columns: images in one row; None makes the grid as square as n allows.
        axes: an array of n matplotlib axes to draw into, or None.
        figsize: width and height in inches, or None.

    Returns:
        The figure.
    """
    n = checked_whole("n", n, least=1)
    require_model(model, "sample")
    _check_frame(axes, figsize, n)
    if columns is not None:
        columns = checked_whole("columns", columns, least=1)
    columns = columns or math.isqrt(n - 1) + 1
    images = model.sample(n, key=checked_key("key", key))
    return plot_images(_rows(images), columns=columns, axes=axes, figsize=figsize)


def plot_interpolation(
    model: Any,
    start: ArrayLike,
    end: ArrayLike,
    *,
    steps: int = 10,
    axes: Any = None,
    figsize: tuple[float, float] | None = None,
) -> "Figure":
    """Shows the straight line between two images' posterior means, decoded.

    Args:
        model: has `encode` and `generate`, as `vaelab.VAE` has.
        start: an image, shape `model.image_shape`.
        end: an image of the same shape.
        steps: how many images to show, both ends included.
        axes: an array of `steps` matplotlib axes to draw into, or None.
        figsize: width and height in inches, or None.

    Returns:
        The figure, with the reconstruction of `start` at the left.
    """
    steps = checked_whole("steps", steps, least=2)
    _check_frame(axes, figsize, steps)
    require_model(model, "generate")
    ends = np.concatenate(
        [
            images_for(model, host_array(image, name)[None], name)
            for name, image in (("start", start), ("end", end))
        ]
    )
    first, last = evaluation_view(model).encode(ends).mean
    images = model.generate(jnp.linspace(first, last, steps))
    return plot_images(_rows(images), columns=steps, axes=axes, figsize=figsize)


def plot_history(
    history: Any,
    names: Sequence[str] | None = None,
    *,
    axes: Any = None,
    figsize: tuple[float, float] | None = None,
) -> "Figure":
    """Shows curves over the epochs, each in a panel of its own.

    Args:
        history: what `fit` or `fit_many` returned, or any mapping from a name to one
            value per epoch, or to a row of them for each of several models.
        names: which curves to show; None shows all.
        axes: an array with an axis for each curve, or None.
        figsize: width and height in inches, or None.

    Returns:
        The figure.

    Raises:
        ValueError: a name is not in the history.

    >>> len(plot_history({"loss": [3.0, 2.0], "elbo": [-3.0, -2.0]}, ["elbo"]).axes)
    1
    """
    history = getattr(history, "history", history)
    if not isinstance(history, Mapping) or not history:
        raise TypeError(
            f"history is {shown(history)}: give what fit returned, or its .history"
        )
    if names is None:
        names = list(history)
    is_list = isinstance(names, list | tuple) and len(names) > 0
    if not is_list or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names is {shown(names)}: give a list, such as ['loss']")
    if unknown := [name for name in names if name not in history]:
        raise ValueError(
            f"names contains {unknown}: the history has {', '.join(history)}"
        )
    if scalars := [name for name in names if np.ndim(history[name]) < 1]:
        raise ValueError(
            f"history holds one number as {scalars[0]}: give one for each epoch"
        )
    _check_frame(axes, figsize, len(names))
    if axes is None:
        from matplotlib import pyplot

        size = figsize or (3.2 * len(names), 2.4)
        options = {"figsize": size, "squeeze": False, "layout": "constrained"}
        axes = pyplot.subplots(1, len(names), **options)[1]
    axes = np.asarray(axes).ravel()
    for axis, name in zip(axes, names, strict=True):
        values = np.atleast_1d(real_array(history[name], name))
        axis.plot(np.arange(1, values.shape[-1] + 1), values.T)
        axis.set(xlabel="epoch", ylabel=name)
    return axes[0].figure


def _check_frame(axes: Any, figsize: Any, count: int) -> None:
    """Refuses what are no axes to draw so many pictures into, and what is no size."""
    if figsize is not None:
        if not isinstance(figsize, list | tuple) or len(figsize) != 2:
            raise TypeError(
                f"figsize is {shown(figsize)}: give width and height, such as (6, 4)"
            )
        for i, inches in enumerate(figsize):
            checked_number(f"figsize[{i}]", inches, above=0)
    if axes is None:
        return
    is_jax = isinstance(axes, jax.Array)
    given = np.asarray(None if is_jax else axes, object).ravel()
    if not all(hasattr(axis, "imshow") for axis in given):
        raise TypeError(
            f"axes is {shown(axes)}: give axes of matplotlib, such as "
            "plt.subplots(1, 2)[1]"
        )
    if len(given) < count:
        raise ValueError(f"axes has {len(given)} axes: {count} are needed")


def _rows(images: ArrayLike) -> np.ndarray:
    """Returns images as they are, and vectors as images of one row."""
    images = np.asarray(images)
    return images[:, None] if images.ndim == 2 else images


def _image_axes(
    rows: int, columns: int, axes: Any, figsize: tuple[float, float] | None
) -> tuple["Figure", np.ndarray]:
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(
            rows,
            columns,
            figsize=figsize or (0.7 * columns, 0.7 * rows),
            squeeze=False,
            gridspec_kw={"hspace": 0.1, "wspace": 0.1},
        )[1]
    axes = np.asarray(axes).ravel()
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("lightgrey")
    return axes[0].figure, axes
