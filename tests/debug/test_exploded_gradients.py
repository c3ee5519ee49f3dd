"""A gradient that overflows in the optimizer grew somewhere in the user's code."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax import lax

import vaelab
from vaelab import losses
from vaelab.debug import explain


def line_of(function, mark):
    lines, first = inspect.getsourcelines(function)
    [place] = [k for k, line in enumerate(lines) if f"# <- {mark}" in line]
    return first + place


def stepped(loss, tx=None):
    tx = optax.adam(1e-3) if tx is None else tx

    def step(params, state, x):
        grads = jax.grad(loss)(params, x)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return lambda params, x: explain(jax.jit(step), params, tx.init(params), x)


def exponential(w, x):
    rate = jnp.exp(w * x)  # <- grew
    return rate.mean()


def layers(w, x):
    h = x
    for _ in range(25):
        h = w @ h  # <- grew
    return 1e-10 * h.sum()


def recurrent(w, x):
    def round_(h, _):
        return jnp.tanh(20.0 * h) * w, None  # <- grew

    return lax.scan(round_, 0 * x, length=25)[0].sum()


def steep(w, x):
    y = w - x
    z = 1e20 * y  # <- grew
    return jnp.tanh(z * 1e2).sum()


FULL = jnp.full((3, 3), 10.0)
CASES = {
    "exp": (exponential, jnp.ones(2), jnp.array([60.0, 1.0])),
    "a product of layers": (layers, FULL, jnp.ones(3)),
    "a factor": (steep, jnp.ones(2), jnp.ones(2)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_line_at_which_it_grew(name):
    loss, params, x = CASES[name]
    report = stepped(loss)(params, x)
    assert report.source.startswith("updates, state = tx.update(")
    assert "The gradient exploded" in report.cause
    assert f"through line {line_of(loss, 'grew')}: " in report.cause
    assert "jax.tree.map(lambda g: jnp.clip(g, -1, 1), grads)" in report.advice
    assert report.tried.startswith("tried: all outputs and gradients are finite")


def test_within_a_loop():
    def loss(h, w):
        return lax.scan(lambda h, _: (10.0 * w * h, None), h, length=25)[0].sum()

    report = stepped(loss)(jnp.full(2, 1e-20), jnp.ones(2))
    assert "it grew most, by a factor of 1e+25," in report.cause
    assert "10.0 * w * h" in report.cause


def test_other_operations_of_an_optimizer():
    report = stepped(steep, optax.sgd(1e20))(jnp.ones(2), jnp.ones(2))
    assert "where the optimizer takes mul of it" in report.cause
    assert "The gradient exploded" in report.cause
    assert f"through line {line_of(steep, 'grew')}: " in report.cause


def test_of_a_model():
    model = vaelab.VAE((2, 2), 4, 2, rngs=nnx.Rngs(0, noise=1))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    def loss_fn(model, x):
        scaled = losses.elbo(model, x).loss.mean() / 10
        return 1e22 * scaled  # <- grew

    report = explain(vaelab.train_step, model, optimizer, jnp.zeros((3, 2, 2)), loss_fn)
    assert f"through line {line_of(loss_fn, 'grew')}: " in report.cause


def test_a_gradient_that_came_from_outside_grew_nowhere_here():
    tx = optax.adam(1e-3)
    grads = jnp.full(2, 1e25)

    def step(grads, state):
        return tx.update(grads, state)

    report = explain(step, grads, tx.init(grads))
    assert "The gradient exploded" in report.cause
    assert "grew most" not in report.cause
