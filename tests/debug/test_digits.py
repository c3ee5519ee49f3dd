"""The digits tutorial's failure is explained, and its advice holds."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

import vaelab
from vaelab.debug import explain


def textbook_loss(model, x):
    logits, mean, std = model(x)
    kl = 0.5 * jnp.mean(-jnp.log(std**2) - 1.0 + std**2 + mean**2)
    cross_entropy = optax.sigmoid_binary_cross_entropy(logits, x).mean()
    return cross_entropy + 0.1 * kl


@nnx.jit
def step(model, optimizer, x):
    loss, grads = nnx.value_and_grad(textbook_loss)(model, x)
    optimizer.update(model, grads)
    return loss


def new_state(log_std_bounds):
    model = vaelab.VAE(
        image_shape=(8, 8),
        hidden_size=32,
        latent_size=8,
        log_std_bounds=log_std_bounds,
        rngs=nnx.Rngs(0, noise=1),
    )
    return model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)


def pure_step(graphdef):
    """The step on arrays alone, much faster to call; nothing is donated."""

    @jax.jit
    def run(state, x):
        model, optimizer = nnx.merge(graphdef, state)
        loss = step(model, optimizer, x)
        new = nnx.state((model, optimizer))
        leaves = [x for x in jax.tree.leaves(new) if x.dtype == jnp.float32]
        finite = jnp.array([jnp.isfinite(leaf).all() for leaf in [loss, *leaves]])
        return loss, new, finite.all()

    return run


@pytest.fixture(scope="module")
def raw():
    images = load_digits().images.astype(np.float32)
    return jnp.array(images[np.random.default_rng(0).permutation(len(images))][:1347])


@pytest.fixture(scope="module")
def failure(raw):
    """The number of the failing step, its loss, and the report.

    Versions of XLA differ: in some log(std ** 2) is -inf first, and with it the loss;
    in others the loss is finite in that step, and its gradient is not.
    """
    graphdef, state = nnx.split(new_state(None))
    run = pure_step(graphdef)
    for number in range(300):
        loss, new, finite = run(state, raw)
        if not finite:
            model, optimizer = nnx.merge(graphdef, state)
            return number, loss, explain(step, model, optimizer, raw)
        state = new
    raise AssertionError("300 steps without a NaN")


def test_step_line_and_direction(failure):
    number, loss, report = failure
    lines, first = inspect.getsourcelines(textbook_loss)
    assert 140 <= number <= 200
    of_slope = ("backward", "inf", "div")
    of_loss = ("forward", "inf", "log")
    seen = (report.direction, report.kind, report.primitive)
    assert seen == (of_slope if np.isfinite(loss) else of_loss)
    assert report.file == __file__
    assert report.line == first + [i for i, s in enumerate(lines) if "kl = " in s][0]
    assert report.function == "textbook_loss"


def test_the_range_of_std_and_its_module(failure):
    *_, report = failure
    [std] = [
        a for a in report.line_inputs if a.origin.source == "std = jnp.exp(log_std)"
    ]
    assert std.origin.module == "encoder"
    assert std.origin.file.endswith("_dense.py")
    assert 0 < std.min < 1.1e-19 < std.max
    assert std.zeros == 0
    assert std.value**2 < np.finfo(np.float32).tiny


def test_the_chain_reaches_the_parameters(failure):
    _, loss, report = failure
    if not np.isfinite(loss):
        assert report.outputs == ("output",)
        return
    assert [link.kind for link in report.chain[:2]] == ["inf", "nan"]
    assert report.chain[1].module == "encoder.linear_std"
    assert report.chain[1].direction == "backward"
    assert "model.encoder.linear_std.kernel" in report.outputs
    assert report.inputs == ()


def test_cause_and_advice(failure):
    *_, report = failure
    assert "square underflows to 0 in float32" in report.cause
    assert "std lies between" in report.cause
    assert "module encoder" in report.cause
    assert "far below what a likelihood of data in [0, 1] can give" in report.cause
    assert "x lies in [0, 16]" in report.cause
    assert "2 * jnp.log(jnp.maximum(jnp.abs(std), " in report.advice
    assert "to [0, 1]" in report.advice
    assert report.tried == "tried: all outputs and gradients are finite"


def test_who_follows_the_advice_sees_no_nan(raw):
    graphdef, state = nnx.split(new_state((-10.0, 10.0)))
    run, x = pure_step(graphdef), raw / 16
    losses = []
    for _ in range(450):
        loss, state, finite = run(state, x)
        losses.append((loss, finite))
    assert all(finite for _, finite in losses)
    assert 0 < losses[-1][0] < losses[0][0]
