"""What the debugger costs, as ratios to the same step without it.

    python benchmarks/debug_overhead.py [--rounds 100]

All steps train a 784-512-32 VAE at batch 128; the step that is explained has a layer
more on both sides, for more than 400 equations. Each round runs some steps of every
contestant, one after the other, so that they share the machine's moods; the table shows
the median over the rounds of the time per step and of its ratio to the baseline of the
same round. The recorder runs 250 steps in each round, so that each has one look.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from vaelab import debug

BATCH, LOOK = 128, 250
ADAM = optax.adam(1e-3)


class VAE(nnx.Module):
    """784-512-32 and back, as in the tutorials; `deeper` with 512 twice."""

    def __init__(
        self, rngs: nnx.Rngs, look: Callable[..., Any], deeper: bool = False
    ) -> None:
        self.hidden = nnx.Linear(784, 512, rngs=rngs)
        self.second = nnx.Linear(512, 512, rngs=rngs) if deeper else None
        self.mean = nnx.Linear(512, 32, rngs=rngs)
        self.log_std = nnx.Linear(512, 32, rngs=rngs)
        self.back = nnx.Linear(32, 512, rngs=rngs)
        self.second_back = nnx.Linear(512, 512, rngs=rngs) if deeper else None
        self.logits = nnx.Linear(512, 784, rngs=rngs)
        self.rngs = rngs
        self.look = look

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns logits, mean and std."""
        h = nnx.relu(self.hidden(x))
        h = h if self.second is None else nnx.relu(self.second(h))
        mean, std = self.mean(h), self.look("std", jnp.exp(self.log_std(h)))
        z = mean + std * jax.random.normal(self.rngs.noise(), mean.shape)
        h = nnx.relu(self.back(z))
        h = h if self.second_back is None else nnx.relu(self.second_back(h))
        return self.logits(h), mean, std


def loss(model: VAE, x: jax.Array) -> jax.Array:
    """The mean negative ELBO."""
    logits, mean, std = model(x)
    kl = 0.5 * (mean**2 + std**2 - 1) - jnp.log(std)
    nll = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
    return (nll + kl.sum(-1)).mean()


def update(model: VAE, optimizer: nnx.Optimizer, x: jax.Array) -> jax.Array:
    """One step."""
    value, grads = nnx.value_and_grad(loss)(model, x)
    optimizer.update(model, grads)
    return value


def nnx_loop(
    wrap: Callable[[Any], Any] = lambda step: step,
    look: Callable[..., Any] = lambda name, x: x,
    **options: Any,
) -> Callable[[jax.Array], Any]:
    """A model of its own with a compiled step: what a contestant calls."""
    model = VAE(nnx.Rngs(0, noise=1), look)
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    step = wrap(nnx.jit(update, **options))
    return lambda x: step(model, optimizer, x)


def pure_loop(
    wrap: Callable[[Any], Any] = lambda step: step, **options: Any
) -> Callable[[jax.Array], Any]:
    """The same as a pure function of a list of arrays."""
    model = VAE(nnx.Rngs(0, noise=1), lambda name, x: x)
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    graph, first = nnx.split((model, optimizer))
    state, structure = jax.tree.flatten(first)

    def pure(state: list[jax.Array], x: jax.Array) -> Any:
        both = nnx.merge(graph, jax.tree.unflatten(structure, state))
        value = update(*both, x)
        return jax.tree.leaves(nnx.state(both)), value

    step = wrap(jax.jit(pure, **options))

    def call(x: jax.Array) -> Any:
        nonlocal state
        state, value = step(state, x)
        return value

    return call


def repeated(
    loop: Callable[[jax.Array], Any],
    steps: int = 5,
    context: Callable[[], Any] = contextlib.nullcontext,
) -> Callable[[jax.Array], float]:
    """Takes some steps inside a context and returns the milliseconds of each."""

    def run(x: jax.Array) -> float:
        start = time.perf_counter()
        with context():
            for _ in range(steps):
                value = loop(x)
            jax.block_until_ready(value)
        return (time.perf_counter() - start) / steps * 1e3

    return run


def race(
    contestants: dict[str, Callable[[jax.Array], float]], x: jax.Array, rounds: int
) -> Iterator[tuple[str, float, float]]:
    """Yields name, milliseconds per step, and the ratio to the first."""
    for run in contestants.values():
        run(x)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for i in range(rounds):
        for name in order[i % len(order) :] + order[: i % len(order)]:
            times[name].append(contestants[name](x))
    base = times[order[0]]
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        yield name, statistics.median(values), ratio


def cold_explanation(x: jax.Array) -> tuple[float, float, int]:
    """What it takes to explain a bad step that was never explained before.

    Returns:
        Seconds, seconds of CPU time, and the number of the step's equations.
    """
    model = VAE(nnx.Rngs(0, noise=1), lambda name, x: x, deeper=True)
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    graph, state = nnx.split((model, optimizer))
    traced = jax.make_jaxpr(lambda s, x: update(*nnx.merge(graph, s, copy=True), x))
    equations = _count(traced(state, x).jaxpr)
    step = nnx.jit(update)
    bad = x.at[3, 4].set(1e30)
    start, used = time.perf_counter(), time.process_time()
    report = debug.explain(step, model, optimizer, bad)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    assert report is not None
    return seconds, used, equations


def _count(jaxpr: Any) -> int:
    inner = [
        getattr(value, "jaxpr", value)
        for equation in jaxpr.eqns
        for value in equation.params.values()
    ]
    return len(jaxpr.eqns) + sum(_count(j) for j in inner if hasattr(j, "eqns"))


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", default="", help="the races whose name contains this")
    options = parser.parse_args()
    x = jnp.asarray(np.random.default_rng(0).random((BATCH, 784), np.float32))
    donate = {"donate_argnums": (0, 1)}
    races: dict[str, dict[str, Callable[[jax.Array], float]]] = {
        "recorder, nnx.jit": {
            "unguarded": repeated(nnx_loop(), LOOK),
            "guarded": repeated(nnx_loop(debug.guarded), LOOK),
        },
        "recorder, nnx.jit, donated": {
            "unguarded": repeated(nnx_loop(**donate), LOOK),
            "guarded": repeated(nnx_loop(debug.guarded, **donate), LOOK),
        },
        "recorder, jax.jit, donated": {
            "unguarded": repeated(pure_loop(donate_argnums=0), LOOK),
            "guarded": repeated(pure_loop(debug.guarded, donate_argnums=0), LOOK),
        },
        "nan_guard": {
            "jax.debug_nans": repeated(nnx_loop(), context=_checked),
            "nan_guard": repeated(nnx_loop(), context=debug.nan_guard),
            "plain": repeated(nnx_loop()),
        },
        "probe": {
            "none": repeated(nnx_loop()),
            "off": repeated(nnx_loop(look=_quiet_probe)),
        },
    }
    print(f"jax {jax.__version__}, flax {flax.__version__}, {jax.devices()[0]}\n")
    print("| what | who | ms per step | ratio |\n|---|---|---:|---:|")
    for title, contestants in races.items():
        if options.only in title:
            rounds = options.rounds // (5 if "recorder" in title else 1)
            for name, milliseconds, ratio in race(contestants, x, rounds):
                print(
                    f"| {title} | {name} | {milliseconds:.2f} | {ratio:.3f} |",
                    flush=True,
                )
    if options.only in "explain":
        seconds, used, equations = cold_explanation(x)
        print(f"| explain | {equations} equations, cold | {seconds * 1e3:.0f} | |")
        print(f"| explain | the same, CPU time | {used * 1e3:.0f} | |")


def _checked() -> Any:
    return jax.debug_nans(True)


def _quiet_probe(name: str, x: jax.Array) -> jax.Array:
    debug.probes(False)
    return debug.probe(name, x)


if __name__ == "__main__":
    main()
