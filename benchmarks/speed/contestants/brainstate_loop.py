"""The loop of the BrainState tutorial: a step under `brainstate.transform.jit`."""

import brainstate
import braintools
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.works import Work


def dense(n_in: int, n_out: int) -> brainstate.nn.Linear:
    """A layer with weights of variance 1 / inputs; twice that starts far off."""
    return brainstate.nn.Linear(n_in, n_out, w_init=braintools.init.LecunNormal())


class VAE(brainstate.nn.Module):
    """An encoder and a decoder."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        size, hidden, latent = sizes
        self.hidden = dense(size, hidden)
        self.mean = dense(hidden, latent)
        self.log_std = dense(hidden, latent)
        self.back = dense(latent, hidden)
        self.logits = dense(hidden, size)

    def loss(self, x: jax.Array) -> jax.Array:
        """The mean negative ELBO."""
        h = jax.nn.relu(self.hidden(x))
        mean, log_std = self.mean(h), self.log_std(h)
        std = jnp.exp(log_std)
        z = mean + std * brainstate.random.normal(size=mean.shape)
        logits = self.logits(jax.nn.relu(self.back(z)))
        bce = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * log_std).sum(-1)
        return (bce + kl).mean()


def trainer(work: Work, images: np.ndarray):
    """See `contestants`."""
    brainstate.random.seed(0)
    model = VAE(work.sizes)
    parameters = model.states(brainstate.ParamState)
    optimizer = braintools.optim.Adam(lr=1e-3)
    optimizer.register_trainable_weights(parameters)
    rng = np.random.default_rng(0)
    data = jnp.asarray(images) if work.steps_per_epoch == 1 else images

    @brainstate.transform.jit
    def update(x: jax.Array) -> jax.Array:
        gradient = brainstate.transform.grad(
            lambda: model.loss(x), parameters, return_value=True
        )
        grads, value = gradient()
        optimizer.update(grads)
        return value

    def train(epochs: int) -> float:
        for _ in range(epochs):
            losses = [update(x) for x in work.batches(data, rng)]
        return float(np.mean(jax.device_get(losses)))

    return train
