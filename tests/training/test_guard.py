"""The flight recorder inside of `fit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import losses
from vaelab.debug import NonFiniteError

ADAM = optax.adam(1e-3)


def new_vae(**options):
    return vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1), **options)


def arrays(model):
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


class Fuse(nnx.Module):
    """Counts calls, and blows in a given one."""

    def __init__(self, limit):
        self.limit = limit
        self.calls = nnx.Variable(jnp.int32(0))

    def __call__(self, x):
        calls = self.calls[...]
        self.calls[...] = calls + 1
        return x * jnp.log(jnp.where(calls == self.limit, -1.0, 1.0) + 0.0 * x + 1e-9)


def fused_loss(model, x):
    terms = losses.elbo(model, x)
    return terms.loss + model.fuse(terms.loss)


def with_fuse(limit):
    model = new_vae()
    model.fuse = Fuse(limit)
    return model


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(0, marks=pytest.mark.slow),
        20,
        pytest.param(65, marks=pytest.mark.slow),
    ],
)
def test_the_exact_step_is_named_and_the_model_is_as_before_it(digits, limit):
    x, options = digits.train[:160], {"batch_size": 8, "optimizer": ADAM}
    model = with_fuse(limit)
    with pytest.raises(NonFiniteError, match=f"step {limit} is the first") as caught:
        vaelab.fit(model, x, epochs=5, loss_fn=fused_loss, **options)
    assert caught.value.step == limit
    report = caught.value.report
    assert report.primitive == "log"
    assert "jnp.log(jnp.where(calls == self.limit" in report.source
    assert report.module == "fuse"
    result = caught.value.result
    assert result.stopped_by == "non-finite"
    assert result.epochs == limit // 20
    assert all(len(values) == limit // 20 for values in result.history.values())
    assert int(model.fuse.calls[...]) == limit
    assert all(np.isfinite(leaf).all() for leaf in arrays(model))


def test_it_changes_no_bit(digits):
    def trained(guard):
        model = new_vae()
        vaelab.fit(
            model, digits.train, epochs=3, batch_size=64, optimizer=ADAM, guard=guard
        )
        return arrays(model)

    for a, b in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_parameter_that_overflows_is_seen_though_the_loss_is_finite(digits):
    growth = optax.scale_by_schedule(lambda step: jnp.where(step == 3, jnp.inf, 1.0))
    model = new_vae()
    with pytest.raises(NonFiniteError) as caught:
        vaelab.fit(
            model,
            digits.train,
            epochs=1,
            batch_size=64,
            optimizer=optax.chain(ADAM, growth),
        )
    assert caught.value.step == 3
    assert all(np.isfinite(leaf).all() for leaf in arrays(model))


@pytest.mark.slow
@pytest.mark.versions
def test_state_that_is_infinite_on_purpose_is_left_alone(digits):
    plateau = optax.chain(ADAM, optax.contrib.reduce_on_plateau())  # starts at best=inf
    result = vaelab.fit(
        new_vae(), digits.train, epochs=2, batch_size=64, optimizer=plateau
    )
    assert result.stopped_by == "epochs"


def test_without_it_a_nan_goes_on(digits):
    result = vaelab.fit(
        with_fuse(3),
        digits.train[:64],
        epochs=2,
        batch_size=8,
        optimizer=ADAM,
        loss_fn=fused_loss,
        guard=False,
    )
    assert np.isnan(result.history["loss"]).all()


@pytest.mark.slow
def test_the_digits_failure_is_explained_in_full():
    """The tutorial's raw digits, without bounds on log std."""
    from sklearn.datasets import load_digits

    raw = load_digits().images.astype(np.float32)[:1347]

    def textbook_loss(model, x):
        logits, mean, std = model(x)
        bce = optax.sigmoid_binary_cross_entropy(logits, x).mean()
        kl = -0.5 * jnp.mean(1 + jnp.log(std**2) - mean**2 - std**2)
        return bce + 0.1 * kl

    class Anything:
        outputs_per_pixel = 1
        nll = mean = sample = None

        def check(self, x, name="images"):
            pass

    model = vaelab.VAE(
        (8, 8),
        32,
        8,
        likelihood=Anything(),
        log_std_bounds=None,
        rngs=nnx.Rngs(0, noise=1),
    )
    with pytest.raises(NonFiniteError) as caught:
        vaelab.fit(
            model,
            raw,
            epochs=500,
            batch_size=len(raw),
            optimizer=optax.adam(1e-3),
            loss_fn=textbook_loss,
        )
    report = caught.value.report
    assert 150 < caught.value.step < 200
    assert "jnp.log(std**2)" in report.source
    assert report.direction == "backward"
    assert "underflow" in report.cause
