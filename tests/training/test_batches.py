"""Batches as loaders give them."""

import collections

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import losses
from vaelab.training._batches import as_batch, images_of, with_images

IMAGES = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2) / 12
LABELS = np.array([4, 5, 6])
Pair = collections.namedtuple("Pair", "image label")


class Tensor:
    """As much of a PyTorch tensor as matters here: one with a gradient is no array."""

    def __init__(self, values, requires_grad=False):
        self.values, self.requires_grad = np.asarray(values), requires_grad
        self.shape = self.values.shape

    def detach(self):
        return Tensor(self.values)

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.values


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (IMAGES, IMAGES),
        ([IMAGES], IMAGES),
        ((IMAGES,), IMAGES),
        ([IMAGES, LABELS], (IMAGES, LABELS)),
        ([Tensor(IMAGES, True), Tensor(LABELS)], (IMAGES, LABELS)),
        ([Tensor(IMAGES)], IMAGES),
        (list(IMAGES), IMAGES),
        (IMAGES.tolist(), IMAGES),
        ((IMAGES, [4, 5, 6]), (IMAGES, LABELS)),
        (Pair(IMAGES, LABELS), Pair(IMAGES, LABELS)),
        ({"label": LABELS, "image": IMAGES}, {"label": LABELS, "image": IMAGES}),
    ],
)
def test_batches_become_arrays(batch, expected):
    got = as_batch(batch, (2, 2))
    assert type(got) is type(expected)
    pairs = (
        [(got[k], expected[k]) for k in expected]
        if isinstance(expected, dict)
        else zip(got, expected, strict=True)
        if isinstance(expected, tuple)
        else [(got, expected)]
    )
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(images_of(got, (2, 2)), IMAGES)


def test_arrays_on_the_device_stay_there():
    x = jnp.asarray(IMAGES)
    assert as_batch((x, LABELS))[0] is x


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        ({"age": LABELS, "photo": IMAGES}, "photo"),  # by shape
        ({"mask": IMAGES, "image": IMAGES}, "image"),  # by name
        ({"a": LABELS, "image": IMAGES.reshape(3, 4)}, "image"),
    ],
)
def test_images_are_found_in_a_dictionary(batch, key):
    assert images_of(batch, (2, 2)) is batch[key]
    changed = with_images(batch, lambda images: images + 1, (2, 2))
    np.testing.assert_array_equal(changed[key], batch[key] + 1)
    assert list(changed) == list(batch)


def test_images_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match='left, right have the .* call the images "im'):
        images_of({"left": IMAGES, "right": IMAGES}, (2, 2))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"image": IMAGES, "path": ["a"] * 3}, TypeError, r"images\['path'\] has dtyp"),
        ((IMAGES, 3.0), ValueError, r"images\[1\] is a single number"),
        ((IMAGES, [[1, 2], [3]]), TypeError, r"images\[1\] is a list that makes no"),
        (IMAGES.astype(object), TypeError, "images has dtype object"),
    ],
)
def test_what_is_no_batch(batch, error, message):
    with pytest.raises(error, match=message):
        as_batch(batch, (2, 2))


def labelled(model, batch):
    images, labels = batch
    return losses.elbo(model, images), {"label": labels}


def test_a_loader_of_lists_trains_as_arrays_do():
    def fit(images, **options):
        model = vaelab.VAE((2, 2), 4, 2, rngs=nnx.Rngs(0, noise=1))
        settings = {"epochs": 2, "optimizer": optax.adam(1e-3), "loss_fn": labelled}
        return vaelab.fit(model, images, **(settings | options)).history

    whole = fit((IMAGES, LABELS), batch_size=3, validation=(IMAGES, LABELS))
    loader = collections.deque([[Tensor(IMAGES, True), Tensor(LABELS)]])
    streamed = fit(loader, validation=[IMAGES, LABELS])
    assert whole.keys() == streamed.keys()
    for name, values in whole.items():
        np.testing.assert_allclose(streamed[name], values, rtol=1e-6)
    bytes_loader = collections.deque([[(IMAGES > 0.5).astype(np.uint8)]])
    assert np.isfinite(fit(bytes_loader, loss_fn=losses.elbo)["loss"]).all()


def test_a_dataset_of_single_examples_needs_a_loader():
    class Dataset:
        def __getitem__(self, index):
            return IMAGES[index]

    model = vaelab.VAE((2, 2), 4, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="images is a Dataset, which gives single"):
        vaelab.fit(model, Dataset(), epochs=1, optimizer=optax.adam(1e-3))


@pytest.mark.slow
def test_a_pytorch_loader_as_it_comes():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    data = torch.utils.data
    dataset = data.TensorDataset(torch.tensor(IMAGES), torch.tensor(LABELS))
    model = vaelab.VAE((2, 2), 4, 2, rngs=nnx.Rngs(0, noise=1))
    adam = optax.adam(1e-3)
    loader = data.DataLoader(dataset, batch_size=3, shuffle=True)
    result = vaelab.fit(model, loader, epochs=2, optimizer=adam, loss_fn=labelled)
    np.testing.assert_allclose(result.history["label"], 5, rtol=1e-6)
    alone = data.DataLoader(data.TensorDataset(torch.tensor(IMAGES)), batch_size=3)
    assert vaelab.fit(model, alone, epochs=2, optimizer=adam).epochs == 2
