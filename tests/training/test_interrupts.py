"""Ctrl-C at any moment of a run ends it, with what it has so far."""

import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab.callbacks import Callback, Checkpoint
from vaelab.training import _many, _run
from vaelab.training._interrupts import deferred_interrupts, interrupted_safely

ADAM = optax.adam(1e-3)
IMAGES = np.full((8, 2, 2), 0.5, np.float32)


class Tiny(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.layer(x.reshape(-1, 4))


def make_model(seed=0):
    return Tiny(nnx.Rngs(seed))


class Press:
    """Presses Ctrl-C once, when it is called at the moment it is about."""

    def __init__(self, press, moment):
        self.press, self.moment, self.done = press, moment, False

    def __call__(self, moment):
        if moment == self.moment and not self.done:
            self.done = True
            self.press()


class PressedIn(Callback):
    def __init__(self, press):
        self.press = press

    def on_start(self, run):
        self.press("on_start")

    def on_epoch(self, run):
        self.press("on_epoch")

    def on_end(self, run):
        self.press("on_end")


class PressedFinalizer:
    """Python swallows what is raised in here."""

    def __init__(self, press):
        self.press = press

    def __del__(self):
        self.press("finalizer")


def loss_pressed_in(press):
    def loss(model, batch):
        press("tracing")
        PressedFinalizer(press)
        return jnp.mean(jnp.square(model(batch)))

    return loss


def pressed_at(monkeypatch, owner, name, press, *, before=True, after=False):
    function = getattr(owner, name)

    def patched(*args, **kwargs):
        if before:
            press(name)
        result = function(*args, **kwargs)
        if after:
            press(f"after {name}")
        return result

    monkeypatch.setattr(owner, name, patched)


MOMENTS = {
    "checked_callbacks": 0,  # one of the checks
    "recorded_names": 0,
    "tracing": 0,
    "finalizer": 0,
    "on_start": 0,
    "_steps": 1,  # the first compiled call, which compiles
    "validate": 1,
    "on_epoch": 1,
    "_write": 1,  # a checkpoint
    "on_end": 3,
    "finish": 3,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_ends_a_run_at_any_moment(moment, press_ctrl_c, tmp_path, monkeypatch):
    from vaelab.training import _fit

    press = Press(press_ctrl_c, moment)
    pressed_at(monkeypatch, _fit._inputs, "checked_callbacks", press)
    pressed_at(monkeypatch, _fit, "recorded_names", press)
    for name in ("_steps", "validate", "finish"):
        pressed_at(monkeypatch, _run.Run, name, press)
    pressed_at(monkeypatch, Checkpoint, "_write", press)
    result = vaelab.fit(
        make_model(),
        IMAGES,
        epochs=3,
        batch_size=8,
        optimizer=ADAM,
        loss_fn=loss_pressed_in(press),
        validation=IMAGES,
        callbacks=[PressedIn(press), Checkpoint(tmp_path / "run")],
        progress=False,
    )
    assert press.done
    assert result.stopped_by == "interrupt"
    assert result.epochs == MOMENTS[moment]
    assert set(result.history) == {"loss", "validation_loss"}
    assert len(result.history["loss"]) == result.epochs
    assert any((tmp_path / "run").glob("*")) == (result.epochs > 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.3])
def test_ctrl_c_of_another_thread_ends_a_run_whatever_it_does(press_ctrl_c, delay):
    def scale(x):
        for _ in range(30):  # takes a while to trace and to compile
            x = jnp.tanh(x + 1)
        return x

    timer = threading.Timer(delay, press_ctrl_c)

    def loss(model, batch):
        if not timer.ident:
            timer.start()
        return jnp.mean(scale(model(batch)))

    result = vaelab.fit(
        make_model(),
        IMAGES,
        epochs=10_000_000,
        batch_size=8,
        optimizer=ADAM,
        loss_fn=loss,
        progress=False,
    )
    timer.join()
    assert result.stopped_by == "interrupt"
    assert result.epochs < 10_000_000


MOMENTS_OF_MANY = {"make_model": 0, "tracing": 0, "_stacked": 0, "after _stacked": 0}
MOMENTS_OF_MANY |= {"device_get": 1}


@pytest.mark.parametrize("moment", MOMENTS_OF_MANY)
def test_ctrl_c_ends_many_models_at_any_moment(moment, press_ctrl_c, monkeypatch):
    press = Press(press_ctrl_c, moment)

    def make(seed):
        press("make_model")
        return make_model(seed)

    def loss(model, batch):
        press("tracing")
        return jnp.mean(jnp.square(model(batch)))

    pressed_at(monkeypatch, _many, "_stacked", press, after=True)
    get = jax.device_get

    def device_get(tree):
        if isinstance(tree, dict):  # the sums of a call
            press("device_get")
        return get(tree)

    monkeypatch.setattr(_many.jax, "device_get", device_get)
    result = vaelab.fit_many(
        make,
        IMAGES,
        seeds=[0, 1],
        learning_rates=[1e-3],
        epochs=3,
        batch_size=8,
        loss_fn=loss,
        validation=IMAGES,
    )
    assert press.done
    epochs = MOMENTS_OF_MANY[moment]
    assert {name: values.shape for name, values in result.history.items()} == {
        "loss": (2, epochs),
        "validation_loss": (2, epochs),
    }
    assert len(result.unstack()) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_interrupts_as_usual(press_ctrl_c):
    def loss(model, batch):
        press_ctrl_c()
        press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        vaelab.fit(
            make_model(),
            IMAGES,
            epochs=3,
            batch_size=8,
            optimizer=ADAM,
            loss_fn=loss,
            progress=False,
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_nobody_acted_on_reaches_the_caller(press_ctrl_c):
    ran = []

    @interrupted_safely
    def pressed_last():
        press_ctrl_c()
        ran.append("to the end")

    with pytest.raises(KeyboardInterrupt):
        pressed_last()
    assert ran == ["to the end"]
    with deferred_interrupts() as interrupt:
        assert not interrupt.happened


def test_an_error_is_not_replaced_by_it(press_ctrl_c):
    with pytest.raises(KeyError), deferred_interrupts():
        press_ctrl_c()
        raise KeyError


def test_a_run_within_a_run_ends_both(press_ctrl_c):
    with deferred_interrupts() as outer:
        with deferred_interrupts() as inner:
            press_ctrl_c()
        assert inner.happened
        assert outer.happened


def test_a_handler_of_someone_else_stays(press_ctrl_c):
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with deferred_interrupts() as interrupt:
        press_ctrl_c()
    assert heard == [1]
    assert not interrupt.happened
