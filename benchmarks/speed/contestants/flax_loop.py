"""The loop of the Flax tutorials: a step under `nnx.jit`, called from Python."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.speed.works import Work


class VAE(nnx.Module):
    """An encoder and a decoder."""

    def __init__(self, sizes: tuple[int, int, int], rngs: nnx.Rngs) -> None:
        size, hidden, latent = sizes
        self.hidden = nnx.Linear(size, hidden, rngs=rngs)
        self.mean = nnx.Linear(hidden, latent, rngs=rngs)
        self.log_std = nnx.Linear(hidden, latent, rngs=rngs)
        self.back = nnx.Linear(latent, hidden, rngs=rngs)
        self.logits = nnx.Linear(hidden, size, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns logits, mean and log std."""
        h = nnx.relu(self.hidden(x))
        mean, log_std = self.mean(h), self.log_std(h)
        noise = jax.random.normal(self.rngs.noise(), mean.shape)
        z = mean + jnp.exp(log_std) * noise
        return self.logits(nnx.relu(self.back(z))), mean, log_std


def loss(model: VAE, x: jax.Array) -> jax.Array:
    """The mean negative ELBO."""
    logits, mean, log_std = model(x)
    bce = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
    kl = 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std).sum(-1)
    return (bce + kl).mean()


@nnx.jit
def update(model: VAE, optimizer: nnx.Optimizer, x: jax.Array) -> jax.Array:
    """One step."""
    value, grads = nnx.value_and_grad(loss)(model, x)
    optimizer.update(model, grads)
    return value


def trainer(work: Work, images: np.ndarray):
    """See `contestants`."""
    model = VAE(work.sizes, nnx.Rngs(0, noise=1))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    # A batch that is picked on the host costs less than one picked by a call of JAX.
    data = jnp.asarray(images) if work.steps_per_epoch == 1 else images

    def train(epochs: int) -> float:
        for _ in range(epochs):
            losses = [update(model, optimizer, x) for x in work.batches(data, rng)]
        return float(np.mean(jax.device_get(losses)))

    return train
