"""What is measured in a fresh process of its own, without a race.

Nothing heavy is imported at the top: the time of `import vaelab` is measured, too.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

MANY_EPOCHS = 200  # so long that making the models and tracing them hardly counts
GUARDED = ("B", "C", "D")
SCALING = (1, 10, 100, 1000, 10_000, 100_000)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of this module in a process that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def startup() -> float:
    """Seconds from `import vaelab` to the first finished epoch on the digits."""
    start = time.perf_counter()
    import optax
    from flax import nnx

    import vaelab

    model = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    images = vaelab.data.load_digits().train
    adam = optax.adam(1e-3)
    vaelab.fit(model, images, epochs=1, batch_size=128, optimizer=adam, progress=False)
    return time.perf_counter() - start


def memory() -> dict[str, float] | None:
    """Peak resident MiB of `fit` on 60,000 images of 28x28, None where unknown."""
    peak = _peak_mib()
    if peak is None:
        return None
    from benchmarks.speed.works import WORKS

    work = WORKS["D"]
    images = work.images()
    train = _fit(work)
    before = _peak_mib()
    train(1)
    after = _peak_mib()
    assert before is not None and after is not None
    return {"images": images.nbytes / 2**20, "before": before, "peak": after}


def many(rounds: int) -> dict[str, Any]:
    """Sixteen models at once on B, and the same sixteen one after the other."""
    import jax.numpy as jnp
    import optax
    from flax import nnx

    import vaelab
    from benchmarks.speed.works import WORKS

    work = WORKS["B"]
    images = jnp.asarray(work.images().reshape(-1, 8, 8))
    seeds, betas, rates = (0, 1, 2, 3), (0.5, 1.0), (1e-3, 3e-3)
    optimizers = [optax.adam(rate) for rate in rates]

    def make_model(seed: int) -> vaelab.VAE:
        return vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(seed, noise=seed + 1))

    def at_once(epochs: int) -> float:
        start = time.perf_counter()
        vaelab.fit_many(
            make_model,
            images,
            seeds=seeds,
            betas=betas,
            learning_rates=rates,
            epochs=epochs,
            batch_size=work.batch_size,
        )
        return time.perf_counter() - start

    def one_by_one(epochs: int) -> float:
        start = time.perf_counter()
        for seed in seeds:
            for beta in betas:
                for optimizer in optimizers:
                    vaelab.fit(
                        make_model(seed),
                        images,
                        epochs=epochs,
                        batch_size=work.batch_size,
                        optimizer=optimizer,
                        beta=beta,
                        seed=seed,
                        progress=False,
                    )
        return time.perf_counter() - start

    at_once(2)
    one_by_one(2)
    pairs = [(at_once(MANY_EPOCHS), one_by_one(MANY_EPOCHS)) for _ in range(rounds)]
    return {
        "epochs": MANY_EPOCHS,
        "at_once": statistics.median(a for a, _ in pairs),
        "one_by_one": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def guard(key: str, seconds: float, rounds: int) -> float:
    """Time of `fit` with its guard against NaN over that without, on a work."""
    from benchmarks.speed.contestants.fit import trainer
    from benchmarks.speed.race import epochs_for
    from benchmarks.speed.works import WORKS

    work = WORKS[key]
    images = work.images()
    guarded, bare = (_timed(trainer(work, images, guard=on)) for on in (True, False))
    guarded(1)
    epochs = epochs_for(seconds, guarded)
    bare(epochs)
    return statistics.median(guarded(epochs) / bare(epochs) for _ in range(rounds))


def scaling(n: int, seconds: float, rounds: int) -> float:
    """Images per second of `fit` with a 784-512-2 model on n images."""
    from benchmarks.speed.race import epochs_for
    from benchmarks.speed.works import Work

    work = Work("", (784, 512, 2), n, min(n, 128))
    train = _fit(work)
    train(1)
    epochs = epochs_for(seconds, train)
    elapsed = statistics.median(train(epochs) for _ in range(rounds))
    return epochs * work.steps_per_epoch * work.batch_size / elapsed


def _fit(work: Any) -> Callable[[int], float]:
    """Returns what trains for some epochs and says how many seconds it took."""
    from benchmarks.speed.contestants import CONTESTANTS

    return _timed(CONTESTANTS["fit"].trainer(work, work.images()))


def _timed(train: Callable[[int], float]) -> Callable[[int], float]:
    def timed(epochs: int) -> float:
        start = time.perf_counter()
        train(epochs)
        return time.perf_counter() - start

    return timed


def _peak_mib() -> float | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    import sys

    units_per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_mib
