"""The KL's decomposition, against sums over all batches and over all data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from scipy import stats

import vaelab
from vaelab import losses

N, LATENT = 6, 2
MEAN = jax.random.normal(jax.random.key(0), (N, LATENT))
STD = jnp.exp(0.3 * jax.random.normal(jax.random.key(1), (N, LATENT)))
Z = MEAN + STD * jax.random.normal(jax.random.key(2), (N, LATENT))


def densities():
    """q(z_i | x_n) for each pair, and for each latent dimension."""
    return stats.norm(np.asarray(MEAN)[None], np.asarray(STD)[None]).pdf(
        np.asarray(Z)[:, None]
    )


@pytest.mark.slow
def test_the_three_parts_sum_to_the_kl():
    parts = losses.total_correlation_terms(Z, MEAN, STD, dataset_size=50)
    own = stats.norm(MEAN, STD).logpdf(Z).sum(1)
    np.testing.assert_allclose(
        sum(parts), own - stats.norm().logpdf(Z).sum(1), atol=1e-5
    )


def test_with_the_whole_data_as_batch_the_parts_are_exact():
    parts = losses.total_correlation_terms(Z, MEAN, STD, dataset_size=N)
    per_dim = densities()
    q_joint = per_dim.prod(-1).mean(1)
    q_marginals = per_dim.mean(1).prod(-1)
    own = per_dim.prod(-1)[np.arange(N), np.arange(N)]
    np.testing.assert_allclose(parts.mutual_information, np.log(own / q_joint), 1e-4)
    np.testing.assert_allclose(
        parts.total_correlation, np.log(q_joint / q_marginals), rtol=1e-3, atol=1e-5
    )
    prior = stats.norm().pdf(Z).prod(-1)
    np.testing.assert_allclose(
        parts.dimensionwise_kl, np.log(q_marginals / prior), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_the_weights_are_unbiased_over_all_batches_with_the_example(batch_size):
    """A matrix with the own weight in a column instead of the diagonal fails here."""
    weights = np.exp(losses.stratified_log_weights(batch_size, N))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    q = densities().prod(-1)  # (z_i, x_n)
    for row in range(batch_size):
        estimates = []
        for others in itertools.permutations(range(1, N), batch_size - 1):
            batch = [*others[:row], 0, *others[row:]]
            estimates.append(weights[row] @ q[0, batch])
        np.testing.assert_allclose(np.mean(estimates), q[0].mean(), rtol=1e-5)


@pytest.mark.slow
def test_with_beta_one_the_loss_estimates_the_elbo(digits):
    vae = vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))
    x = digits.train[:64]

    def means(key):
        terms = losses.beta_tc_loss(vae, x, dataset_size=1347, key=key)
        return terms.loss.mean(), -terms.elbo.mean()

    loss, negative_elbo = np.mean(
        [means(key) for key in jax.random.split(jax.random.key(0), 200)], axis=0
    )
    assert loss == pytest.approx(negative_elbo, abs=0.05)


@pytest.mark.slow
def test_beta_weighs_the_total_correlation_alone(digits):
    vae = vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))
    x, options = digits.train[:32], {"dataset_size": 1347, "key": jax.random.key(0)}
    z = vae.encode(x).sample(options["key"])
    parts = losses.total_correlation_terms(z, *vae.encode(x), dataset_size=1347)
    plain = losses.beta_tc_loss(vae, x, **options)
    weighted = losses.beta_tc_loss(vae, x, beta=6.0, **options)
    np.testing.assert_allclose(
        weighted.loss - plain.loss, 5 * parts.total_correlation, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_array_equal(plain.elbo, weighted.elbo)


@pytest.mark.slow
def test_the_decomposition_passes_check_grads():
    def total(z, mean, std):
        parts = losses.total_correlation_terms(z, mean, std, dataset_size=50)
        return parts.mutual_information + 3 * parts.total_correlation

    check_grads(total, (Z, MEAN, STD), order=1, rtol=2e-2)


@pytest.mark.parametrize(("batch", "dataset"), [(1, 10), (11, 10)])
def test_impossible_sizes_are_refused(batch, dataset):
    with pytest.raises(ValueError, match=f"batch_size is {batch} and dataset_size is"):
        losses.stratified_log_weights(batch, dataset)
