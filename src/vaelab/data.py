"""Images in, arrays out.

Every loader returns an `ImageData`: float32 images in [0, 1], already split into a
part to train on and a part to be judged by. Nothing is rescaled behind your back: a
Bernoulli likelihood fed with intensities of 0 to 16 has a loss without a lower bound,
so `from_arrays` refuses such images and says what to write instead.
"""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vaelab._arguments import checked_flag, checked_number, checked_seed
from vaelab._checks import host_array, numeric_images, require_unit_interval

__all__ = ["ImageData", "from_arrays", "load_digits", "load_sprites"]


class ImageData(NamedTuple):
    """Images split into a training and a test part.

    Attributes:
        train: float32 images in [0, 1], or rows of a table, `(n_train, *image_shape)`.
        test: the same, shape `(n_test, *image_shape)`.
        train_labels: int32 labels, shape `(n_train,)` or `(n_train, k)`, or None.
        test_labels: int32 labels, shape `(n_test,)` or `(n_test, k)`, or None.
    """

    train: jax.Array
    test: jax.Array
    train_labels: jax.Array | None = None
    test_labels: jax.Array | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.train.shape[1:]

    def __repr__(self) -> str:
        """Says how many images there are, and of which shape."""
        labelled = "" if self.train_labels is None else ", labelled"
        return f"ImageData(train={self.train.shape}, test={self.test.shape}{labelled})"

    def _repr_html_(self) -> str:
        """Shows that line in a notebook."""
        return f"<code>{self!r}</code>"


def load_digits(
    *,
    binarize: bool = True,
    threshold: float = 0.5,
    test_size: float = 0.25,
    seed: int = 0,
) -> ImageData:
    """Loads scikit-learn's 1797 handwritten digits, 8 by 8 pixels, without a network.

    The file stores intensities of 0 to 16; they are divided by 16 and then, if
    `binarize`, replaced by 1 where they exceed `threshold` and by 0 elsewhere.

    Args:
        binarize: black and white images if true, grey ones otherwise.
        threshold: the intensity in [0, 1) above which a pixel becomes 1.
        test_size: the fraction of the images that is held out, in (0, 1).
        seed: the seed of the split; 0 gives the split of the well-known tutorials.

    Returns:
        The images and their labels, 1347 for training and 450 for testing by default.

    Raises:
        ValueError: `threshold` or `test_size` is out of range.

    >>> digits = load_digits()
    >>> digits.train.shape, digits.test.shape, digits.image_shape
    ((1347, 8, 8), (450, 8, 8), (8, 8))
    >>> sorted(set(digits.train.ravel().tolist()))
    [0.0, 1.0]

    Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten
    Digits, UCI Machine Learning Repository, as shipped with scikit-learn.
    """
    if not 0 <= checked_number("threshold", threshold) < 1:
        raise ValueError(
            f"threshold is {threshold}: give a number in [0, 1), the intensity (after "
            "division by 16) above which a pixel becomes 1; 0.5 is usual"
        )
    *pixels, labels = np.loadtxt(_digits_file(), delimiter=",").T
    images = np.stack(pixels, axis=1).reshape(-1, 8, 8) / 16
    if checked_flag("binarize", binarize):
        images = images > threshold
    return from_arrays(
        images.astype(np.float32),
        labels=labels.astype(np.int32),
        test_size=test_size,
        seed=seed,
    )


def load_sprites(*, test_size: float = 0.25, seed: int = 0) -> ImageData:
    """Draws 6144 binary sprites of 16 by 16 pixels, one for each mix of five factors.

    The factors are the columns of the labels: shape (rectangle, ellipse, triangle),
    scale (4 sizes), orientation (8 angles over half a turn, after which rectangles and
    ellipses repeat), x and y (8 places each). No two sprites are alike, so no test
    image stands among those for training. Nothing is random but the split.

    Args:
        test_size: the fraction of the images that is held out, in (0, 1).
        seed: the seed of the split.

    Returns:
        The images; labels have shape `(n, 5)` and count each factor from 0.

    >>> sprites = load_sprites()
    >>> sprites.train.shape, sprites.train_labels.shape
    ((4608, 16, 16), (4608, 5))
    """
    sizes = (3, 4, 8, 8, 8)
    factors = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)
    shape, scale, orientation, x, y = factors.T[:, :, None, None]
    rows, columns = np.mgrid[:16, :16][:, None]
    angle = 0.05 + orientation * np.pi / 8  # no two of them look alike on the grid
    right, down = columns - (4.5 + x), rows - (4.5 + y)
    along = np.cos(angle) * right + np.sin(angle) * down
    across = np.cos(angle) * down - np.sin(angle) * right
    length = 2.8 + 0.5 * scale
    u, v = along / length, across / length
    rectangle = (np.abs(u) <= 1) & (np.abs(v) <= 0.55)
    ellipse = u**2 + (2.2 * v) ** 2 <= 1
    triangle = (v >= -0.5) & (v + 1.5 * np.abs(u) <= 1)
    images = np.select([shape == 0, shape == 1], [rectangle, ellipse], triangle)
    return from_arrays(
        images.astype(np.float32), labels=factors, test_size=test_size, seed=seed
    )


def from_arrays(
    images: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    test_size: float = 0.25,
    seed: int = 0,
) -> ImageData:
    """Checks your own images, or a table, and splits them at random.

    Args:
        images: finite numbers in [0, 1], shape `(n, height, width)` or
            `(n, height, width, channels)`; or a table, such as a DataFrame, shape
            `(n, columns)`, of any finite numbers. Tensors on the host are taken, too.
        labels: integers, shape `(n,)` or `(n, k)`, or None.
        test_size: the fraction of the images that is held out, in (0, 1).
        seed: the seed of the split.

    Returns:
        The images as float32, with the values they had; of a table its rows.

    Raises:
        TypeError: `images` are not numbers.
        ValueError: `images` have another rank, are empty, contain NaN or infinity, or
            leave [0, 1]; `labels` have another length; `test_size` is out of range.

    >>> import numpy as np
    >>> cameras = np.arange(4 * 2 * 2).reshape(4, 2, 2) * 17
    >>> from_arrays(cameras)
    Traceback (most recent call last):
    ValueError: images lie in [0, 255], outside [0, 1]: for 8-bit images write \
images / 255
    >>> from_arrays(cameras / 255).train.shape
    (3, 2, 2)
    """
    array = host_array(images)
    if array.ndim == 2:
        array = numeric_images(array, image_shape=array.shape[1:])
    else:
        array = numeric_images(array)
        require_unit_interval(array)
    test_size = checked_number("test_size", test_size, above=0, below=1)
    seed = checked_seed("seed", seed)
    if len(array) < 2:
        raise ValueError(
            f"images has shape {array.shape}: give at least 2 images, one to train on "
            "and one to test on"
        )
    n_test = math.ceil(test_size * len(array))
    if n_test == len(array):
        raise ValueError(
            f"test_size is {test_size}, which is all of the {len(array)} images: give "
            "a smaller one, so that some are left to train on"
        )
    # The split of scikit-learn's train_test_split.
    order = np.random.RandomState(seed).permutation(len(array))
    test, train = np.split(order, [n_test])
    if labels is None:
        return ImageData(jnp.asarray(array[train]), jnp.asarray(array[test]))
    labels = host_array(labels, "labels")
    fits = labels.ndim in (1, 2) and len(labels) == len(array) and labels.size
    if not fits or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels has shape {labels.shape} and dtype {labels.dtype}: give one "
            f"integer, or one row of them, for each of the {len(array)} images"
        )
    int32 = np.iinfo(np.int32)
    if labels.min() < int32.min or labels.max() > int32.max:
        far = labels.min() if labels.min() < int32.min else labels.max()
        raise ValueError(
            f"labels contain {far}, which int32 cannot hold: number the classes anew, "
            "as in np.unique(labels, return_inverse=True)[1]"
        )
    labels = labels.astype(np.int32)
    parts = (array[train], array[test], labels[train], labels[test])
    return ImageData(*map(jnp.asarray, parts))


def _digits_file() -> Path:
    """Where scikit-learn keeps its digits: importing it would take a second."""
    spec = find_spec("sklearn")
    assert spec is not None and spec.origin is not None  # vaelab requires it
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
