import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab.models import evaluation_view

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
    np.testing.assert_allclose(bounded.max(), np.exp(10.0), rtol=1e-5)
    np.testing.assert_allclose(bounded.min(), np.exp(-10.0), rtol=1e-5)
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

    model = vae((8, 8), 16, 4, likelihood=Pair())
    assert model.decode(jnp.zeros((3, 4))).shape == (3, 8, 8, 2)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((5, 64), "reshape x"),
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
        (((8, 8), 0, 8), {}, r"hidden_size\[0\] is 0"),
        (((8, 8), (32, -1), 8), {}, r"hidden_size\[1\] is -1"),
        (((8, 8), 32, 2.5), {}, "latent_size is 2.5"),
        (((8, 8), 32, 8), {"dropout": 1.0}, "dropout is 1.0"),
        (((8, 8), 32, 8), {"log_std_bounds": (2.0, -2.0)}, "log_std_bounds is"),
    ],
)
def test_impossible_models_are_refused(args, options, message):
    with pytest.raises(ValueError, match=message):
        vae(*args, **options)
