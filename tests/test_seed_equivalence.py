"""An independent oracle: the digits tutorial's own model and loss, written anew.

vaelab's VAE must compute what the classes below compute: the textbook's encoder with an
unbounded std, its decoder, its loss, and the training step that the tutorial takes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import losses


class TextbookVAE(nnx.Module):
    def __init__(self, pixels, hidden, latent, *, rngs):
        self.rngs = rngs
        self.enc = nnx.Linear(pixels, hidden, rngs=rngs)
        self.enc_mean = nnx.Linear(hidden, latent, rngs=rngs)
        self.enc_std = nnx.Linear(hidden, latent, rngs=rngs)
        self.dec = nnx.Linear(latent, hidden, rngs=rngs)
        self.dec_out = nnx.Linear(hidden, pixels, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.relu(self.enc(x.reshape(len(x), -1)))
        mean, std = self.enc_mean(h), jnp.exp(self.enc_std(h))
        z = mean + std * jax.random.normal(self.rngs.noise(), mean.shape)
        logits = self.dec_out(jax.nn.relu(self.dec(z)))
        return logits.reshape(x.shape), mean, std


def textbook_loss(model, x):
    logits, mean, std = model(x)
    kl = 0.5 * jnp.mean(-jnp.log(std**2) - 1.0 + std**2 + mean**2)
    return optax.sigmoid_binary_cross_entropy(logits, x).mean() + 0.1 * kl


@nnx.jit
def textbook_step(model, optimizer, x):
    loss, grads = nnx.value_and_grad(textbook_loss)(model, x)
    optimizer.update(model, grads)
    return loss


def textbook_vae():
    return TextbookVAE(64, 32, 8, rngs=nnx.Rngs(0, noise=1))


def vaelab_vae(log_std_bounds):
    return vaelab.VAE(
        (8, 8), 32, 8, log_std_bounds=log_std_bounds, rngs=nnx.Rngs(0, noise=1)
    )


def linear_layers(model):
    if isinstance(model, TextbookVAE):
        return [model.enc, model.enc_mean, model.enc_std, model.dec, model.dec_out]
    encoder, decoder = model.encoder, model.decoder
    return [
        encoder.hidden.layers[0],
        encoder.linear_mean,
        encoder.linear_std,
        decoder.hidden.layers[0],
        decoder.linear,
    ]


bounds = pytest.mark.parametrize("log_std_bounds", [None, (-10.0, 10.0)])


@bounds
def test_initial_parameters_are_equal(log_std_bounds):
    for expected, got in zip(
        linear_layers(textbook_vae()),
        linear_layers(vaelab_vae(log_std_bounds)),
        strict=True,
    ):
        np.testing.assert_array_equal(got.kernel[...], expected.kernel[...])
        np.testing.assert_array_equal(got.bias[...], expected.bias[...])


@bounds
def test_logits_mean_and_std_are_equal(digits, log_std_bounds):
    for expected, got in zip(
        textbook_vae()(digits.train),
        vaelab_vae(log_std_bounds)(digits.train),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@bounds
def test_the_loss_curve_is_equal_over_200_steps(digits, log_std_bounds):
    def curve(model, step):
        optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
        return np.array([step(model, optimizer, digits.train) for _ in range(200)])

    def vaelab_step(model, optimizer, x):
        return vaelab.train_step(model, optimizer, x, losses.mean_reduced_loss).loss

    np.testing.assert_allclose(
        curve(vaelab_vae(log_std_bounds), vaelab_step),
        curve(textbook_vae(), textbook_step),
        rtol=1e-4,
    )


@pytest.mark.slow
@pytest.mark.versions
def test_the_tutorial_ends_at_its_loss(digits):
    model = vaelab_vae(None)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    for _ in range(2001):
        terms = vaelab.train_step(
            model, optimizer, digits.train, losses.mean_reduced_loss
        )
    assert float(terms.loss) == pytest.approx(0.263, abs=0.001)
