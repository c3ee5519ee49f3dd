import json
import tracemalloc
import zipfile
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


@pytest.mark.parametrize("path", [3, True, None, b"crash.npz", jnp.zeros(2)])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(TypeError, match="path is .*: give the name of the file"):
        save_crash(path, (jnp.ones(2),))
    with pytest.raises(TypeError, match="path is .*: give the name of the file"):
        load_crash(path)


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_crash("~/crash.npz", (1.5,))
    assert (tmp_path / "crash.npz").exists()
    assert load_crash("~/crash.npz").args == (1.5,)


def described(shape=(4,), dtype="uint8", name="array0", **more):
    array = {"on": "host", "array": name, "dtype": dtype, "shape": list(shape)}
    return {"format": "vaelab.debug crash 1", "step": 0, "args": [array], "kwargs": {}}


def write(path, description, *, compressed=False, **arrays):
    encoded = np.frombuffer(json.dumps(description).encode(), np.uint8)
    save = np.savez_compressed if compressed else np.savez
    save(path, description=encoded, **arrays)


FOUR = np.zeros(4, np.uint8)


@pytest.mark.parametrize(
    ("description", "arrays", "problem"),
    [
        (described((2**40,)), {"array0": FOUR}, "4 bytes instead of"),
        (described((3,)), {"array0": FOUR}, "4 bytes instead of 3"),
        (described((-4,)), {"array0": FOUR}, "of type uint8"),
        (described(("4",)), {"array0": FOUR}, "of type uint8"),
        (described() | {"args": None}, {"array0": FOUR}, "save_crash$"),
        (described(dtype="object"), {"array0": FOUR}, "of type object"),
        (described(dtype="no type"), {"array0": FOUR}, "has no type"),
        (described(name="array7"), {"array0": FOUR}, "array7 is missing"),
        (described(), {"array0": np.zeros(10**6, np.uint8)}, "larger than its shape"),
        (described(), {"array0": np.zeros(1, np.int32)}, "of type int32"),
        (described() | {"format": 99}, {"array0": FOUR}, "save_crash$"),
        (
            described() | {"args": 2 * described()["args"]},
            {"array0": FOUR},
            "stands there twice",
        ),
    ],
)
def test_a_file_that_was_tampered_with(path, description, arrays, problem):
    write(path, description, **arrays)
    with pytest.raises(ValueError, match=problem):
        load_crash(path)


@pytest.mark.parametrize(
    "what", [3, None, {}, {"list": 3}, {"dict": [1]}, {"float": 3}, {"array": "array0"}]
)
def test_a_description_of_no_value(path, what):
    write(path, described() | {"args": [what]}, array0=FOUR)
    with pytest.raises(ValueError, match="describes no value"):
        load_crash(path)


def test_a_small_file_that_claims_much_is_not_unpacked(path):
    """Zeros compress to nothing; 64 MB of them, and as much that nothing refers to."""
    much = np.zeros(2**26, np.uint8)
    write(path, described((2**26,)), compressed=True, array0=much, array1=much)
    assert path.stat().st_size < 2**18
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than its own size"):
        load_crash(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_what_nothing_refers_to_is_not_read(path, monkeypatch):
    write(path, described(), array0=FOUR, array1=np.ones(2**20, np.uint8))
    read = []
    opened = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile,
        "open",
        lambda self, info, *rest, **more: (
            read.append(info.filename) or opened(self, info, *rest, **more)
        ),
    )
    [array] = load_crash(path).args
    np.testing.assert_array_equal(array, FOUR)
    assert read == ["description.npy", "array0.npy"]


def test_a_file_that_is_no_archive(path):
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is no file of save_crash"):
        load_crash(path)
