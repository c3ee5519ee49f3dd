"""Settings that were found to work well, each as one call.

How a recipe was found is part of it: settings are chosen on a part of the training
images, and the test images are looked at once, by `benchmarks/quality.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from vaelab._arguments import checked_flag, checked_key, checked_number, checked_whole
from vaelab._checks import numeric_images, require_numbers
from vaelab.losses import iwae_loss
from vaelab.models import VAE
from vaelab.training import fit

__all__ = ["digits_vae", "warp"]


def warp(key: jax.Array, images: jax.Array, *, share: float = 0.5) -> jax.Array:
    r"""Bends some of a batch of black and white images a little, each in its own way.

    A pixel at position p, counted from the centre, takes the image's value at

    .. math::

        (I + 0.1 A)\, p + 0.25\, b, \quad A_{ij}, b_i \sim N(0, 1)

    between pixels a linear interpolation, which a threshold from U(0.4, 0.6) makes
    black or white again: strokes turn, stretch, shift, and become thinner or thicker.

    Args:
        key: a `jax.random` key.
        images: zeros and ones, shape `(batch, height, width)`.
        share: the probability of bending an image, in [0, 1]; the others stay as they
            are.

    Returns:
        Zeros and ones, of the same shape: for `vaelab.fit(..., transform=warp)`.

    >>> import jax, vaelab
    >>> images = vaelab.data.load_digits().train[:100]
    >>> changed = (warp(jax.random.key(0), images) != images).any(axis=(1, 2))
    >>> 30 < int(changed.sum()) < 60
    True
    """
    share = checked_number("share", share, least=0, most=1)
    key = checked_key("key", key)
    require_numbers(images=images)
    if images.ndim != 3 or not images.size:
        raise ValueError(
            f"images has shape {images.shape}: give (batch, height, width)"
        )
    images = jnp.asarray(images)
    n, *shape = images.shape
    keys = jax.random.split(key, 4)
    maps = jnp.eye(2)[None] + 0.1 * jax.random.normal(keys[0], (n, 2, 2))
    shifts = 0.25 * jax.random.normal(keys[1], (n, 2, 1))
    thresholds = jax.random.uniform(keys[2], (n, 1, 1), minval=0.4, maxval=0.6)
    bent = jax.random.bernoulli(keys[3], share, (n, 1, 1))
    pixels = jnp.indices(shape).reshape(1, 2, -1)
    centre = (jnp.array(shape).reshape(1, 2, 1) - 1) / 2
    places = maps @ (pixels - centre) + shifts + centre  # (batch, 2, pixels)
    grey = jax.vmap(lambda image, at: map_coordinates(image, [*at], order=1))(
        images, places
    )  # (batch, pixels)
    black_or_white = grey.reshape(images.shape) > thresholds
    return jnp.where(bent, black_or_white.astype(images.dtype), images)


def digits_vae(
    images: ArrayLike,
    *,
    epochs: int = 400,
    seed: int = 0,
    progress: bool | None = None,
) -> VAE:
    """Trains a dense VAE on binary digits as well as is known within a minute.

    Two hidden layers of 512 and 256 units with GELU and a dropout of 0.05, 16 latent
    numbers, the importance-weighted objective with 5 samples, and AdamW whose learning
    rate falls along a cosine. Half of the images are bent by `warp`, except in the last
    quarter of the epochs, which see the images as they are. The quality page of the
    documentation says what it reaches, and what else was tried.

    Args:
        images: zeros and ones, shape `(n, height, width)`.
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
    epochs = checked_whole("epochs", epochs, least=1)
    seed = checked_whole("seed", seed)
    if progress is not None:
        progress = checked_flag("progress", progress)
    images = numeric_images(images)
    batch_size = min(128, len(images))
    model = VAE(
        images.shape[1:],
        (512, 256),
        16,
        dropout=0.05,
        activation=nnx.gelu,
        rngs=nnx.Rngs(seed, noise=seed + 1, dropout=seed + 2),
    )
    steps_per_epoch = len(images) // batch_size
    steps = epochs * steps_per_epoch
    rate = optax.warmup_cosine_decay_schedule(
        0.0, 2e-3, warmup_steps=min(200, steps // 2), decay_steps=steps
    )
    last_bent = 3 * epochs // 4 * steps_per_epoch

    def bent_at_first(key: jax.Array, images: jax.Array, step: jax.Array) -> jax.Array:
        return jax.lax.cond(step < last_bent, lambda: warp(key, images), lambda: images)

    fit(
        model,
        images,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optax.adamw(rate, weight_decay=0.1),
        loss_fn=partial(iwae_loss, num_samples=5),
        transform=bent_at_first,
        seed=seed,
        progress=progress,
    )
    return model
