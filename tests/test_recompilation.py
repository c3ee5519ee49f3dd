"""What is measured again is not compiled again."""

import jax
import numpy as np
import pytest
from flax import nnx

import vaelab
from vaelab import evaluation, losses, oracle

KEY = jax.random.key(0)
X = np.zeros((5, 2, 2), np.float32)

MEASURES = {
    "iwae_bound": lambda m: losses.iwae_bound(m, X, num_samples=3, key=KEY),
    "evaluate": lambda m: vaelab.evaluate(m, X, key=KEY, num_samples=3),
    "anomaly_scores": lambda m: evaluation.anomaly_scores(m, X, key=KEY, num_samples=3),
    "importance_loss": lambda m: losses.iwae_loss(m, X, num_samples=3, key=KEY),
    "collapse": lambda m: evaluation.posterior_collapse_report(m, X),
    "latent_codes": lambda m: evaluation.latent_codes(m, X),
    "grid": lambda m: oracle.grid_log_likelihood(m, X, points=10),
    "gaps": lambda m: oracle.gap_decomposition(m, X, steps=2, nodes=3),
    "sample": lambda m: m.sample(3, key=KEY),
    "reconstruct": lambda m: m.reconstruct(X),
}


@pytest.fixture
def compilations():
    """Counts what XLA compiles."""
    events = []

    def note(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield events
    jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("name", MEASURES)
def test_a_second_look_compiles_nothing(name, compilations):
    for seed in range(3):
        model = vaelab.VAE((2, 2), (), 2, rngs=nnx.Rngs(seed, noise=1))
        seen = len(compilations)
        MEASURES[name](model)
    assert len(compilations) == seen


def test_a_bound_within_programs_of_ones_own():
    model = vaelab.VAE((2, 2), (), 2, rngs=nnx.Rngs(0, noise=1))

    def mean_bound(model, x):
        return losses.iwae_bound(model, x, num_samples=3, key=KEY).mean()

    outside = mean_bound(model, X)
    np.testing.assert_allclose(nnx.jit(mean_bound)(model, X), outside, rtol=1e-6)
    closed_over = jax.jit(lambda x: mean_bound(model, x))
    np.testing.assert_allclose(closed_over(X), outside, rtol=1e-6)


def test_a_bound_has_a_gradient():
    model = vaelab.VAE((2, 2), (), 2, rngs=nnx.Rngs(0, noise=1))

    def bound(model):
        return losses.iwae_bound(model, X, num_samples=1, key=KEY).mean()

    def loss(model):
        return -losses.iwae_loss(model, X, num_samples=1, key=sampled).loss.mean()

    sampled = jax.random.split(KEY, 1)[0]  # one chunk
    assert bound(model) == pytest.approx(float(loss(model)), rel=1e-6)
    got, expected = (nnx.jit(nnx.grad(f))(model) for f in (bound, loss))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
