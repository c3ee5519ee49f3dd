import copy
import inspect
from pickle import dumps, loads

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab.models import evaluation_view
from vaelab.models._description import build, description

X = jax.random.uniform(jax.random.key(0), (5, 8, 8))


def vae(*args, **options):
    rngs = nnx.Rngs(0, noise=1)
    return vaelab.VAE(*(args or ((8, 8), 32, 8)), rngs=rngs, **options)


def counts(model):
    return jax.tree.map(int, nnx.to_pure_dict(nnx.state(model.rngs, nnx.RngCount)))


def dropout_layer(model):
    return model.encoder.hidden.layers[2]


def test_calling_gives_named_results_in_the_tutorials_order():
    model = vae()
    output = model(X)
    logits, mean, std = output
    assert logits is output.logits
    assert logits.shape == (5, 8, 8)
    assert mean.shape == std.shape == (5, 8)
    z, mean, std = model.encoder(X.reshape(5, 64))
    assert z.shape == mean.shape == std.shape == (5, 8)


def test_calling_draws_from_the_noise_stream_alone():
    model = vae()
    before = counts(model)
    first, second = model(X), model(X)
    after = counts(model)
    assert (first.logits != second.logits).any()
    np.testing.assert_array_equal(first.mean, second.mean)
    assert after["noise"]["count"] == before["noise"]["count"] + 2
    assert after["default"] == before["default"]
    assert model.encoder.rngs is model.rngs


def test_what_is_deterministic_is_deterministic():
    model = vae(dropout=0.0)
    before = counts(model)
    np.testing.assert_array_equal(model.reconstruct(X), model.reconstruct(X))
    expected = jax.nn.sigmoid(model.decode(model.encode(X).mean))
    np.testing.assert_array_equal(model.reconstruct(X), expected)
    z = jax.random.normal(jax.random.key(1), (3, 8))
    np.testing.assert_array_equal(
        model.generate(z), model.likelihood.mean(model.decode(z))
    )
    assert counts(model) == before


def test_samples_depend_on_the_key_alone():
    model, key = vae(), jax.random.key(7)
    grey = model.sample(4, key=key)
    np.testing.assert_array_equal(grey, model.sample(4, key=key))
    assert grey.shape == (4, 8, 8)
    assert set(np.unique(model.sample(4, key=key, draw_pixels=True))) == {0.0, 1.0}


@pytest.mark.slow
def test_the_activation_is_that_of_every_hidden_layer():
    """With the identity both parts are affine: f(a) + f(b) = f(a + b) + f(0)."""
    model = vae((8, 8), (32, 16), 8, activation=lambda h: h)
    for f, shape in (
        (lambda x: model.encode(x).mean, (2, 5, 8, 8)),
        (model.decode, (2, 5, 8)),
    ):
        a, b = jax.random.normal(jax.random.key(2), shape)
        np.testing.assert_allclose(f(a) + f(b), f(a + b) + f(0 * a), atol=1e-4)


def test_dropout_is_off_where_a_picture_is_made_and_on_in_training():
    model = vae(dropout=0.5)
    before = counts(model)
    np.testing.assert_array_equal(model.reconstruct(X), model.reconstruct(X))
    np.testing.assert_array_equal(
        model.sample(2, key=jax.random.key(0)), model.sample(2, key=jax.random.key(0))
    )
    assert counts(model) == before
    assert not dropout_layer(model).deterministic
    assert (model.encode(X).mean != model.encode(X).mean).any()


def test_the_evaluation_view_shares_parameters():
    model = vae(dropout=0.5)
    view = evaluation_view(model)
    assert view.encoder.linear_mean.kernel[...] is model.encoder.linear_mean.kernel[...]


def test_log_std_is_bounded_by_default_and_not_by_request():
    def std_of_large_inputs(bounds):
        return vae(log_std_bounds=bounds).encode(X * 1e4).std

    bounded = std_of_large_inputs((-10.0, 10.0))
    np.testing.assert_allclose(bounded.max(), np.exp(10.0), rtol=1e-3)
    np.testing.assert_allclose(bounded.min(), np.exp(-10.0), rtol=1e-3)
    unbounded = std_of_large_inputs(None)
    assert np.isinf(unbounded).any()
    assert (unbounded == 0).any()


@pytest.mark.parametrize(
    ("hidden_size", "layers"), [((), []), (16, [16]), ((32, 16), [32, 16])]
)
def test_hidden_size_is_a_width_or_one_for_each_layer(hidden_size, layers):
    model = vae((8, 8), hidden_size, 3)

    def widths(part):
        hidden = part.hidden.layers
        return [layer.out_features for layer in hidden if isinstance(layer, nnx.Linear)]

    assert widths(model.encoder) == layers
    assert widths(model.decoder) == layers[::-1]
    assert model(X).logits.shape == (5, 8, 8)


def test_a_model_without_hidden_layers_is_linear():
    decode = vae((8, 8), (), 3).decode
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 3))
    zero = decode(jnp.zeros((4, 3)))
    np.testing.assert_allclose(decode(a + b) + zero, decode(a) + decode(b), atol=1e-5)


def test_mixed_precision_multiplies_in_bfloat16_between_float32_ends():
    model = vae((8, 8), (32, 16), 8, dtype=jnp.bfloat16)
    parameters = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert {leaf.dtype for leaf in parameters} == {jnp.dtype("float32")}
    assert {value.dtype for value in model(X)} == {jnp.dtype("float32")}
    assert {value.dtype for value in vaelab.elbo(model, X)} == {jnp.dtype("float32")}

    forward = jax.make_jaxpr(lambda x: model.decode(model.encode(x).mean))(X)
    products = [e for e in forward.eqns if e.primitive.name == "dot_general"]
    types = {v.aval.dtype for e in products for v in (*e.invars, *e.outvars)}
    assert len(products) == 7
    assert types == {jnp.dtype("bfloat16")}


@pytest.mark.slow
@pytest.mark.versions
def test_mixed_precision_is_close_and_trains():
    exact, mixed = vae(), vae(dtype=jnp.bfloat16)
    key = jax.random.key(3)
    expected = vaelab.elbo(exact, X, key=key).elbo
    np.testing.assert_allclose(
        vaelab.elbo(mixed, X, key=key).elbo, expected, rtol=2**-8
    )
    optimizer = nnx.Optimizer(mixed, optax.adam(1e-2), wrt=nnx.Param)
    losses = [float(vaelab.train_step(mixed, optimizer, X).loss) for _ in range(20)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert mixed.encoder.linear_mean.kernel[...].dtype == jnp.float32


def test_parts_of_ones_own():
    class ColumnEncoder(nnx.Module):
        latent_size = 4

        def __init__(self, rngs):
            self.linear = nnx.Linear(8, 4, rngs=rngs)

        def posterior(self, x):
            mean = self.linear(x.mean(axis=1))
            return vaelab.Posterior(mean, jnp.ones_like(mean))

    rngs = nnx.Rngs(0, noise=1)
    decoder = vaelab.Decoder(4, 16, 64, rngs=rngs)
    model = vaelab.VAE.from_parts(
        ColumnEncoder(rngs), decoder, image_shape=(8, 8), rngs=rngs
    )
    assert model.latent_size == 4
    assert model.rngs is rngs
    assert model(X).logits.shape == (5, 8, 8)
    parameters = nnx.state(model, nnx.Param)
    assert set(parameters) == {"encoder", "decoder"}
    assert vaelab.elbo(model, X).loss.shape == (5,)


def test_a_likelihood_with_several_outputs_per_pixel_ends_the_logits():
    class Pair:
        outputs_per_pixel = 2
        nll = mean = sample = check = None

    model = vae((8, 8), 16, 4, likelihood=Pair())
    assert model.decode(jnp.zeros((3, 4))).shape == (3, 8, 8, 2)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((5, 64), r"write x.reshape\(-1, 8, 8\)"),
        ((8, 8), r"write x\[None\]"),
        ((5, 9, 9), r"image_shape=\(9, 9\)"),
    ],
)
def test_images_of_another_shape_are_refused(shape, advice):
    with pytest.raises(
        ValueError, match=rf"x has shape .*takes \(batch, 8, 8\).*{advice}"
    ):
        vae()(jnp.zeros(shape))


@pytest.mark.parametrize("shape", [(8,), (5, 7), (5, 8, 1)])
def test_latents_of_another_shape_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"z has shape .*this model takes \(batch, 8\)"
    ):
        vae().generate(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (((8, 0), 32, 8), {}, r"image_shape\[1\] is 0"),
        (((8, 8), 0, 8), {}, "hidden_size is 0"),
        (((8, 8), (32, -1), 8), {}, r"hidden_size\[1\] is -1"),
        (((8, 8), 32, 2.5), {}, "latent_size is 2.5"),
        (((8, 8), 32, 8), {"dropout": 1.0}, "dropout is 1.0"),
        (((8, 8), 32, 8), {"log_std_bounds": (2.0, -2.0)}, "log_std_bounds is"),
    ],
)
def test_impossible_models_are_refused(args, options, message):
    with pytest.raises(ValueError, match=message):
        vae(*args, **options)


@pytest.mark.parametrize("log_std", [-40.0, 40.0])
def test_a_posterior_at_its_bound_comes_back(log_std):
    model = vae((2, 2), 4, 2)
    model.encoder.linear_std.bias[...] = jnp.full(2, log_std)
    x = jnp.zeros((8, 2, 2))
    optimizer = nnx.Optimizer(model, optax.adam(0.5), wrt=nnx.Param)
    first = vaelab.train_step(model, optimizer, x)
    for _ in range(150):
        last = vaelab.train_step(model, optimizer, x)
    assert first.kl.sum() > 10
    assert last.kl.sum() < 1


def test_a_signature_is_that_of_the_constructor():
    class Mine(vaelab.VAE):
        def __init__(self, rngs):
            super().__init__((2, 2), 4, 2, rngs=rngs)

    asked = ["image_shape", "hidden_size", "latent_size", "likelihood"]
    assert list(inspect.signature(vaelab.VAE).parameters)[:4] == asked
    assert "input_size" in inspect.signature(vaelab.Encoder).parameters
    assert "output_size" in inspect.signature(vaelab.Decoder).parameters
    assert list(inspect.signature(Mine).parameters) == ["rngs"]
    assert list(inspect.signature(Mine(nnx.Rngs(0))).parameters) == ["x"]


def test_a_model_is_shown_in_a_line():
    model = vae((2, 2), 4, 2, likelihood=vaelab.likelihoods.Gaussian(0.5))
    size = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert repr(model) == (
        "VAE(image_shape=(2, 2), latent_size=2, likelihood=Gaussian(std=0.5), "
        f"{size} parameters)"
    )
    assert "Gaussian(std=0.5)" in model._repr_html_()


def test_a_vector_is_an_image_of_one_axis():
    model = vae((30,), 8, 2, likelihood=vaelab.likelihoods.Gaussian())
    x = jnp.zeros((5, 30))
    assert model(x).logits.shape == model.reconstruct(x).shape == (5, 30)
    assert model.sample(3, key=jax.random.key(0)).shape == (3, 30)
    with pytest.raises(ValueError, match=r"this model takes \(batch, 30\)"):
        model.encode(x.reshape(5, 5, 6))


class TestPickle:
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: loads(dumps(m))])
    def test_a_model_comes_back_as_it_was(self, copied):
        rngs = nnx.Rngs(jax.random.key(0, impl="rbg"), noise=1)
        model = vaelab.VAE((2, 2), (4, 3), 2, dropout=0.5, rngs=rngs)
        model(jnp.zeros((1, 2, 2)))  # draws
        model.eval()
        again = copied(model)
        assert type(again) is vaelab.VAE
        assert dropout_layer(again).deterministic
        x = jnp.ones((3, 2, 2))
        for a, b in zip(model(x), again(x), strict=True):  # the same noise, too
            np.testing.assert_array_equal(a, b)

    def test_a_learned_likelihood_is_a_part_of_it(self):
        likelihood = vaelab.likelihoods.LearnedGaussian(0.3)
        model = vae((2, 2), 4, 2, likelihood=likelihood)
        likelihood.log_std[...] = jnp.float32(-2.0)
        assert loads(dumps(model)).likelihood.log_std[...] == -2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "jit"}, "activation is 'jit': a saved model has one of"),
        ({"class": "os"}, "class is 'os', not VAE"),
        ({"likelihood": {"class": "Likelihood"}}, "likelihood is 'Likelihood', none"),
        ({"likelihood": {"class": "Gaussian", "std": -1}}, "std is -1"),
        ({"dtype": "object"}, "dtype is 'object': give a floating-point type"),
        ({"dropout": 2.0}, r"dropout is 2.0: give a number in \[0, 1\)"),
        ({"streams": ["params", "import os"]}, "streams is .* no list of names"),
        ({"image_shape": [2, 3]}, "the description of the model is not valid"),
        ({"training": 1}, "training is 1: give True or False"),
        ({"more": 1}, "the model has .*more.*, where"),
    ],
)
def test_a_description_from_a_file_is_not_trusted(changes, message):
    described = description(vae((2, 2), 4, 2))
    assert build(described).latent_size == 2
    with pytest.raises(ValueError, match=message):
        build(described | changes)
