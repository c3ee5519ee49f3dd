"""Keras 3 on its JAX backend, trained by `Model.fit`."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras  # noqa: E402, Keras reads its backend when it is imported
import numpy as np  # noqa: E402
from keras import layers, ops  # noqa: E402

from benchmarks.speed.works import Work  # noqa: E402


class VAE(keras.Model):
    """Gives logits, and adds the KL to what is minimised."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        size, hidden, latent = sizes
        self.hidden = layers.Dense(hidden, activation="relu")
        self.mean = layers.Dense(latent)
        self.log_std = layers.Dense(latent)
        self.back = layers.Dense(hidden, activation="relu")
        self.logits = layers.Dense(size)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Returns logits."""
        h = self.hidden(x)
        mean, log_std = self.mean(h), self.log_std(h)
        std = ops.exp(log_std)
        self.add_loss(
            0.5 * ops.mean(ops.sum(mean**2 + std**2 - 1 - 2 * log_std, axis=-1))
        )
        z = mean + std * keras.random.normal(ops.shape(mean), seed=self.seeds)
        return self.logits(self.back(z))


def bce(x: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """The reconstruction's part of the loss of each image."""
    return ops.sum(ops.binary_crossentropy(x, logits, from_logits=True), axis=-1)


def trainer(work: Work, images: np.ndarray):
    """See `contestants`.

    `fit` would take a smaller batch at the end of each epoch, so it gets as many images
    as make full batches.
    """
    keras.utils.set_random_seed(0)
    model = VAE(work.sizes)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=bce)
    data = images[: work.steps_per_epoch * work.batch_size]

    def train(epochs: int) -> float:
        history = model.fit(
            data,
            data,
            batch_size=work.batch_size,
            epochs=epochs,
            shuffle=work.steps_per_epoch > 1,
            verbose=0,
        )
        return float(history.history["loss"][-1])

    return train
