"""Settings that were found to work well, each as one call.

How a recipe was found is part of it: settings are chosen on a part of the training
images, and the test images are looked at once, by `benchmarks/quality.py`.
"""

from functools import partial

import optax
from flax import nnx
from jax.typing import ArrayLike

from vaelab._checks import numeric_images
from vaelab.losses import iwae_loss
from vaelab.models import VAE
from vaelab.training import fit

__all__ = ["digits_vae"]


def digits_vae(
    images: ArrayLike,
    *,
    epochs: int = 400,
    seed: int = 0,
    progress: bool | None = None,
) -> VAE:
    """Trains a dense VAE on binary digits as well as is known within a minute.

    Two hidden layers of 512 and 256 units, 16 latent numbers, dropout of 0.2, the
    importance-weighted objective with 5 samples, and AdamW whose learning rate falls
    along a cosine. The quality page of the documentation says what it reaches, and what
    else was tried.

    Args:
        images: zeros and ones, shape `(n, *image_shape)`, at least 64 of them.
        epochs: how often to go through the images.
        seed: of the initial parameters, the noise, and the order of the images.
        progress: as in `vaelab.fit`.

    Returns:
        The trained model.

    >>> import vaelab
    >>> digits = vaelab.data.load_digits()
    >>> vae = digits_vae(digits.train[:64], epochs=1)
    >>> vae.latent_size
    16
    """
    batch_size = 64
    images = numeric_images(images)
    model = VAE(
        images.shape[1:],
        (512, 256),
        16,
        dropout=0.2,
        rngs=nnx.Rngs(seed, noise=seed + 1, dropout=seed + 2),
    )
    steps = epochs * (len(images) // batch_size)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, 1e-3, warmup_steps=min(200, steps // 2), decay_steps=steps
    )
    fit(
        model,
        images,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optax.adamw(schedule, weight_decay=1e-4),
        loss_fn=partial(iwae_loss, num_samples=5),
        seed=seed,
        progress=progress,
    )
    return model
