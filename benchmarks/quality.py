"""How probable do models find digits that they have not seen?

    python benchmarks/quality.py [--seeds 5] [--samples 1000]

Trains on scikit-learn's binarised digits and prints a Markdown table: the test ELBO and
the importance-weighted bound in nats per image, means over seeds with 95% intervals,
beside exact baselines. The settings were chosen without the test images.
"""

import argparse
import time

import jax
import numpy as np
import optax
from flax import nnx

import vaelab
from vaelab import losses, oracle, recipes


def tutorial_vae(images: jax.Array, *, seed: int) -> vaelab.VAE:
    """The digits tutorial: 2001 full-batch steps on 0.1 times the mean KL."""
    model = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(seed, noise=seed + 1))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    for _ in range(2001):
        vaelab.train_step(model, optimizer, images, losses.mean_reduced_loss)
    return model


def plain_vae(images: jax.Array, *, seed: int) -> vaelab.VAE:
    """The ELBO itself, a wider layer and more latent numbers: 8000 steps of Adam."""
    model = vaelab.VAE((8, 8), 128, 32, rngs=nnx.Rngs(seed, noise=seed + 1))
    adam, epochs = optax.adam(1e-3), 800
    vaelab.fit(model, images, epochs=epochs, batch_size=128, optimizer=adam, seed=seed)
    return model


def interval(values: list[float]) -> str:
    """The mean, and the half-width of its 95% interval."""
    half = (
        1.96 * np.std(values, ddof=1) / np.sqrt(len(values)) if values[1:] else np.nan
    )
    return f"{np.mean(values):.2f} ± {half:.2f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    digits = vaelab.data.load_digits()

    print(f"| model | test ELBO | test IWAE-{arguments.samples} | seconds per seed |")
    print("|---|---|---|---|")
    independent = oracle.independent_bernoulli(digits.train)
    exact = independent.log_likelihood(digits.test).mean()
    print(f"| independent pixels | | {exact:.2f} (exact) | |")
    for k in (10, 20, 50):
        exact = [
            oracle.bernoulli_mixture(digits.train, k, seed)
            .log_likelihood(digits.test)
            .mean()
            for seed in range(arguments.seeds)
        ]
        print(f"| mixture of {k} | | {interval(exact)} (exact) | |")
    for name, train in (
        ("the tutorial's VAE", tutorial_vae),
        ("a plain VAE, 128 hidden, 32 latent", plain_vae),
        ("`recipes.digits_vae`", recipes.digits_vae),
    ):
        elbos, bounds, seconds = [], [], []
        for seed in range(arguments.seeds):
            start = time.perf_counter()
            model = train(digits.train, seed=seed)
            seconds.append(time.perf_counter() - start)
            metrics = vaelab.evaluate(
                model,
                digits.test,
                key=jax.random.key(seed),
                num_samples=arguments.samples,
            )
            elbos.append(metrics.elbo)
            bounds.append(metrics.log_likelihood)
        print(
            f"| {name} | {interval(elbos)} | {interval(bounds)} "
            f"| {np.median(seconds):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
