import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vaelab.debug._replay import tiles
from vaelab.debug._trace.jaxprs import bind, is_literal

SHAPES = [(), (1,), (3, 5), (128, 129), (2**14,), (3, 2**14 + 1)]
OPERATIONS = {
    "add": lambda x: lax.add(x, 0.1 * jnp.ones_like(x)),
    "ones": lambda x: x + lax.full((1,) * x.ndim, 0.1),
    "constant": lambda x: 0.5 - x,
    "convert": lambda x: x.astype(jnp.bfloat16),
    "div": lambda x: x / (x + 1),
    "exp": jnp.exp,
    "integer_pow": lambda x: x**3,
    "log": lambda x: jnp.log(x**2),
    "not": lambda x: lax.bitwise_not(x < 0.3),
    "pow": lambda x: x**0.3,
    "select_n": lambda x: lax.select(x < 0.3, x, -x),
    "tanh": jnp.tanh,
    "transpose": jnp.transpose,
    "reshape": lambda x: x.reshape(-1),
    "broadcast": lambda x: jnp.broadcast_to(x[None], (2, *x.shape)),
    "expand": lambda x: x[..., None],
    "squeeze": lambda x: lax.squeeze(x[None], [0]),
}


def equations(function, *args):
    """Each equation of a function, and the operands that it gets."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    env = dict(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        ins = [atom.val if is_literal(atom) else env[atom] for atom in eqn.invars]
        yield eqn, ins
        env.update(zip(eqn.outvars, bind(eqn, ins), strict=True))


def numbers(shape):
    x = 3 * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x.reshape(-1)[:5] = np.array([0, np.inf, np.nan, 1e-30, 1e-42])[: x.size]
    return jnp.asarray(x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_bits_are_those_of_jax(name, shape):
    for eqn, ins in equations(OPERATIONS[name], numbers(shape)):
        [found] = tiles.in_tiles(eqn, ins) or bind(eqn, ins)
        [expected] = bind(eqn, ins)
        assert found.shape == expected.shape and found.dtype == expected.dtype
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("name", OPERATIONS)
def test_none_of_these_needs_a_compilation_for_each_shape(name):
    for eqn, ins in equations(OPERATIONS[name], numbers((3, 5))):
        assert tiles.in_tiles(eqn, ins) is not None or eqn.primitive.name == "jit"


def test_subnormal_numbers_are_flushed_as_xla_does():
    [(eqn, ins)] = equations(lambda x: x**2, jnp.float32(1e-20))
    assert tiles.in_tiles(eqn, ins) == [0]


def test_one_program_serves_all_shapes(monkeypatch):
    traces = []
    bound = jax.extend.core.primitives.sqrt_p.bind

    def counted(*args, **params):
        traces.append(args)
        return bound(*args, **params)

    found = [next(equations(jnp.sqrt, jnp.ones(n))) for n in (2, 3, 2**14 + 1)]
    tiles._program.cache_clear()
    monkeypatch.setattr(jax.extend.core.primitives.sqrt_p, "bind", counted)
    for eqn, ins in found:
        [root] = tiles.in_tiles(eqn, ins)
        np.testing.assert_array_equal(root, 1)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (jnp.exp, (jnp.ones((0, 3)),)),
        (jnp.dot, (jnp.ones((2, 2)), jnp.ones((2, 2)))),
        (lambda key: lax.expand_dims(key, [0]), (jax.random.key(0),)),
    ],
)
def test_everything_else_runs_in_full(function, args):
    *_, (eqn, ins) = equations(function, *args)
    assert tiles.in_tiles(eqn, ins) is None


def test_large_arrays_run_in_full(monkeypatch):
    monkeypatch.setattr(tiles, "_LARGEST", 7)
    [(eqn, ins)] = equations(jnp.exp, jnp.ones(8))
    assert tiles.in_tiles(eqn, ins) is None
