"""Importance-weighted bounds, against exact answers and against known bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.test_util import check_grads

import vaelab
from vaelab import losses, oracle
from vaelab.likelihoods import Gaussian


@pytest.fixture(scope="module")
def plane_vae(digits):
    """A small VAE whose exact log-likelihood a grid can tell."""
    vae = vaelab.VAE((8, 8), 32, 2, rngs=nnx.Rngs(0, noise=1))
    vaelab.fit(vae, digits.train, epochs=30, batch_size=64, optimizer=optax.adam(3e-3))
    return vae


@pytest.fixture(scope="module")
def exact(plane_vae, digits):
    return oracle.grid_log_likelihood(plane_vae, digits.test[:100])


@pytest.mark.slow
def test_the_bound_rises_to_the_exact_value_and_no_further(plane_vae, exact, digits):
    x, repeats = digits.test[:100], {1: 200, 5: 50, 50: 10, 500: 3, 5000: 1}

    @nnx.jit(static_argnames="num_samples")
    def mean_bound(model, key, num_samples):
        return losses.iwae_bound(model, x, num_samples=num_samples, key=key).mean()

    means, errors = [], []
    for num_samples, n in repeats.items():
        keys = jax.random.split(jax.random.key(num_samples), n)
        values = [mean_bound(plane_vae, key, num_samples) for key in keys]
        means.append(np.mean(values))
        errors.append(np.std(values) / np.sqrt(n) if n > 1 else 0.02)
    assert np.all(np.diff(means) > 0)
    assert means[-1] == pytest.approx(exact.mean(), abs=0.05)
    assert all(m <= exact.mean() + 4 * e for m, e in zip(means, errors, strict=True))


def test_one_sample_gives_the_elbo(plane_vae, digits):
    x = digits.test[:100]
    keys = jax.random.split(jax.random.key(0), 200)

    @jax.jit
    def bound(key):
        return -losses.iwae_loss(plane_vae, x, num_samples=1, key=key).loss.mean()

    @jax.jit
    def elbo(key):
        return losses.elbo(plane_vae, x, key=key).elbo.mean()

    expected = np.mean([elbo(key) for key in keys])
    assert np.mean([bound(key) for key in keys]) == pytest.approx(expected, abs=0.05)


@pytest.mark.slow
def test_the_reported_loss_is_the_bound_and_not_the_weighted_sum(
    plane_vae, exact, digits
):
    """Some code reports the sum of w̃ ln w, which reads above the exact ln p(x)."""
    x, key, k = digits.test[:100], jax.random.key(0), 500
    terms = losses.iwae_loss(plane_vae, x, num_samples=k, key=key)
    posterior = plane_vae.encode(x)
    noise = jax.random.normal(key, (k, 100, 2))
    z = posterior.mean[None] + posterior.std[None] * noise
    nll = jax.lax.map(lambda z: plane_vae.likelihood.nll(plane_vae.decode(z), x), z)
    log_prior = -0.5 * (z**2).sum(-1)
    log_q = (-0.5 * noise**2 - jnp.log(posterior.std)[None]).sum(-1)
    log_w = np.float64(log_prior - log_q - nll)
    np.testing.assert_allclose(
        -terms.loss, np.logaddexp.reduce(log_w, 0) - np.log(k), rtol=1e-4
    )
    wrong = (jax.nn.softmax(jnp.float32(log_w), axis=0) * log_w).sum(0)
    assert wrong.mean() > exact.mean() + 0.2
    assert -terms.loss.mean() < exact.mean() + 0.05


@pytest.mark.slow
def test_the_gradient_weighs_each_sample_by_its_normalised_weight(digits):
    vae = vaelab.VAE((8, 8), (), 2, rngs=nnx.Rngs(0, noise=1))
    graphdef, parameters, rest = nnx.split(vae, nnx.Param, ...)
    x, k, key = digits.train[:4], 3, jax.random.key(0)

    def log_weights(parameters):
        model = nnx.merge(graphdef, parameters, rest, copy=True)
        mean, std = model.encode(x)
        noise = jax.random.normal(key, (k, 4, 2))
        z = mean[None] + std[None] * noise
        nll = jnp.stack([model.likelihood.nll(model.decode(z[i]), x) for i in range(k)])
        return 0.5 * (noise**2 - z**2).sum(-1) + jnp.log(std).sum(-1)[None] - nll

    weights = jax.nn.softmax(log_weights(parameters), axis=0)
    expected = jax.grad(lambda p: -(weights * log_weights(p)).sum(0).mean())(parameters)

    def loss(parameters):
        model = nnx.merge(graphdef, parameters, rest, copy=True)
        return losses.iwae_loss(model, x, num_samples=k, key=key).loss.mean()

    got = jax.grad(loss)(parameters)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    check_grads(loss, (parameters,), order=1, modes=["rev"], rtol=2e-2)


def test_with_the_exact_posterior_every_bound_is_the_log_likelihood():
    """p(x | z) = N(x; z, 1) in one dimension: q(z | x) = N(x / 2, 1 / 2)."""

    class ExactEncoder(nnx.Module):
        latent_size = 1

        def posterior(self, x):
            mean = x.reshape(-1, 1) / 2
            return vaelab.Posterior(mean, jnp.full_like(mean, np.sqrt(0.5)))

    class Identity(nnx.Module):
        def __call__(self, z):
            return z

    model = vaelab.VAE.from_parts(
        ExactEncoder(),
        Identity(),
        image_shape=(1, 1),
        likelihood=Gaussian(std=1.0),
        rngs=nnx.Rngs(0, noise=1),
    )
    x = jnp.array([-2.0, 0.0, 3.0]).reshape(3, 1, 1)
    exact = -0.25 * x.ravel() ** 2 - 0.5 * np.log(2 * np.pi * 2)
    for num_samples in (1, 7):
        key = jax.random.key(num_samples)
        bound = losses.iwae_bound(model, x, num_samples=num_samples, key=key)
        np.testing.assert_allclose(bound, exact, rtol=1e-5)


@pytest.mark.slow
def test_chunks_do_not_change_the_bound(plane_vae, digits):
    many = jnp.tile(digits.test, (4, 1, 1))  # 1800 images: chunks of 36 samples
    bound = losses.iwae_bound(plane_vae, many, num_samples=100, key=jax.random.key(0))
    assert bound.shape == (1800,)
    assert bound[:450].mean() == pytest.approx(float(bound[-450:].mean()), abs=0.1)


@pytest.mark.slow
def test_dropout_is_off_in_the_bound_and_on_in_the_loss(digits):
    vae = vaelab.VAE((8, 8), 16, 2, dropout=0.5, rngs=nnx.Rngs(0, noise=1))
    x, options = digits.test[:8], {"num_samples": 4, "key": jax.random.key(0)}
    a, b = (losses.iwae_bound(vae, x, **options) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    c, d = (losses.iwae_loss(vae, x, **options).loss for _ in range(2))
    assert (c != d).any()


@pytest.mark.parametrize("bound", [losses.iwae_bound, losses.iwae_loss])
def test_at_least_one_sample_is_needed(plane_vae, digits, bound):
    with pytest.raises(ValueError, match="num_samples is 0: give at least 1"):
        bound(plane_vae, digits.test[:2], num_samples=0, key=jax.random.key(0))
