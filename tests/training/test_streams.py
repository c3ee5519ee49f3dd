"""Batches from an iterable, through the same `fit`."""

import itertools

import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import losses
from vaelab.training import _streams

ADAM = optax.adam(1e-3)


def new_vae():
    return vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))


class Loader:
    """Batches of 20 in order, the last one of 5."""

    def __init__(self, images, size=20):
        self.images, self.size = np.asarray(images), size

    def __iter__(self):
        for start in range(0, len(self.images), self.size):
            yield self.images[start : start + self.size]


def fit(images, **options):
    model = new_vae()
    settings = {"epochs": 2, "optimizer": ADAM} | options
    return model, vaelab.fit(model, images, **settings)


@pytest.mark.slow
def test_a_stream_takes_the_steps_of_train_step(digits):
    loader = Loader(digits.train[:85])
    model, result = fit(loader)
    stepped = new_vae()
    optimizer = nnx.Optimizer(stepped, ADAM, wrt=nnx.Param)
    terms = [
        [float(vaelab.train_step(stepped, optimizer, x).loss) for x in loader]
        for _ in range(2)
    ]
    np.testing.assert_allclose(
        result.history["loss"], np.mean(terms, axis=1), rtol=1e-5
    )
    assert result.epochs == 2


@pytest.mark.parametrize("capacity", [1, 3, 64])
def test_groups_hold_every_batch_once(capacity):
    batches = [np.full((2, 3), i) for i in range(7)] + [np.full((1, 3), 7)]
    groups = list(_streams.groups(batches, capacity))
    taken = [
        group.data[step * group.batch_size, 0]
        for group in groups
        for step in range(group.steps)
    ]
    assert taken == list(range(8))
    assert all(len(g.data) == g.capacity * g.batch_size for g in groups)


def test_an_endless_iterator_with_steps_per_epoch(digits):
    endless = itertools.cycle(Loader(digits.train[:80]))
    _, result = fit(endless, epochs=3, steps_per_epoch=5)
    assert result.epochs == 3
    again = (digits.train[:20] for _ in range(7))
    _, result = fit(again, epochs=3, steps_per_epoch=5)
    assert result.stopped_by == "no more images"
    assert len(result.history["loss"]) == result.epochs == 2


def test_an_error_in_a_loader_comes_through(digits):
    def broken():
        yield np.asarray(digits.train[:20])
        raise KeyError("disk")

    with pytest.raises(KeyError, match="disk"):
        fit(broken(), epochs=1)


@pytest.mark.slow
def test_a_nan_in_the_stream_is_explained(digits):
    def batches():
        for step in range(80):
            x = np.array(digits.train[:20])
            if step == 70:  # the first group of batches is checked before it is used
                x[3, 0, 0] = np.nan
            yield x

    with pytest.raises(FloatingPointError, match="step 70 is the first") as caught:
        fit(batches(), epochs=1)
    assert caught.value.report.inputs


def test_labelled_batches_as_a_grain_like_loader_gives_them(digits):
    def loss(model, batch):
        return losses.elbo(model, batch["image"])

    loader = [
        {"image": np.asarray(digits.train[:20]), "label": np.arange(20)}
        for _ in range(3)
    ]
    _, result = fit(iter(loader), epochs=1, loss_fn=loss)
    assert set(result.history) == {"loss", "elbo", "reconstruction", "kl"}


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (iter([]), {"epochs": 1}, "images gives no batch"),
        (iter([1]), {"epochs": 2}, "images is an iterator, which ends after one"),
        (Loader(np.zeros((4, 8, 8))), {"batch_size": 2}, "leave batch_size out"),
        (Loader(np.zeros((4, 8, 8))), {"steps_per_epoch": 0}, "steps_per_epoch is 0"),
        (Loader(np.zeros((4, 9, 9))), {}, r"images has shape .*, 9, 9\): this model"),
        (Loader(np.full((4, 8, 8), 3.0)), {}, r"images lie in \[3, 3\]"),
    ],
)
def test_bad_streams_are_refused_before_anything_is_compiled(images, options, message):
    def loss(model, x):
        raise AssertionError("traced")

    with pytest.raises(ValueError, match=message):
        fit(images, loss_fn=loss, **options)


def test_a_grain_loader(digits):
    import grain

    images = np.asarray(digits.train[:80])
    dataset = (
        grain.MapDataset.source(images).seed(0).shuffle().batch(20).to_iter_dataset()
    )
    _, result = fit(dataset)
    assert result.epochs == 2
    assert np.isfinite(result.history["loss"]).all()
