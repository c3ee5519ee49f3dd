"""Loops of many rounds are explained as short ones are, and in no more time."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from vaelab.debug import explain
from vaelab.debug._replay import loops

ROUNDS, BAD = 300, 231


def while_loop(x):
    def body(state):
        i, y = state
        return i + 1, jnp.where(i == BAD, jnp.log(y - 2), y / 2 + 0.5)

    return lax.while_loop(lambda state: state[0] < ROUNDS, body, (0, x))


def for_loop(x):
    def body(i, y):
        return jnp.sqrt(y - 2 * (i == BAD)) * 0.9 + 0.1

    return lax.fori_loop(0, ROUNDS, body, x)


def scan(x, reverse=False):
    xs = jnp.ones(ROUNDS).at[BAD].set(0)

    def body(carry, element):
        rate = 1 / element
        return jnp.cos(carry), jnp.where(carry > 2, 0.0, rate)

    return lax.scan(body, x, xs, reverse=reverse)


def reverse_scan(x):
    return scan(x, reverse=True)


def nested(x):
    def outer(j, y):
        def inner(i, z):
            return jnp.sqrt(z - 5 * (i + 60 * j == BAD)) / 2 + 0.3

        return lax.fori_loop(0, 60, inner, y)

    return lax.fori_loop(0, 5, outer, x)


def mended_later(x):
    def body(i, y):
        y = jnp.where(i % 100 == 50, 1 / (0 * y), y)
        return jnp.where(i % 100 == 60, x, y)

    return lax.fori_loop(0, 255, body, x)


def from_the_start(x):
    return lax.fori_loop(0, ROUNDS, lambda i, y: jnp.where(i < 9, y, y - y), x / 0)


def of_keys(x):
    def body(i, state):
        key, y = state
        key, drawn = jax.random.split(key)
        return key, jnp.log(jax.random.uniform(drawn) * (i != BAD)) + 0 * y

    return lax.fori_loop(0, ROUNDS, body, (jax.random.key(0), x))[1]


def backward(x):
    def loss(x):
        def body(carry, element):
            return carry + jnp.sqrt(element * carry), None

        return lax.scan(body, x, jnp.ones(ROUNDS).at[BAD].set(0))[0]

    return jax.grad(loss)(x)


def a_batch_of_loops(x):
    return jax.vmap(lambda n: lax.fori_loop(0, n, lambda i, y: jnp.log(y), x))(
        jnp.array([40, ROUNDS])
    )


PROGRAMS = [
    while_loop,
    for_loop,
    scan,
    reverse_scan,
    nested,
    mended_later,
    from_the_start,
    of_keys,
    backward,
    a_batch_of_loops,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_many_rounds_in_one_call_tell_the_same(program, monkeypatch):
    x = jnp.float32(1.0)
    in_one_call = explain(jax.jit(program), x)
    monkeypatch.setattr(loops, "_PATIENCE", 10**6)
    round_by_round = explain(jax.jit(program), x)
    assert in_one_call is not None
    assert str(in_one_call) == str(round_by_round)


@pytest.mark.parametrize(
    ("program", "iteration"),
    [(while_loop, (BAD,)), (for_loop, (BAD,)), (scan, (BAD,)), (nested, (3, 51))],
)
def test_the_round_is_named(program, iteration):
    assert explain(jax.jit(program), jnp.float32(1.0)).iteration == iteration


def test_few_rounds_are_run_one_by_one(monkeypatch):
    calls = []
    run = loops._Rounds.run

    def counted(self, i, *rest):
        calls.append(i)
        return run(self, i, *rest)

    monkeypatch.setattr(loops._Rounds, "run", counted)

    def far(x):
        return lax.fori_loop(
            0, 200_000, lambda i, y: jnp.sqrt(y - 2.0 * (i == 150_000)), x
        )

    report = explain(jax.jit(far), jnp.float32(1.0), verify=False)
    assert report.iteration == (150_000,)
    assert len(calls) < 500
