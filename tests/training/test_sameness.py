"""What is compiled once, what is compiled anew, and what leaves the memory."""

import functools
import gc
import math
import types
import weakref
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import vaelab
from vaelab import losses
from vaelab.training import _objective, _step
from vaelab.training._executables import executables_of
from vaelab.training._sameness import Interned, fingerprint

X = np.zeros((8, 2, 2), np.float32)


class Traces:
    """Counts what is traced. Functions that use it are compared by its identity."""

    __slots__ = ("seen",)

    def __init__(self):
        self.seen = []

    def note(self, what):
        self.seen.append(what)


TRACES = Traces()


def new_vae():
    return vaelab.VAE((2, 2), 4, 2, rngs=nnx.Rngs(0, noise=1))


def same(a, b):
    equal = fingerprint(a) == fingerprint(b)
    assert not equal or hash(fingerprint(a)) == hash(fingerprint(b))
    return equal


@dataclass
class Settings:
    scale: float


class Plain:
    def __init__(self, scale):
        self.scale = scale

    def loss(self, model, x):
        return self.scale


def closing_over(value):
    return lambda: value


def calling(function):
    def outer(x):
        def inner(y):
            return function(y)

        return inner(x)

    return outer


OPTIMIZERS = {
    "adam": lambda rate: optax.adam(rate),
    "chain": lambda rate: optax.chain(optax.clip(1.0), optax.adamw(rate)),
    "schedule": lambda rate: optax.sgd(optax.cosine_decay_schedule(rate, 10)),
    "injected": lambda rate: optax.inject_hyperparams(optax.adam)(learning_rate=rate),
    "masked": lambda rate: optax.masked(optax.sgd(rate), lambda tree: tree),
    "many": lambda rate: optax.multi_transform({"a": optax.sgd(rate)}, lambda t: t),
    "lambda": lambda rate: optax.stateless(lambda g, p: jax.tree.map(jnp.sign, g)),
    "plateau": lambda rate: optax.contrib.reduce_on_plateau(factor=rate),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_written_anew_are_the_same(name):
    make = OPTIMIZERS[name]
    assert same(make(0.1), make(0.1))
    assert same(make(0.1), make(0.2)) == (name == "lambda")  # which ignores the rate


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (closing_over, 1, 2),
        (closing_over, 1, 1.0),
        (closing_over, 1, True),
        (closing_over, 0.0, -0.0),
        (closing_over, [1, 2], (1, 2)),
        (closing_over, {"a": 1}, {"a": 2}),
        (closing_over, {1, 2}, {1, 3}),
        (closing_over, np.arange(3), np.arange(3.0)),
        (closing_over, np.float32(1), np.float32(2)),
        (lambda n: closing_over(jnp.arange(n)), 3, 4),
        (lambda n: closing_over(Settings(n)), 1.0, 2.0),
        (lambda n: functools.partial(losses.elbo, beta=n), 1.0, 2.0),
        (lambda n: functools.partial(closing_over(0), n), 1.0, 2.0),
        (lambda n: calling(closing_over(n)), 1, 2),
        (closing_over, np.float32, np.float16),
        (closing_over, math, np),
    ],
)
def test_what_a_function_closes_over_is_a_part_of_it(make, one, other):
    assert same(make(one), make(one))
    assert not same(make(one), make(other))


def test_nan_is_itself_and_a_cycle_ends():
    assert same(closing_over(math.nan), closing_over(math.nan))

    def countdown(n):
        return n and countdown(n - 1)

    assert same(countdown, countdown)
    assert not same(countdown, closing_over(1))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_a_copy_is_the_same(value):
    copy = eval(repr(value), {"nan": math.nan, "inf": math.inf})
    assert same(closing_over(value), closing_over(copy))


def module_with(source, **names):
    module = types.ModuleType("written_by_a_user")
    vars(module).update(names)
    exec(source, vars(module))
    return module


def test_a_global_that_changed_makes_another_function():
    cell = "def loss(model, x):\n    return scale * helper(x)\n"
    first = module_with(cell, scale=1.0, helper=abs)
    before = fingerprint(first.loss)
    exec(cell, vars(first))  # the notebook's cell is run again
    assert fingerprint(first.loss) == before
    first.scale = 2.0
    assert fingerprint(first.loss) != before
    first.scale = 1.0
    assert fingerprint(first.loss) == before
    first.helper = closing_over(0)
    assert fingerprint(first.loss) != before


def test_a_value_in_a_users_module_or_object_that_changed_does_too():
    config = module_with("", scale=1.0)
    loss = module_with(
        "def loss(model, x):\n    return config.scale\n", config=config
    ).loss
    before = fingerprint(loss)
    config.scale = 2.0
    assert fingerprint(loss) != before
    mine = Plain(1.0)
    before = fingerprint(mine.loss)
    assert fingerprint(mine.loss) == before
    mine.scale = 2.0
    assert fingerprint(mine.loss) != before
    assert not same(Plain(1.0).loss, Plain(1.0).loss)


def test_a_model_that_was_trained_meanwhile_is_another_one():
    teacher = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    before = fingerprint(closing_over(teacher))
    assert fingerprint(closing_over(teacher)) == before
    teacher.kernel[...] = jnp.zeros((2, 2))
    assert fingerprint(closing_over(teacher)) != before


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


def test_a_step_with_an_inline_loss_is_traced_once():
    def step(by):
        def loss(model, x, scale=1.0):
            TRACES.note(by)
            return scale * losses.elbo(model, x).loss + by

        vaelab.train_step(model, optimizer, X, loss, scale=2.0)

    TRACES.seen.clear()
    model = new_vae()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    for by in (1.0, 1.0, 3.0, 1.0):
        step(by)
    assert TRACES.seen == [1.0, 3.0]


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
