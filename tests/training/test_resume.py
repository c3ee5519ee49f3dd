"""Loaders that go on where they were, and what a resumed run says has changed."""

import itertools

import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab.callbacks import Checkpoint
from vaelab.training._settings import differences, settings

ADAM = optax.adam(1e-3)


def fit(images, epochs, path=None, **options):
    model = vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))
    chosen = [] if path is None else [Checkpoint(path)]
    settings = {"optimizer": ADAM, "callbacks": chosen, "resume": path}
    return vaelab.fit(model, images, epochs=epochs, **(settings | options))


class Counting:
    """An iterator that can say and restore its place, as those of grain."""

    def __init__(self, batches):
        self._batches = batches
        self._next = 0

    def __iter__(self):
        return self

    def __next__(self):
        self._next += 1
        return self._batches[(self._next - 1) % len(self._batches)]

    def get_state(self):
        return {"next": self._next}

    def set_state(self, state):
        self._next = state["next"]


@pytest.fixture
def batches(digits):
    return digits.train[:140].reshape(7, 20, 8, 8)


def test_an_iterator_with_a_state_goes_on_where_it_was(batches, tmp_path):
    expected = fit(Counting(batches), 4, steps_per_epoch=3)
    fit(Counting(batches), 2, tmp_path, steps_per_epoch=3)
    result = fit(Counting(batches), 4, tmp_path, steps_per_epoch=3)
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])


@pytest.mark.parametrize(
    "loader", ["iterator", pytest.param("dataset", marks=pytest.mark.slow)]
)
def test_grain_goes_on_where_it_was(batches, tmp_path, loader):
    grain = pytest.importorskip("grain")
    images = np.concatenate(batches)

    def new():
        data = grain.MapDataset.source(images).seed(0).shuffle().repeat().batch(20)
        data = data.to_iter_dataset()
        return iter(data) if loader == "iterator" else data

    expected = fit(new(), 4, steps_per_epoch=3)
    fit(new(), 2, tmp_path, steps_per_epoch=3)
    result = fit(new(), 4, tmp_path, steps_per_epoch=3)
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])


def test_an_iterator_without_a_state_skips_and_says_so(batches, tmp_path):
    expected = fit(itertools.cycle(batches), 4, steps_per_epoch=3)
    fit(itertools.cycle(batches), 2, tmp_path, steps_per_epoch=3)
    with pytest.warns(UserWarning, match="batches of 2 epochs of 3 were skipped"):
        result = fit(itertools.cycle(batches), 4, tmp_path, steps_per_epoch=3)
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])
    with pytest.raises(ValueError, match="images ends after 2 epochs, and the run"):
        fit(iter(batches[:6]), 5, tmp_path, steps_per_epoch=3)
    with pytest.raises(ValueError, match="steps_per_epoch 3, and this call has 2"):
        fit(itertools.cycle(batches), 4, tmp_path, steps_per_epoch=2)


def test_what_has_changed_is_said(batches, tmp_path):
    images = np.concatenate(batches)
    fit(images, 1, tmp_path, batch_size=20)
    changed = "learning_rate was 0.001 and is 0.01. It goes on with what this call says"
    with pytest.warns(UserWarning, match=changed) as warned:
        fit(images, 1, tmp_path, batch_size=20, optimizer=optax.adam(1e-2))
    assert {w.filename for w in warned if "was made otherwise" in str(w.message)} == {
        __file__
    }
    with pytest.raises(ValueError, match="^the optimizer has another structure"):
        fit(images, 1, tmp_path, batch_size=20, optimizer=optax.sgd(0.1, 0.9))
    with pytest.warns(UserWarning, match="beta was absent and is 4.0"):
        fit(images, 1, tmp_path, batch_size=20, beta=4.0)


def test_settings_are_told_apart():
    def of(optimizer=ADAM, loss_fn=vaelab.elbo, **knobs):
        return settings(optimizer.update, loss_fn, knobs)

    assert differences(of(), of(optax.adam(1e-3))) == []
    [cosine] = differences(
        of(optax.sgd(optax.cosine_decay_schedule(0.1, 10))),
        of(optax.sgd(optax.cosine_decay_schedule(0.2, 10))),
    )
    assert cosine.endswith("cosine_decay_schedule.init_value was 0.1 and is 0.2")
    [b1] = differences(of(), of(optax.adam(1e-3, b1=0.5)))
    assert "scale_by_adam.b1 was 0.9 and is 0.5" in b1

    def mine(model, x):
        return 0.0

    [loss] = differences(of(), of(loss_fn=mine))
    assert loss.startswith("loss_fn was vaelab.losses") and loss.endswith("mine")
