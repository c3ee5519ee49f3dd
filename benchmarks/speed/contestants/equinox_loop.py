"""The loop of the Equinox tutorials: a step under `filter_jit`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.works import Work

ADAM = optax.adam(1e-3)


class VAE(eqx.Module):
    """An encoder and a decoder for one image."""

    hidden: eqx.nn.Linear
    mean: eqx.nn.Linear
    log_std: eqx.nn.Linear
    back: eqx.nn.Linear
    logits: eqx.nn.Linear

    def __init__(self, sizes: tuple[int, int, int], key: jax.Array) -> None:
        size, hidden, latent = sizes
        keys = jax.random.split(key, 5)
        self.hidden = eqx.nn.Linear(size, hidden, key=keys[0])
        self.mean = eqx.nn.Linear(hidden, latent, key=keys[1])
        self.log_std = eqx.nn.Linear(hidden, latent, key=keys[2])
        self.back = eqx.nn.Linear(latent, hidden, key=keys[3])
        self.logits = eqx.nn.Linear(hidden, size, key=keys[4])

    def __call__(
        self, x: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns logits, mean and log std."""
        h = jax.nn.relu(self.hidden(x))
        mean, log_std = self.mean(h), self.log_std(h)
        z = mean + jnp.exp(log_std) * noise
        return self.logits(jax.nn.relu(self.back(z))), mean, log_std


def loss(model: VAE, x: jax.Array, key: jax.Array) -> jax.Array:
    """The mean negative ELBO."""
    noise = jax.random.normal(key, (len(x), model.mean.out_features))
    logits, mean, log_std = jax.vmap(model)(x, noise)
    bce = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
    kl = 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std).sum(-1)
    return (bce + kl).mean()


@eqx.filter_jit
def update(
    model: VAE, state: Any, x: jax.Array, key: jax.Array
) -> tuple[VAE, Any, jax.Array]:
    """One step."""
    value, grads = eqx.filter_value_and_grad(loss)(model, x, key)
    updates, state = ADAM.update(grads, state, model)
    return eqx.apply_updates(model, updates), state, value


def trainer(work: Work, images: np.ndarray):
    """See `contestants`."""
    model = VAE(work.sizes, jax.random.key(0))
    state = ADAM.init(eqx.filter(model, eqx.is_array))
    key = jax.random.key(1)
    rng = np.random.default_rng(0)
    data = jnp.asarray(images) if work.steps_per_epoch == 1 else images

    def train(epochs: int) -> float:
        nonlocal model, state, key
        for _ in range(epochs):
            losses = []
            for x in work.batches(data, rng):
                key, noise = jax.random.split(key)
                model, state, value = update(model, state, x, noise)
                losses.append(value)
        return float(np.mean(jax.device_get(losses)))

    return train
