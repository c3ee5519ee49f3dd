import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vaelab.debug.crash import load_crash, save_crash


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if isinstance(x, jax.Array | np.ndarray | np.generic):
            assert x.dtype == y.dtype and x.shape == y.shape
            assert getattr(x, "weak_type", 0) == getattr(y, "weak_type", 0)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                assert jax.random.key_impl(x) == jax.random.key_impl(y)
                x, y = jax.random.key_data(x), jax.random.key_data(y)
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert x == y


@pytest.fixture
def path(tmp_path):
    return tmp_path / "crash.npz"


@pytest.mark.parametrize(
    "value",
    [
        {"w": jnp.array([1.0, np.nan, -np.inf]), "b": (jnp.int8(3), [np.arange(3)])},
        jnp.array([1.5, 2.5], jnp.bfloat16),
        jnp.zeros((0, 3), jnp.float8_e4m3fn),
        np.arange(3.0),
        jnp.array([3 + 4j]),
        np.float16(2),
        jnp.array([True, False]),
        jnp.asarray(2.0),
        jax.random.key(3),
        jax.random.split(jax.random.key(3, impl="rbg"), 2),
        [None, True, 3, 0.1, float("inf"), "mean"],
        {1: jnp.ones(2), 2: {}},
        (),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_come_back_bit_for_bit_without_a_template(path, value):
    save_crash(path, (value,), kwargs={"again": value}, step=7)
    crash = load_crash(path)
    same(crash.args, (value,))
    same(crash.kwargs, {"again": value})
    assert crash.step == 7


def test_a_big_endian_array_keeps_its_values(path):
    save_crash(path, (np.arange(3.0).astype(">f8"),))
    np.testing.assert_array_equal(load_crash(path).args[0], np.arange(3.0))


def new_model(seed=0):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.rngs = rngs

        def __call__(self, x):
            return self.dropout(self.norm(self.linear(x)))

    model = Model(nnx.Rngs(seed, noise=seed + 1))
    return model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x):
    grads = nnx.grad(lambda model: (model(x) ** 2).mean())(model)
    optimizer.update(model, grads)


def test_nnx_objects_come_back_in_a_copy_of_a_template(path):
    model, optimizer = new_model()
    x = jnp.ones((5, 3))
    for _ in range(3):
        train_step(model, optimizer, x)
    save_crash(path, (model, optimizer, x))
    template = new_model(1)
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(template[0])))
    args = load_crash(path, *template).args
    same(nnx.to_pure_dict(nnx.state(template[0])), before)
    assert args[0] is not template[0]
    train_step(model, optimizer, x)
    train_step(*args)
    for got, expected in zip(args[:2], (model, optimizer), strict=True):
        same(nnx.state(got), nnx.state(expected))


def test_what_templates_share_stays_shared(path):
    model, _ = new_model()
    save_crash(path, (model, model.rngs))
    again, _ = new_model()
    got, rngs = load_crash(path, again, again.rngs).args
    assert got.rngs is rngs is not again.rngs


class TrainState(NamedTuple):
    params: dict
    opt_state: optax.OptState
    key: jax.Array


def test_named_tuples_and_optax_states_need_a_template(path):
    adam = optax.adam(1e-3)

    def new(value):
        params = {"w": jnp.full(3, value)}
        return TrainState(params, adam.init(params), jax.random.key(int(value)))

    save_crash(path, (new(2.0), jnp.ones(4)))
    same(load_crash(path, new(0.0)).args, (new(2.0), jnp.ones(4)))


def test_a_function_is_its_own_template(path):
    save_crash(path, (jnp.ones(2), jnp.sin), kwargs={"f": jnp.cos})
    crash = load_crash(path, jnp.sin, f=jnp.cos)
    assert crash.args[1] is jnp.sin and crash.kwargs == {"f": jnp.cos}


def test_the_file_has_no_pickle_in_it(path):
    save_crash(path, (new_model()[0], jnp.ones(2)))
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert all(array.dtype == np.uint8 for array in arrays.values())
    assert json.loads(arrays["description"].tobytes())["args"][0]["template"] == "Model"


def test_errors_say_what_to_write(path, tmp_path):
    model, optimizer = new_model()
    with pytest.raises(TypeError, match="args is a Model: give the arguments as a"):
        save_crash(path, model)
    save_crash(path, (model, optimizer, jnp.ones(2)), kwargs={"loss": jnp.sin})
    with pytest.raises(TypeError, match="argument 1 is a Optimizer: give one"):
        load_crash(path, model)
    with pytest.raises(TypeError, match=r"loss is a .*sin.*load_crash\(path, loss="):
        load_crash(path, model, optimizer)
    with pytest.raises(ValueError, match="3 templates for 2 arguments"):
        load_crash(path, model, optimizer, model, loss=jnp.sin)
    with pytest.raises(ValueError, match="argument 0 was built in another way: .*only"):
        load_crash(path, nnx.Linear(3, 4, rngs=nnx.Rngs(0)), optimizer)
    save_crash(path, (nnx.Linear(2, 3, rngs=nnx.Rngs(0)),))
    with pytest.raises(ValueError, match=r"kernel has shape \(3, 3\), and \(2, 3\)"):
        load_crash(path, nnx.Linear(3, 3, rngs=nnx.Rngs(0)))
    other = tmp_path / "other.npz"
    np.savez(other, x=np.ones(3))
    with pytest.raises(ValueError, match="is no file of save_crash"):
        load_crash(other)
