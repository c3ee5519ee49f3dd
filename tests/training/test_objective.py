"""What a loss is given and may return, in `train_step`, `fit` and `fit_many`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import losses
from vaelab.training._objective import fixed_and_traced, means, objective_of
from vaelab.training._program import Sum

ADAM = optax.adam(1e-3)
X = np.zeros((40, 2, 2), np.float32)
X[::2, 0] = 1


def new_vae(seed=0, **options):
    rngs = nnx.Rngs(seed, noise=seed + 1)
    return vaelab.VAE((2, 2), 4, 2, rngs=rngs, **options)


def fit(images=X, model=None, **options):
    settings = {"epochs": 2, "batch_size": 20, "optimizer": ADAM} | options
    return vaelab.fit(model or new_vae(), images, **settings).history


def test_what_a_partial_fixed_stays():
    bound = fit(loss_fn=partial(losses.elbo, beta=50.0))
    np.testing.assert_array_equal(bound["loss"], fit(beta=50.0)["loss"])
    assert bound["loss"][0] > fit()["loss"][0] + 0.05
    overridden = fit(loss_fn=partial(losses.elbo, beta=50.0), beta=1.0)
    np.testing.assert_allclose(overridden["loss"], fit()["loss"], rtol=1e-6)


def test_a_losss_own_default_stays():
    def heavy(model, x, beta=50.0):
        return losses.elbo(model, x, beta=beta)

    np.testing.assert_allclose(
        fit(loss_fn=heavy)["loss"], fit(beta=50.0)["loss"], rtol=1e-6
    )


def test_many_models_leave_a_partials_beta_alone():
    result = vaelab.fit_many(
        new_vae,
        X,
        seeds=[0],
        learning_rates=[1e-3],
        epochs=2,
        batch_size=20,
        loss_fn=partial(losses.elbo, beta=50.0),
    )
    assert result.betas.tolist() == [50.0]
    np.testing.assert_allclose(
        result.history["loss"][0], fit(beta=50.0)["loss"], rtol=1e-5
    )


def test_knobs_are_arguments_of_the_loss_as_numbers_or_schedules():
    given = fit(knobs={"beta": 2.0, "free_bits": 0.5})
    bound = fit(loss_fn=partial(losses.elbo, beta=2.0, free_bits=0.5))
    np.testing.assert_allclose(given["loss"], bound["loss"], rtol=1e-6)
    rising = fit(knobs={"beta": losses.kl_warmup(4)}, epochs=1, batch_size=40)
    np.testing.assert_allclose(rising["loss"], rising["reconstruction"], rtol=1e-6)


def test_a_float_compiles_nothing_anew_and_a_size_does():
    def loss(model, x, *, num_samples=1, scale=1.0):
        loss.traces += 1
        return scale * losses.iwae_loss(model, x, num_samples=num_samples).loss

    loss.traces = 0
    for scale in (1.0, 2.0, 3):
        fit(loss_fn=loss, knobs={"scale": scale})
    once = loss.traces
    fit(loss_fn=loss, knobs={"num_samples": 2})
    assert loss.traces == 2 * once


def test_a_step_takes_free_bits_sizes_and_keys():
    model = new_vae()
    optimizer = nnx.Optimizer(model, optax.sgd(0.0), wrt=nnx.Param)
    key = jax.random.key(3)
    step = partial(vaelab.train_step, model, optimizer, X, key=key)
    exact = losses.elbo(model, X, free_bits=0.5, key=key)
    np.testing.assert_allclose(step(free_bits=0.5).loss, exact.loss.mean(), rtol=1e-6)
    plain = losses.elbo(model, X, key=key)
    np.testing.assert_allclose(step(free_bits=0.0).loss, plain.loss.mean(), rtol=1e-6)
    tight = losses.iwae_loss(model, X, num_samples=3, key=key)
    got = step(losses.iwae_loss, num_samples=3)
    np.testing.assert_allclose(got.loss, tight.loss.mean(), rtol=1e-6)


def test_a_required_key_is_another_one_at_each_step_and_in_training_too():
    keys = []

    def loss(model, x, *, key):
        jax.debug.callback(
            lambda data: keys.append(tuple(data.tolist())), jax.random.key_data(key)
        )
        return losses.elbo(model, x, key=key)

    fit(loss_fn=loss, validation=X)
    jax.effects_barrier()
    assert len(keys) == 6  # four steps, and the same key for each validation
    assert len(set(keys)) == 5
    model = new_vae()
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    keys.clear()
    for _ in range(2):
        vaelab.train_step(model, optimizer, X, loss)
    jax.effects_barrier()
    assert len(set(keys)) == 2


def with_metrics(model, x):
    terms = losses.elbo(model, x)
    return terms, {"bright": x.mean(axis=(1, 2)) > 0.25, "constant": 3}


def plain_with_metrics(model, x):
    loss, metrics = with_metrics(model, x)
    return loss.loss, metrics


def as_dictionary(model, x):
    loss, metrics = plain_with_metrics(model, x)
    return {"loss": loss, **metrics}


@pytest.mark.parametrize("loss", [with_metrics, plain_with_metrics, as_dictionary])
def test_metrics_beside_a_loss_are_recorded(loss):
    history = fit(loss_fn=loss, validation=X)
    np.testing.assert_allclose(history["bright"], [0.5, 0.5], atol=0.2)
    assert history["validation_bright"].tolist() == [0.5, 0.5]
    assert history["constant"].tolist() == [3, 3]
    assert ("elbo" in history) == (loss is with_metrics)
    model = new_vae()
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    returned = vaelab.train_step(model, optimizer, X, loss)
    if loss is as_dictionary:
        assert returned["bright"] == 0.5
        assert returned["loss"].shape == ()
    else:
        assert returned[1]["bright"] == 0.5


def test_any_loss_that_trains_validates_with_the_same_noise_each_epoch():
    def calls_the_model(model, x):
        logits, mean, std = model(x)
        nll = model.likelihood.nll(logits, x)
        return nll + losses.kl_standard_normal(mean, std).sum(axis=-1)

    still = {"optimizer": optax.sgd(0.0), "epochs": 3, "loss_fn": calls_the_model}
    model = new_vae(dropout=0.5)
    history = fit(model=model, validation=X, **still)
    assert len(set(history["validation_loss"].tolist())) == 1
    assert len(set(history["loss"].tolist())) == 3
    alone = fit(model=new_vae(dropout=0.5), **still)
    np.testing.assert_array_equal(history["loss"], alone["loss"])
    view = vaelab.models.evaluation_view(model)
    expected = [float(losses.elbo(view, X).loss.mean()) for _ in range(200)]
    error = np.std(expected)
    assert abs(history["validation_loss"][0] - np.mean(expected)) < 5 * error


def test_many_models_validate_such_a_loss_too():
    def calls_the_model(model, x):
        return model.likelihood.nll(model(x).logits, x)

    result = vaelab.fit_many(
        new_vae,
        X,
        seeds=[0, 1],
        learning_rates=[0.0],
        optimizer=optax.sgd,
        epochs=2,
        batch_size=20,
        loss_fn=calls_the_model,
        validation=X,
    )
    validated = result.history["validation_loss"]
    np.testing.assert_array_equal(validated[:, 0], validated[:, 1])
    assert validated[0, 0] != validated[1, 0]


def test_a_transform_may_see_the_step():
    seen = []

    def transform(key, batch, step):
        jax.debug.callback(lambda step: seen.append(int(step)), step)
        return jax.lax.cond(step < 2, lambda: jnp.zeros_like(batch), lambda: batch)

    fit(transform=transform)
    jax.effects_barrier()
    assert sorted(set(seen)) == [0, 1, 2, 3]


def test_the_mean_of_many_losses_is_exact():
    def constant(model, x):
        return jnp.float32(540.3) + 0 * losses.elbo(model, x[:2]).loss.mean()

    history = fit(
        np.zeros((60_000, 2, 2), np.float32),
        batch_size=2,
        epochs=1,
        loss_fn=constant,
        validation=np.zeros((60_000, 2, 2), np.float32),
    )
    exact = float(np.float32(540.3))
    np.testing.assert_allclose(history["loss"], exact, rtol=1e-7)
    np.testing.assert_allclose(history["validation_loss"], exact, rtol=1e-6)


def test_a_sum_that_loses_no_digits_keeps_infinity():
    values = np.array([1e8, 1.0, -1e8, 0.25], np.float32)
    total = Sum.zeros()
    for value in values:
        total = total.plus(value)
    assert total.value() == 1.25
    with np.errstate(invalid="ignore"):
        assert Sum.zeros().plus(np.float32(np.inf)).value() == np.inf


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, "the loss of mine is a NoneType: return a number"),
        ((1.0, 2.0), TypeError, "mine returned a tuple of float, float"),
        ({"nll": 1.0}, ValueError, 'a dictionary of nll: one entry must be "loss"'),
        ((1.0, {"loss": 2.0}), ValueError, "the metrics of mine contain loss"),
        (np.ones((3, 1)), ValueError, r"the loss of mine has shape \(3, 1\)"),
        ((1.0, {"a": np.ones((3, 2))}), ValueError, r"a of mine has shape \(3, 2\)"),
        (1j, TypeError, "the loss of mine is complex"),
    ],
)
def test_what_a_loss_may_not_return(result, error, message):
    with pytest.raises(error, match=message):
        means(result, "mine")


def test_sizes_are_of_the_program_and_floats_of_the_call():
    given = {"num_samples": 5, "beta": 2, "free_bits": 0.5, "name": "a", "flag": True}

    def loss(model, x, num_samples, beta=1.0, free_bits=0.0, name="", flag=False):
        return 0.0

    fixed, traced = fixed_and_traced(loss, given)
    assert fixed == {"num_samples": 5, "name": "a", "flag": True}
    assert traced == {"beta": 2.0, "free_bits": 0.5}
    objective, numbers = objective_of(loss, {"beta": lambda step: step})
    assert numbers == {}
    assert objective.arguments(3, {}) == {"beta": 3.0}


def never(model, x, *, beta=1.0, free_bits=0.0):
    raise AssertionError("traced")


LABELLED = X, np.zeros(40, np.int32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": vaelab.data.ImageData(X, X)}, TypeError, "as in images=digits.tr"),
        ({"images": None}, TypeError, "images is None: give an array"),
        ({"images": "digits"}, TypeError, "images is 'digits': give an array"),
        (
            {"images": LABELLED, "validation": X},
            TypeError,
            "validation is an array, but the loss is given a tuple of 2",
        ),
        (
            {"validation": LABELLED},
            TypeError,
            "validation is a tuple of 2, but the loss is given an array",
        ),
        ({"loss_fn": lambda model: 0.0}, TypeError, r"be called as \(model, batch\)"),
        (
            {"loss_fn": losses.beta_tc_loss},
            TypeError,
            "loss_fn beta_tc_loss .* 'dataset_size'; bind its other arguments",
        ),
        ({"loss_fn": new_vae()}, TypeError, "loss_fn is a VAE: give a function"),
        ({"transform": lambda x: x}, TypeError, r"transform .* as \(key, batch\)"),
        ({"transform": lambda k, x: None}, TypeError, "transform .* returned None"),
        ({"transform": "warp"}, TypeError, "transform is 'warp': give a function"),
        ({"beta": lambda: 1.0}, TypeError, "beta is <lambda>, which fails"),
        ({"beta": lambda step: (step, 1)}, TypeError, "beta is <lambda>, which gives"),
        ({"beta": 1.0, "knobs": {"beta": 2.0}}, ValueError, "give one of them"),
        ({"knobs": {"free_bits": np.nan}}, ValueError, "free_bits is nan"),
        ({"knobs": {"bta": 1.0}}, ValueError, "bta is 1.0, but loss_fn never has no"),
        ({"knobs": [1.0]}, TypeError, r"knobs is \[1.0\]: give a dictionary"),
        ({"knobs": {"key": 1.0}}, ValueError, "knobs has a key: leave it out"),
        ({"seed": None}, TypeError, "seed is None: give a whole number"),
        ({"guard": "no"}, TypeError, "guard is 'no': give True or False"),
    ],
)
def test_refusals_of_a_run(options, error, message):
    with pytest.raises(error, match=message):
        fit(**({"loss_fn": never} | options))


def test_refusals_of_many_models_and_of_a_step():
    with pytest.raises(TypeError, match="make_model is a VAE: give a function"):
        vaelab.fit_many(
            new_vae(), X, seeds=[0], learning_rates=[0.1], epochs=1, batch_size=4
        )
    model = new_vae()
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    with pytest.raises(TypeError, match="loss_fn is 'elbo': give a function"):
        vaelab.train_step(model, optimizer, X, "elbo")
    with pytest.raises(ValueError, match="loss_fn elbo has no argument bta"):
        vaelab.train_step(model, optimizer, X, bta=1.0)
    with pytest.raises(TypeError, match="optimizer asks for value_fn"):
        fit(optimizer=optax.lbfgs())
