"""Which settings find unseen digits most probable, without a look at the test images?

    python benchmarks/recipe_search.py [--splits 2] [--only NAME ...]

Holds 200 training images out, trains on the others, and prints a Markdown table: the
importance-weighted bound of the held-out images in nats per image, the mean over
disjoint splits, and beside it that of images trained on. The first setting is that of
`vaelab.recipes.digits_vae`; each other one differs from it in what its name says.
"""

import argparse
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import vaelab
from vaelab import losses, recipes

HELD_OUT = 200


class Setting(NamedTuple):
    """How a model is made and trained; the defaults are those of the recipe."""

    hidden: tuple[int, ...] = (512, 256)
    latent: int = 16
    activation: Any = nnx.gelu
    dropout: float = 0.05
    samples: int = 5
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    share_bent: float = 0.5
    unbent_epochs: float = 0.25
    epochs: int = 400


BEFORE = Setting(
    activation=nnx.relu,
    dropout=0.2,
    batch_size=64,
    learning_rate=1e-3,
    weight_decay=1e-4,
    share_bent=0.0,
)
SETTINGS = {
    "the recipe": Setting(),
    "no image bent": Setting(share_bent=0.0),
    "bent to the end": Setting(unbent_epochs=0.0),
    "ReLU": Setting(activation=nnx.relu),
    "no dropout": Setting(dropout=0.0),
    "dropout 0.1": Setting(dropout=0.1),
    "24 latent numbers": Setting(latent=24),
    "weight decay 1": Setting(weight_decay=1.0),
    "3 samples": Setting(samples=3),
    "before: ReLU, dropout 0.2, batch 64, rate 1e-3, decay 1e-4, none bent": BEFORE,
}


def train(setting: Setting, images: jax.Array, seed: int) -> vaelab.VAE:
    """Trains as `recipes.digits_vae` does, with other numbers."""
    model = vaelab.VAE(
        images.shape[1:],
        setting.hidden,
        setting.latent,
        dropout=setting.dropout,
        activation=setting.activation,
        rngs=nnx.Rngs(seed, noise=seed + 1, dropout=seed + 2),
    )
    steps_per_epoch = len(images) // setting.batch_size
    rate = optax.warmup_cosine_decay_schedule(
        0.0, setting.learning_rate, 200, setting.epochs * steps_per_epoch
    )
    bent = round((1 - setting.unbent_epochs) * setting.epochs)
    warp = partial(recipes.warp, share=setting.share_bent)
    for first, last, transform in ((0, bent, warp), (bent, setting.epochs, None)):
        if first < last:
            done = first * steps_per_epoch
            vaelab.fit(
                model,
                images,
                epochs=last - first,
                batch_size=setting.batch_size,
                optimizer=optax.adamw(
                    lambda step, done=done: rate(step + done),
                    weight_decay=setting.weight_decay,
                ),
                loss_fn=partial(losses.iwae_loss, num_samples=setting.samples),
                transform=transform,
                seed=seed,
                progress=False,
            )
    return model


def bound(model: vaelab.VAE, images: jax.Array) -> float:
    """The mean IWAE-500 of the first 200 of these images."""
    key = jax.random.key(9)
    images = images[:HELD_OUT]
    return float(losses.iwae_bound(model, images, num_samples=500, key=key).mean())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--epochs", type=int, default=400)
    arguments = parser.parse_args()
    images = vaelab.data.load_digits().train
    order = np.random.default_rng(0).permutation(len(images))

    print("| setting | held out | trained on | CPU seconds |")
    print("|---|---|---|---|")
    for name in arguments.only:
        setting = SETTINGS[name]._replace(epochs=arguments.epochs)
        bounds, start = [], time.process_time()
        for split in range(arguments.splits):
            held_out = order[HELD_OUT * split : HELD_OUT * (split + 1)]
            others = np.setdiff1d(order, held_out)
            model = train(setting, images[others], seed=0)
            bounds.append([bound(model, images[i]) for i in (held_out, others)])
        unseen, seen = np.mean(bounds, axis=0)
        seconds = (time.process_time() - start) / arguments.splits
        print(f"| {name} | {unseen:.2f} | {seen:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
