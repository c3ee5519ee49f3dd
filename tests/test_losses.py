import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import integrate, stats

import vaelab
from vaelab import losses


@pytest.fixture
def vae():
    return vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))


def noise_count(model):
    return int(model.rngs.noise.count[...])


@pytest.mark.parametrize(
    ("mean", "std", "kl"),
    [
        (0.0, 1.0, 0.0),
        (1.0, 1.0, 0.5),
        (0.0, 2.0, 0.5 * (4 - 1 - 2 * np.log(2))),
        (-3.0, 0.5, 0.5 * (9 + 0.25 - 1 + 2 * np.log(2))),
        (0.0, 1e-20, 0.5 * (-1 + 40 * np.log(10))),  # std ** 2 underflows in float32
    ],
)
def test_kl_has_its_closed_form(mean, std, kl):
    got = losses.kl_standard_normal(jnp.float32(mean), jnp.float32(std))
    assert float(got) == pytest.approx(kl, rel=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.7), (-1.2, 1.9)])
def test_kl_is_the_integral_that_defines_it(mean, std):
    q, prior = stats.norm(mean, std), stats.norm()
    integral, _ = integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - prior.logpdf(z)), -30, 30, points=[0.0]
    )
    got = losses.kl_standard_normal(jnp.float32(mean), jnp.float32(std))
    assert float(got) == pytest.approx(integral, rel=1e-5)


@given(
    mean=st.floats(-1e4, 1e4, width=32),
    std=st.floats(2.0**-100, 2.0**33, width=32),
)
@settings(max_examples=200, deadline=None)
def test_kl_and_its_gradient_are_finite_and_never_negative(mean, std):
    value, gradient = jax.value_and_grad(losses.kl_standard_normal, argnums=(0, 1))(
        jnp.float32(mean), jnp.float32(std)
    )
    assert np.isfinite([value, *gradient]).all()
    assert value >= -1e-6


@pytest.mark.slow
def test_kl_passes_check_grads():
    mean = jax.random.normal(jax.random.key(0), (3, 4))
    std = jnp.exp(0.5 * jax.random.normal(jax.random.key(1), (3, 4)))
    check_grads(losses.kl_standard_normal, (mean, std), order=2, rtol=2e-2)


def test_elbo_is_its_equation(vae, digits):
    x, key = digits.train[:16], jax.random.key(3)
    mean, std = vae.encode(x)
    logits = vae.decode(mean + std * jax.random.normal(key, mean.shape))
    p = jax.nn.sigmoid(logits)
    log_likelihood = jnp.log(jnp.where(x == 1, p, 1 - p)).sum((1, 2))
    kl = (0.5 * (mean**2 + std**2 - 1) - jnp.log(std)).sum(1)
    terms = losses.elbo(vae, x, key=key, beta=3.0)
    np.testing.assert_allclose(terms.reconstruction, -log_likelihood, rtol=1e-5)
    np.testing.assert_allclose(terms.kl.sum(1), kl, rtol=1e-5)
    np.testing.assert_allclose(terms.elbo, log_likelihood - kl, rtol=1e-5)
    np.testing.assert_allclose(terms.loss, -log_likelihood + 3 * kl, rtol=1e-5)


def test_each_example_has_its_own_terms(vae, digits):
    terms = losses.elbo(vae, digits.train[:5])
    assert terms.loss.shape == terms.elbo.shape == terms.reconstruction.shape == (5,)
    assert terms.kl.shape == (5, 8)


def test_free_bits_floor_the_batch_mean_of_each_dimension(vae, digits):
    x, key, floor = digits.train[:64], jax.random.key(0), 0.05
    plain = losses.elbo(vae, x, key=key)
    free = losses.elbo(vae, x, key=key, beta=2.0, free_bits=floor)
    per_dim = plain.kl.mean(0)
    assert (per_dim < floor).any()
    assert (per_dim > floor).any()
    regulariser = np.maximum(floor, per_dim).sum()
    np.testing.assert_allclose(free.loss, plain.reconstruction + 2 * regulariser, 1e-5)
    np.testing.assert_array_equal(free.elbo, plain.elbo)


def test_mean_reduced_loss_is_a_beta_elbo_in_other_units(vae, digits):
    x, key = digits.train[:32], jax.random.key(1)
    beta = losses.effective_beta(0.1, num_pixels=64, latent_size=8)
    assert beta == pytest.approx(0.8)
    tutorial = losses.mean_reduced_loss(vae, x, kl_weight=0.1, key=key)
    weighted = losses.elbo(vae, x, key=key, beta=beta)
    np.testing.assert_allclose(64 * tutorial.loss, weighted.loss, rtol=1e-5)
    np.testing.assert_array_equal(tutorial.elbo, weighted.elbo)


@pytest.mark.parametrize(("pixels", "latent"), [(0, 8), (64, 0), (-1, -1)])
def test_effective_beta_refuses_sizes_that_are_none(pixels, latent):
    with pytest.raises(ValueError, match="give a positive integer"):
        losses.effective_beta(0.1, pixels, latent)


@pytest.mark.parametrize("loss", [losses.elbo, losses.mean_reduced_loss])
def test_a_key_leaves_the_models_noise_alone(vae, digits, loss):
    before = noise_count(vae)
    with_key = loss(vae, digits.train[:4], key=jax.random.key(0))
    assert noise_count(vae) == before
    loss(vae, digits.train[:4])
    assert noise_count(vae) == before + 1
    again = loss(vae, digits.train[:4], key=jax.random.key(0))
    np.testing.assert_array_equal(with_key.loss, again.loss)


@pytest.mark.parametrize("loss", [losses.elbo, losses.mean_reduced_loss])
def test_losses_pass_check_grads(digits, loss):
    vae = vaelab.VAE((8, 8), (), 2, rngs=nnx.Rngs(0, noise=1))  # linear: no kinks
    graphdef, parameters, rest = nnx.split(vae, nnx.Param, ...)
    x = digits.train[:4]

    def mean_loss(parameters):
        model = nnx.merge(graphdef, parameters, rest, copy=True)
        return loss(model, x, key=jax.random.key(0)).loss.mean()

    check_grads(mean_loss, (parameters,), order=1, modes=["rev"], rtol=2e-2)
