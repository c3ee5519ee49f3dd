"""`vaelab.fit` with its defaults: guarded, and with all metrics recorded."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vaelab
from benchmarks.speed.works import Work

ADAM = optax.adam(1e-3)


def trainer(work: Work, images: np.ndarray, *, guard: bool = True):
    """See `contestants`."""
    size, hidden, latent = work.sizes
    side = int(size**0.5)
    rngs = nnx.Rngs(0, noise=1)
    model = vaelab.VAE((side, side), hidden, latent, rngs=rngs)
    data = jnp.asarray(images.reshape(-1, side, side))
    seeds = itertools.count()

    def train(epochs: int) -> float:
        result = vaelab.fit(
            model,
            data,
            epochs=epochs,
            batch_size=work.batch_size,
            optimizer=ADAM,
            seed=next(seeds),
            guard=guard,
            progress=False,
        )
        return float(result.history["loss"][-1])

    return train
