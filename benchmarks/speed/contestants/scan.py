"""What an expert writes by hand: JAX and optax, all epochs in one compiled call."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.works import Work

ADAM = optax.adam(1e-3)


def trainer(work: Work, images: np.ndarray):
    """See `contestants`."""
    data = jnp.asarray(images)
    n, size, steps = work.num_images, work.batch_size, work.steps_per_epoch

    def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        params, state, key = carry
        key, noise = jax.random.split(key)
        value, grads = jax.value_and_grad(loss)(params, x, noise)
        updates, state = ADAM.update(grads, state, params)
        return (optax.apply_updates(params, updates), state, key), value

    @functools.partial(jax.jit, donate_argnums=0, static_argnames="epochs")
    def train_epochs(carry: Any, data: jax.Array, epochs: int) -> Any:
        def epoch(carry: Any, _: None) -> tuple[Any, jax.Array]:
            if size == n:
                return step(carry, data)
            params, state, key = carry
            key, shuffle = jax.random.split(key)
            order = jax.random.permutation(shuffle, n)[: steps * size]
            carry, values = jax.lax.scan(
                lambda carry, rows: step(carry, data[rows]),
                (params, state, key),
                order.reshape(steps, size),
            )
            return carry, values.mean()

        return jax.lax.scan(epoch, carry, length=epochs)

    params = parameters(jax.random.key(0), work.sizes)
    carry = params, ADAM.init(params), jax.random.key(1)

    def train(epochs: int) -> float:
        nonlocal carry
        carry, losses = train_epochs(carry, data, epochs)
        jax.block_until_ready(carry)
        return float(losses[-1])

    return train


def parameters(key: jax.Array, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Draws weights of variance 1 / inputs; biases are zero."""
    size, hidden, latent = sizes
    shapes = {
        "hidden": (size, hidden),
        "mean": (hidden, latent),
        "log_std": (hidden, latent),
        "back": (latent, hidden),
        "logits": (hidden, size),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: (jax.random.normal(k, shape) * shape[0] ** -0.5, jnp.zeros(shape[1]))
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def loss(params: dict[str, Any], x: jax.Array, key: jax.Array) -> jax.Array:
    """The mean negative ELBO."""

    def dense(name: str, x: jax.Array) -> jax.Array:
        weight, bias = params[name]
        return x @ weight + bias

    h = jax.nn.relu(dense("hidden", x))
    mean, log_std = dense("mean", h), dense("log_std", h)
    std = jnp.exp(log_std)
    z = mean + std * jax.random.normal(key, mean.shape)
    logits = dense("logits", jax.nn.relu(dense("back", z)))
    bce = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
    kl = 0.5 * (mean**2 + std**2 - 1 - 2 * log_std).sum(-1)
    return (bce + kl).mean()
