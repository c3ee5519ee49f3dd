"""What is trained: the sizes of the model, the batch and the images."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

NUM_SYNTHETIC = 60_000


@dataclasses.dataclass(frozen=True)
class Work:
    """A model and its images.

    Attributes:
        title: what the tables call it.
        sizes: of image, hidden layer and latent vector.
        num_images: how many there are.
        batch_size: how many make a step.
    """

    title: str
    sizes: tuple[int, int, int]
    num_images: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches."""
        return self.num_images // self.batch_size

    def images(self) -> np.ndarray:
        """Black and white images as rows, float32."""
        return digits() if self.sizes[0] == 64 else synthetic(self.num_images)

    def batches(self, images: Any, rng: np.random.Generator) -> Iterator[Any]:
        """Yields the batches of one epoch, as a training loop on the host does it."""
        if self.batch_size == self.num_images:
            yield images
            return
        order = rng.permutation(self.num_images)
        for i in range(self.steps_per_epoch):
            yield images[order[i * self.batch_size : (i + 1) * self.batch_size]]


WORKS = {
    "A": Work("digits, 64-32-8, full batch", (64, 32, 8), 1347, 1347),
    "B": Work("digits, 64-32-8, batch 128", (64, 32, 8), 1347, 128),
    "C": Work("28x28, 784-256-32, batch 64", (784, 256, 32), NUM_SYNTHETIC, 64),
    "D": Work("28x28, 784-512-2, batch 128", (784, 512, 2), NUM_SYNTHETIC, 128),
}


@functools.cache
def digits() -> np.ndarray:
    """The 1347 training digits of `vaelab.data`, read without importing JAX."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    train, _ = train_test_split(load_digits().images / 16, random_state=0)
    return (train > 0.5).astype(np.float32).reshape(len(train), -1)


@functools.lru_cache(maxsize=1)
def synthetic(n: int) -> np.ndarray:
    """Images whose pixels are coins, biased as one of ten templates says."""
    rng = np.random.default_rng(0)
    templates = rng.random((10, 784), np.float32)
    images = np.empty((n, 784), np.float32)
    for part in np.array_split(images, max(1, n // 1000)):  # little memory on the way
        coins = rng.random(part.shape, np.float32)
        part[:] = coins < templates[rng.integers(10, size=len(part))]
    return images
