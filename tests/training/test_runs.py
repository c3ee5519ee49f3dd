"""How a run is cut into calls makes no difference, and no call is compiled twice."""

import logging
import signal
import threading

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import losses
from vaelab.callbacks import Callback
from vaelab.training import _feeds
from vaelab.training._program import without_keys

ADAM = optax.adam(1e-3)


def new_vae(**options):
    return vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1), **options)


def arrays(model):
    return without_keys(nnx.state(model))


def fit(model, images, **options):
    return vaelab.fit(
        model, images, **({"epochs": 3, "batch_size": 64, "optimizer": ADAM} | options)
    )


def compilations(run):
    """Returns the messages of JAX on the programs that it compiles meanwhile."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            run()
    finally:
        logger.removeHandler(handler)
    return [message for message in messages if "Compiling" in message]


class Idle(Callback):
    def __init__(self, every):
        self.every = every

    def on_epoch(self, run):
        assert run.model is not None


@pytest.mark.parametrize("every", [1, 2, 3, None])
@pytest.mark.parametrize("steps", [1, 7, 64])
def test_cutting_a_run_into_calls_changes_no_bit(digits, monkeypatch, every, steps):
    whole, cut = new_vae(dropout=0.1), new_vae(dropout=0.1)
    x = digits.train[:300]
    expected = fit(whole, x, epochs=5)
    monkeypatch.setattr(_feeds, "FIRST_STEPS", steps)
    monkeypatch.setattr(_feeds, "SECONDS_PER_CALL", 1e-9)
    got = fit(cut, x, epochs=5, callbacks=[Idle(every)])
    for name, values in expected.history.items():
        np.testing.assert_array_equal(got.history[name], values)
    for a, b in zip(arrays(whole), arrays(cut), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_second_run_compiles_nothing(digits):
    fit(new_vae(), digits.train, epochs=2, beta=1.0, validation=digits.test)
    model = new_vae()
    names = compilations(
        lambda: fit(
            model, digits.train, epochs=7, beta=0.5, seed=3, validation=digits.test
        )
    )
    assert names == []
    assert compilations(lambda: fit(new_vae(), digits.train[:100])) != []


@pytest.mark.slow
def test_steps_of_a_run_are_those_of_train_step(digits):
    x = digits.train[:96]
    fused, stepped = new_vae(), new_vae()
    result = fit(fused, x, batch_size=96, epochs=20)
    optimizer = nnx.Optimizer(stepped, ADAM, wrt=nnx.Param)
    terms = [vaelab.train_step(stepped, optimizer, x) for _ in range(20)]
    np.testing.assert_allclose(
        result.history["loss"], [float(t.loss) for t in terms], rtol=1e-5
    )


def test_arrays_that_someone_else_holds_stay_alive(digits):
    model = new_vae()
    before = arrays(model)
    copies = [np.array(x) for x in before]
    held = []

    class Hold(Callback):
        def on_epoch(self, run):
            held.append(arrays(run.model)[0])

    fit(model, digits.train, callbacks=[Hold()])
    for array, copy in zip(before, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert len({float(np.sum(x)) for x in held}) == 3


@pytest.mark.slow
def test_labels_and_transforms_reach_the_loss(digits):
    grey = np.round(digits.train[:100] * 0.7, 3)
    labels = np.arange(100)
    seen = []

    def binarised(key, batch):
        images, labels = batch
        return jax.random.bernoulli(key, images).astype(images.dtype), labels

    def loss(model, batch):
        images, labels = batch
        jax.debug.callback(lambda x, y: seen.append((np.array(x), np.array(y))), *batch)
        return losses.elbo(model, images)

    fit(
        new_vae(),
        (grey, labels),
        batch_size=50,
        epochs=2,
        loss_fn=loss,
        transform=binarised,
    )
    jax.effects_barrier()
    assert len(seen) == 4
    assert all(set(np.unique(x)) == {0, 1} for x, _ in seen)
    assert sorted(np.concatenate([y for _, y in seen[:2]])) == list(range(100))
    for x, y in seen:
        assert (x <= np.ceil(grey[y])).all()
    assert not np.array_equal(seen[0][0][np.argsort(seen[0][1])], seen[2][0])


def test_validation_takes_every_image_without_dropout_and_noise_of_its_own(digits):
    model = new_vae(dropout=0.5)
    held_out = digits.test[:37]
    history = fit(model, digits.train, epochs=2, validation=held_out).history
    assert {"validation_loss", "validation_elbo", "validation_kl"} <= set(history)
    view = vaelab.models.evaluation_view(model)
    kl = losses.elbo(view, held_out, key=jax.random.key(0)).kl.sum(1).mean()
    np.testing.assert_allclose(history["validation_kl"][-1], kl, rtol=1e-5)
    alone = new_vae(dropout=0.5)
    fit(alone, digits.train, epochs=2)
    for a, b in zip(arrays(model), arrays(alone), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_validation_in_blocks_weighs_every_image_alike(digits, monkeypatch):
    from vaelab.training import _validation

    whole = fit(new_vae(), digits.train, epochs=1, validation=digits.test[:50])
    monkeypatch.setattr(_validation, "BLOCK", 16)
    held_out, another = digits.test[:50], new_vae(log_std_bounds=(-9.0, 9.0))
    blocks = fit(another, digits.train, epochs=1, validation=held_out)
    np.testing.assert_allclose(
        whole.history["validation_kl"], blocks.history["validation_kl"], rtol=1e-5
    )


def test_ctrl_c_ends_with_the_history_so_far_and_a_usable_model(digits, press_ctrl_c):
    model = new_vae()

    class Press(Callback):
        def on_epoch(self, run):
            if run.epoch == 3:
                press_ctrl_c()

    result = fit(model, digits.train, epochs=1000, callbacks=[Press()])
    assert result.stopped_by == "interrupt"
    assert 3 <= result.epochs < 1000
    assert len(result.history["loss"]) == result.epochs
    assert np.isfinite(model.sample(2, key=jax.random.key(0))).all()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_heard_within_a_long_fused_run(digits, press_ctrl_c):
    class PressSoon(Callback):
        every = None

        def on_start(self, run):
            threading.Timer(1.0, press_ctrl_c).start()

    result = fit(new_vae(), digits.train, epochs=100_000, callbacks=[PressSoon()])
    assert result.stopped_by == "interrupt"
    assert 1 < result.epochs < 100_000


def test_an_error_in_a_callback_leaves_the_model_as_it_is_then(digits):
    class Broken(Callback):
        def on_epoch(self, run):
            if run.epoch == 2:
                raise KeyError("mine")

    model, reference = new_vae(), new_vae()
    with pytest.raises(KeyError, match="mine"):
        fit(model, digits.train, epochs=5, callbacks=[Broken()])
    fit(reference, digits.train, epochs=2)
    for a, b in zip(arrays(model), arrays(reference), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_python_counter_in_a_module_is_refused(digits):
    class Counting(vaelab.VAE):
        calls = 0

        def encode(self, x):
            self.calls += 1
            return super().encode(x)

    model = Counting((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))
    with pytest.raises(TypeError, match="hold what changes in an nnx.Variable"):
        fit(model, digits.train)


def test_a_run_from_another_thread(digits):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(fit(new_vae(), digits.train))
    )
    thread.start()
    thread.join()
    assert results[0].stopped_by == "epochs"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": None}, "batch_size is missing: give at most 8"),
        ({"validation": np.zeros((3, 9, 9))}, r"validation has shape \(3, 9, 9\)"),
        ({"validation": np.full((3, 8, 8), 2.0)}, r"validation lie in \[2, 2\]"),
        ({"images": (np.zeros((8, 8, 8)), np.zeros(7))}, "as many labels"),
        ({"steps_per_epoch": 3}, "steps_per_epoch is 3, but images are arrays"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": 2.0}, "epochs is 2.0: give at least 1, a whole number"),
        ({"batch_size": "100"}, "batch_size is '100': give at least 1 and at most"),
        ({"beta": float("nan")}, "beta is nan: give 0 or a positive number"),
        ({"beta": -1.0}, "beta is -1.0: give 0 or a positive number"),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(options, message):
    def loss(model, x, beta=1.0):
        raise AssertionError("traced")

    settings = {"images": np.zeros((8, 8, 8)), "batch_size": 4, "loss_fn": loss}
    with pytest.raises(ValueError, match=message):
        fit(new_vae(), **(settings | options))
