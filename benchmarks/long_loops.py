"""How long `explain` takes for loops of many rounds, beside the loops themselves.

    python benchmarks/long_loops.py [--rounds 100000]

Each program becomes NaN in a round far on. The table shows seconds of CPU for a first
call of the program, compilation included, for another one, and for its explanation.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vaelab.debug import explain


def programs(rounds: int) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Loops of each kind, which fail after three quarters of their rounds."""
    bad = 3 * rounds // 4
    x, xs = jnp.float32(1.0), jnp.ones(rounds).at[bad].set(0)
    w = 0.01 * jnp.eye(128)

    def while_loop(x: jax.Array) -> jax.Array:
        def body(state: Any) -> Any:
            i, y = state
            return i + 1, jnp.where(i == bad, jnp.log(y - 2), y / 2 + 0.5)

        return lax.while_loop(lambda state: state[0] < rounds, body, (0, x))[1]

    def scan(x: jax.Array, xs: jax.Array) -> Any:
        return lax.scan(lambda c, a: (jnp.cos(c) + 1 / a, c), x, xs)

    def nested(x: jax.Array) -> jax.Array:
        def outer(j: jax.Array, y: jax.Array) -> jax.Array:
            def inner(i: jax.Array, z: jax.Array) -> jax.Array:
                return jnp.sqrt(z - 5.0 * (i + 1000 * j == bad)) / 2 + 0.3

            return lax.fori_loop(0, 1000, inner, y)

        return lax.fori_loop(0, rounds // 1000, outer, x)

    def backward(x: jax.Array, xs: jax.Array) -> jax.Array:
        def loss(x: jax.Array) -> jax.Array:
            return lax.scan(lambda c, a: (jnp.sqrt(c * a) + 1, None), x, xs)[0]

        return jax.grad(loss)(x)

    def layers(x: jax.Array) -> jax.Array:
        def body(i: jax.Array, h: jax.Array) -> jax.Array:
            return jnp.sqrt(1 + w @ h - 2.0 * (i == bad // 10))

        return lax.fori_loop(0, rounds // 10, body, jnp.ones((128, 8)) * x)

    return {
        "while": (while_loop, (x,)),
        "scan": (scan, (x, xs)),
        "nested": (nested, (x,)),
        "backward of scan": (backward, (x, xs)),
        "products of matrices": (layers, (x,)),
    }


def seconds(function: Callable[[], Any]) -> float:
    """The CPU time of a call."""
    start = time.process_time()
    jax.block_until_ready(function())
    return time.process_time() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100_000)
    print(f"{'':22}{'first':>8}{'again':>8}{'explain':>9}")
    for name, (fn, args) in programs(parser.parse_args().rounds).items():
        compiled = jax.jit(fn)
        first = seconds(lambda f=compiled, x=args: f(*x))
        again = seconds(lambda f=compiled, x=args: f(*x))
        start = time.process_time()
        report = explain(compiled, *args)
        taken = time.process_time() - start
        assert report is not None
        print(f"{name:22}{first:8.2f}{again:8.2f}{taken:9.2f}")


if __name__ == "__main__":
    main()
