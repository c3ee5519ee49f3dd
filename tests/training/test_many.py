"""Many models at once are what one after the other gives."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab


def make_model(seed):
    return vaelab.VAE((8, 8), 16, 3, rngs=nnx.Rngs(seed, noise=seed + 1))


def fit_many(images, **options):
    settings = {"seeds": [0, 5], "betas": [0.5, 2.0], "learning_rates": [1e-3, 4e-3]}
    settings |= {"epochs": 3, "batch_size": 50}
    return vaelab.fit_many(make_model, images, **(settings | options))


@pytest.mark.slow
def test_each_model_is_what_fit_gives(digits):
    images, held_out = digits.train[:200], digits.test[:30]
    result = fit_many(images, validation=held_out)
    models = result.unstack()
    assert result.history["loss"].shape == (8, 3)
    for i in (0, 7):
        alone = make_model(int(result.seeds[i]))
        history = vaelab.fit(
            alone,
            images,
            epochs=3,
            batch_size=50,
            optimizer=optax.adam(float(result.learning_rates[i])),
            beta=float(result.betas[i]),
            validation=held_out,
        ).history
        for name, values in history.items():
            np.testing.assert_allclose(result.history[name][i], values, rtol=1e-4)
        z = jax.random.normal(jax.random.key(0), (4, 3))
        np.testing.assert_allclose(
            models[i].generate(z), alone.generate(z), rtol=1e-2, atol=1e-4
        )
        assert int(models[i].rngs.noise.count[...]) == int(alone.rngs.noise.count[...])


@pytest.mark.slow
def test_unstacked_models_are_ordinary_ones(digits):
    models = fit_many(digits.train[:50], epochs=1).unstack()
    vaelab.fit(
        models[2],
        digits.train[:50],
        epochs=1,
        batch_size=50,
        optimizer=optax.adam(1e-3),
    )
    assert models[2].sample(2, key=jax.random.key(0)).shape == (2, 8, 8)


@pytest.mark.slow
def test_one_that_diverges_leaves_the_others_alone(digits):
    result = fit_many(digits.train[:100], learning_rates=[1e-3, 1e30], betas=[1.0])
    finite = np.isfinite(result.history["loss"]).all(axis=1)
    assert finite.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "seeds is empty"),
        ({"learning_rates": []}, "learning_rates is empty"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 500}, "batch_size is 500"),
    ],
)
def test_bad_grids_are_refused(digits, options, message):
    with pytest.raises(ValueError, match=message):
        fit_many(digits.train[:100], **options)


@pytest.mark.parametrize("name", ["seeds", "betas", "learning_rates"])
def test_a_single_number_is_no_grid(digits, name):
    with pytest.raises(TypeError, match=rf"{name} is 1: give a list, such as \[1\]"):
        fit_many(digits.train, **{name: 1})


@pytest.mark.parametrize("optimizer", [optax.adam(1e-3), 1e-3])
def test_an_optimizer_that_takes_no_rate_is_refused(digits, optimizer):
    with pytest.raises(TypeError, match="give a function from a learning rate"):
        fit_many(digits.train, optimizer=optimizer)


def test_what_makes_no_model_is_refused(digits):
    with pytest.raises(TypeError, match=r"make_model\(7\) is 7: give an NNX module"):
        vaelab.fit_many(
            lambda seed: seed,
            digits.train,
            seeds=[7],
            learning_rates=[1e-3],
            epochs=1,
            batch_size=50,
        )


@pytest.mark.slow
@pytest.mark.versions
def test_models_of_different_structures_are_refused(digits):
    def growing(seed):
        return vaelab.VAE((8, 8), 8 + seed, 3, rngs=nnx.Rngs(seed, noise=1))

    with pytest.raises(ValueError, match="different structures for different seeds"):
        vaelab.fit_many(
            growing,
            digits.train[:100],
            seeds=[0, 1],
            learning_rates=[1e-3],
            epochs=1,
            batch_size=50,
        )
