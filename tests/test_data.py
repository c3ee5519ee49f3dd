import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from vaelab import data


def test_load_digits_gives_the_tutorials_split():
    source = load_digits()
    train, test = train_test_split(source.images, random_state=0)
    _, test_labels = train_test_split(source.target, random_state=0)
    digits = data.load_digits()
    np.testing.assert_array_equal(digits.train, train / 16 > 0.5)
    np.testing.assert_array_equal(digits.test, test / 16 > 0.5)
    np.testing.assert_array_equal(digits.test_labels, test_labels)
    assert digits.train_labels.shape == (1347,)
    assert digits.image_shape == (8, 8)
    for images in (digits.train, digits.test):
        assert images.dtype == jnp.float32


def test_grey_digits_are_sixteenths():
    train, _ = train_test_split(load_digits().images, random_state=0)
    digits = data.load_digits(binarize=False)
    np.testing.assert_array_equal(digits.train, (train / 16).astype(np.float32))


def test_threshold_and_seed_change_what_they_say():
    digits = data.load_digits()
    assert data.load_digits(threshold=0.2).train.sum() > digits.train.sum()
    assert (data.load_digits(seed=1).train != digits.train).any()
    assert len(data.load_digits(test_size=0.5).train) == 898


def test_from_arrays_keeps_values_and_pairs_labels():
    images = np.linspace(0, 1, 10 * 4, dtype=np.float64).reshape(10, 2, 2)
    split = data.from_arrays(images, labels=np.arange(10), test_size=0.3)
    assert split.train.dtype == jnp.float32
    assert split.train_labels.dtype == jnp.int32
    for part, labels in (
        (split.train, split.train_labels),
        (split.test, split.test_labels),
    ):
        np.testing.assert_array_equal(part, images[labels].astype(np.float32))
    assert sorted([*split.train_labels.tolist(), *split.test_labels.tolist()]) == list(
        range(10)
    )


def test_from_arrays_without_labels_and_with_channels():
    split = data.from_arrays(np.zeros((8, 4, 4, 3), bool))
    assert split.train_labels is None
    assert split.test_labels is None
    assert split.train.dtype == jnp.float32
    assert split.image_shape == (4, 4, 3)


GOOD = np.zeros((4, 8, 8), np.float32)
WITH_NAN = GOOD.copy()
WITH_NAN[2, 1, 3] = np.nan


@pytest.mark.parametrize(
    ("images", "seen", "fix"),
    [
        (np.zeros(64), "shape (64,)", "(n, height, width)"),
        (np.zeros((1, 2, 3, 4, 5)), "shape (1, 2, 3, 4, 5)", "(n, height, width)"),
        (np.zeros((0, 8, 8)), "shape (0, 8, 8)", "at least one image"),
        (np.zeros((1, 8, 8)), "shape (1, 8, 8)", "at least 2 images"),
        (np.full((4, 8, 8), 16), "lie in [16, 16]", "images / 16"),
        (np.arange(256).reshape(4, 8, 8), "lie in [0, 255]", "images / 255"),
        (np.full((4, 8, 8), 255, np.uint8), "[255, 255]", "images / 255"),
        (np.full((4, 8, 8), 4095), "[4095, 4095]", "images / 4095"),
        (GOOD - 0.5, "[-0.5, -0.5]", "outside [0, 1]"),
        (WITH_NAN, "1 NaN or infinite values, the first at index (2, 1, 3)", "nan_to_"),
        (GOOD + np.inf, "256 NaN or infinite values", "leave out those images"),
    ],
)
def test_from_arrays_names_the_value_and_the_fix(images, seen, fix):
    with pytest.raises(ValueError) as error:
        data.from_arrays(images)
    message = str(error.value)
    assert message.startswith("images")
    assert seen in message
    assert fix in message


def test_from_arrays_refuses_what_are_no_numbers():
    with pytest.raises(TypeError, match="images has dtype <U1: give numbers"):
        data.from_arrays(np.full((2, 2, 2), "a"))


@pytest.mark.parametrize(
    "labels", [np.arange(3), np.zeros((4, 1, 1), int), np.zeros(4)]
)
def test_from_arrays_refuses_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="each of the 4 images"):
        data.from_arrays(GOOD, labels=labels)


@pytest.mark.parametrize("test_size", [0, 1, -0.5, 300])
def test_test_size_is_a_fraction(test_size):
    with pytest.raises(
        ValueError, match=f"test_size is {test_size}: give a number in "
    ):
        data.load_digits(test_size=test_size)


@pytest.mark.parametrize("threshold", [-0.1, 1, 8])
def test_threshold_is_an_intensity(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}: give a number"):
        data.load_digits(threshold=threshold)


def test_sprites_are_a_full_grid_of_factors():
    sprites = data.load_sprites()
    again = data.load_sprites()
    np.testing.assert_array_equal(sprites.train, again.train)
    labels = np.concatenate([sprites.train_labels, sprites.test_labels])
    images = np.concatenate([sprites.train, sprites.test])
    assert images.shape == (6144, 16, 16)
    assert set(np.unique(images)) == {0.0, 1.0}
    assert len(np.unique(labels, axis=0)) == 6144
    assert (labels.max(axis=0) + 1).tolist() == [3, 4, 8, 8, 8]


def test_sprites_move_and_grow_with_their_factors():
    sprites = data.load_sprites()
    labels, images = np.asarray(sprites.train_labels), np.asarray(sprites.train)
    mass = images.sum(axis=(1, 2))
    rows, columns = np.mgrid[:16, :16]
    ellipses = labels[:, 0] == 1  # symmetric: their centre is that of their mass
    for column, axis in ((3, columns), (4, rows)):
        centre = (images * axis).sum(axis=(1, 2)) / mass
        np.testing.assert_allclose(
            centre[ellipses], 4.5 + labels[ellipses, column], atol=1e-4
        )
    sizes = [mass[labels[:, 1] == scale].mean() for scale in range(4)]
    assert sizes == sorted(sizes)


def test_no_two_sprites_are_alike():
    """So every factor can be told from an image, and no test image stands in train."""
    sprites = data.load_sprites()
    images = np.concatenate([sprites.train, sprites.test]).reshape(6144, -1)
    assert len(np.unique(images, axis=0)) == 6144


@pytest.mark.parametrize("kind", [np.asarray, pandas.DataFrame, list])
def test_a_table_is_split_like_images_and_keeps_its_values(kind):
    table = np.random.default_rng(0).normal(size=(8, 9)).astype(np.float32)
    split = data.from_arrays(kind(table), labels=pandas.Series(range(8)))
    assert split.image_shape == (9,)
    assert split.train.dtype == jnp.float32
    np.testing.assert_array_equal(split.test, table[split.test_labels])
    np.testing.assert_array_equal(split.train, table[split.train_labels])


def test_a_table_of_text_or_nan_is_refused():
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        data.from_arrays(np.array([[1.0, np.nan], [2.0, 3.0]]))
    with pytest.raises(TypeError, match="images has dtype object"):
        data.from_arrays(pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}))


class Tensor:
    """What PyTorch's tensors are like while they have a gradient."""

    def __init__(self, array, tracked=True):
        self.array, self.tracked = array, tracked

    def detach(self):
        return Tensor(self.array, tracked=False)

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        assert not self.tracked
        return np.asarray(self.array, dtype)


def test_tensors_are_taken():
    images = np.linspace(0, 1, 4 * 4, dtype=np.float32).reshape(4, 2, 2)
    split = data.from_arrays(Tensor(images), labels=Tensor(np.arange(4)))
    np.testing.assert_array_equal(split.train, images[split.train_labels])
