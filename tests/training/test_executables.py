"""What is compiled once, what is compiled anew, and what leaves the memory."""

import functools
import gc
import threading
import types
import weakref

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vaelab
from vaelab import losses
from vaelab.training import _objective, _step
from vaelab.training._executables import executables_of
from vaelab.training._sameness import Interned

X = np.zeros((8, 2, 2), np.float32)


def new_vae():
    return vaelab.VAE((2, 2), 4, 2, rngs=nnx.Rngs(0, noise=1))


def module_with(source, **names):
    module = types.ModuleType("written_by_a_user")
    vars(module).update(names)
    exec(source, vars(module))
    return module


def test_the_last_values_are_kept():
    kept = Interned(maxsize=2)
    first, *_ = [kept.get(n, object) for n in (1, 2)]
    assert kept.get(1, object) is first
    kept.get(3, object)  # 2 was used least recently
    assert kept.get(1, object) is first
    second = kept.get(2, object)
    assert kept.get(2, object) is second


def fit(**options):
    settings = {"epochs": 1, "batch_size": 4, "optimizer": optax.sgd(0.1)} | options
    return vaelab.fit(new_vae(), X, **settings)


def written_inline(rate=0.1, scale=1.0, by=0.0, rise=0.0):
    return {
        "optimizer": optax.sgd(rate),
        "loss_fn": lambda m, x, beta: scale * losses.elbo(m, x, beta=beta).loss,
        "transform": lambda key, x: x + by,
        "beta": lambda step: 1.0 + rise * step,
    }


def test_what_is_written_inline_is_compiled_once():
    expected = fit(**written_inline()).history["loss"]
    before = executables_of.cache_info().misses
    np.testing.assert_array_equal(fit(**written_inline()).history["loss"], expected)
    assert executables_of.cache_info().misses == before
    changes = {"rate": 0.2}, {"scale": 2.0}, {"by": 0.5}, {"rise": 0.1}
    for n, change in enumerate(changes, 1):
        fit(**written_inline(**change))
        assert executables_of.cache_info().misses == before + n


def test_a_run_sees_a_global_that_changed():
    cell = "def loss(model, x):\n    return scale * elbo(model, x).loss\n"
    user = module_with(cell, scale=1.0, elbo=losses.elbo)
    once = fit(loss_fn=user.loss).history["loss"]
    user.scale = 2.0
    twice = fit(loss_fn=user.loss, optimizer=optax.sgd(0.05)).history["loss"]
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


def test_a_step_with_an_inline_loss_is_compiled_once(monkeypatch):
    made = []
    compiled_step = _step._compiled_step

    def noted(*arguments):
        made.append(arguments)
        return compiled_step(*arguments)

    monkeypatch.setattr(_step, "_compiled_step", noted)
    model = new_vae()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    for by in (1.5, 1.5, 3.5, 1.5):
        vaelab.train_step(
            model, optimizer, X, lambda m, x, by=by: losses.elbo(m, x).loss + by
        )
    assert len(made) == 2


def test_what_equal_functions_share_is_not_what_one_of_them_became():
    def closing_over(scale):
        return lambda model, x: scale[0] * losses.elbo(model, x).loss

    held = [1.0]
    fit(loss_fn=closing_over(held))
    held[0] = 100.0
    # The same program as the first run's, whose validation is only now traced.
    result = fit(loss_fn=closing_over([1.0]), validation=X, optimizer=optax.sgd(0.0))
    loss, validated = (result.history[n] for n in ("loss", "validation_loss"))
    np.testing.assert_allclose(validated, loss, rtol=0.2)
    kept = Interned(maxsize=2)
    one, other = [1], [1]
    first = kept.get((one, "a"), object)
    assert kept.get((other, "a"), object) is first
    one.append(2)
    assert kept.get((other, "a"), object) is not first


def test_what_cannot_be_looked_into_is_not_compiled_at_each_call():
    lock = threading.Lock()

    class Mine:
        def __init__(self):
            self.lock = lock

        def loss(self, model, x, scale=1.0, sizes=2):
            return opaque(model, x, scale, sizes)

    def opaque(model, x, scale=1.0, sizes=2):
        with lock:
            traces.append(scale)
        return losses.elbo(model, x).loss

    mine = Mine()
    kept = Interned(maxsize=4)
    for make in (
        lambda: (opaque, ()),
        lambda: (functools.partial(opaque, scale=2.0), ()),
        lambda: (mine.loss, (("sizes", 3),)),
        lambda: optax.GradientTransformation(opaque, mine.loss),
    ):
        assert kept.get(make(), object) is kept.get(make(), object)
    traces = []
    model = new_vae()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    vaelab.train_step(model, optimizer, X, opaque, sizes=3)
    once = len(traces)
    vaelab.train_step(model, optimizer, X, opaque, sizes=3)
    assert len(traces) == once


def test_what_was_compiled_leaves_the_memory():
    closed_over = jnp.arange(5000.0)
    alive = weakref.ref(closed_over)

    def loss(model, x, array=closed_over):
        return losses.elbo(model, x).loss + array.sum()

    fit(loss_fn=loss)
    model = new_vae()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    vaelab.train_step(model, optimizer, X, loss)
    del loss, closed_over
    gc.collect()
    assert alive() is not None
    executables_of.cache_clear()
    _objective._objectives.clear()
    _step._steps.clear()
    gc.collect()
    assert alive() is None
