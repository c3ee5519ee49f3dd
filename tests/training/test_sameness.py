"""Functions that tracing cannot tell apart are equal, and no others."""

import dataclasses
import enum
import functools
import importlib
import itertools
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from vaelab import losses
from vaelab.training._sameness import content


def notebook(source, **variables):
    """Runs a cell; returns its variables."""
    found = {"__name__": "__main__", **variables}
    exec(compile(source, "<cell>", "exec"), found)
    return found


def rerun(found, source):
    exec(compile(source, "<cell>", "exec"), found)


def scaled(factor):
    return lambda x: x * factor


class Switch(enum.Enum):
    ON = 1
    OFF = 2


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float


class Plain:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, x):
        return x * self.rate

    def method(self, x):
        return x + self.rate


OPTIMIZERS = {
    "adam": lambda rate: optax.adam(rate),
    "chain": lambda rate: optax.chain(optax.clip(1.0), optax.adamw(rate)),
    "schedule": lambda rate: optax.sgd(optax.cosine_decay_schedule(rate, 100)),
    "injected": lambda rate: optax.inject_hyperparams(optax.adam)(learning_rate=rate),
    "masked": lambda rate: optax.masked(optax.sgd(rate), {"a": True, "b": False}),
    "parts": lambda rate: optax.multi_transform(
        {"a": optax.adam(rate), "b": optax.set_to_zero()}, lambda params: "a"
    ),
    "accumulated": lambda rate: optax.MultiSteps(optax.adam(rate), 4),
    "named": lambda rate: optax.named_chain(("one", optax.adam(rate))),
    "decay": lambda rate: optax.adamw(rate, mask=lambda p: p, weight_decay=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equal_optimizers_are_equal_and_others_are_not(name):
    make = OPTIMIZERS[name]
    assert content(make(1e-3)) == content(make(1e-3))
    assert hash(content(make(1e-3))) == hash(content(make(1e-3)))
    assert content(make(1e-3)) != content(make(2e-3))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=2)
    | st.binary(max_size=2)
    | st.sampled_from([np.float32(1), np.int32(1), jnp.float32, Switch.ON, Switch.OFF]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=1), inner, max_size=2)
    ),
    max_leaves=6,
)


def bits(value):
    """Writes a value so that only the same one is written so."""
    kind = type(value)
    if kind in (tuple, list):
        return kind.__name__, [bits(v) for v in value]
    if kind is dict:
        return "dict", [(k, bits(v)) for k, v in value.items()]
    if kind is float and math.isnan(value):
        return "float", str(math.copysign(1, value))
    return kind.__name__, repr(value)


@given(VALUES, VALUES)
def test_values_are_equal_where_their_bits_are(one, other):
    copy = bits(one) == bits(other)
    assert (content(one) == content(other)) == copy or "nan" in repr((one, other))
    assert content(scaled(one)) == content(scaled(one))
    assert (content(scaled(one)) == content(scaled(other))) == (
        content(one) == content(other)
    )


def test_numbers_that_compare_equal_are_told_apart():
    ones = [1, 1.0, True, 1 + 0j, np.float32(1), np.float64(1), np.int64(1), "1", b"1"]
    ones += [jnp.float32(1), jnp.int32(1), np.ones(()), np.ones(1)]
    for one, other in itertools.combinations(ones, 2):
        assert content(one) != content(other), (one, other)
    assert content(0.0) != content(-0.0)
    assert content(math.nan) == content(float("nan"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: functools.partial(losses.elbo, beta=2.0),
        lambda: functools.partial(scaled(1), 2),
        lambda: losses.kl_warmup(100),
        lambda: scaled(scaled(scaled(3))),
        lambda: lambda x, rate=0.5, *, more=(1, 2): x,
        lambda: Plain(0.1),
        lambda: Plain(0.1).method,
        lambda: Settings(0.1),
        lambda: {"a": [1, (2.0, {3})], "b": frozenset({"c"})},
        lambda: np.arange(5),
        lambda: jnp.arange(5),
        lambda: jax.random.key(3),
        lambda: re.compile("a+"),
        lambda: slice(1, 2),
        lambda: np.dtype("float32"),
        lambda: np.array(["a", None], object),
        lambda: jax.sharding.Mesh(jax.devices()[:1], ("data",)),
        lambda: np.random.default_rng(3),
        lambda: jax.nn.relu,
        lambda: jnp.exp,
        lambda: np.exp,
        lambda: math.exp,
    ],
)
def test_what_is_built_twice_is_equal(make):
    assert content(make()) == content(make())
    assert hash(content(make())) == hash(content(make()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (functools.partial(losses.elbo, beta=2.0), functools.partial(losses.elbo)),
        (losses.kl_warmup(100), losses.kl_warmup(101)),
        (scaled(scaled(3)), scaled(scaled(3.0))),
        (lambda x, rate=0.5: x, lambda x, rate=0.6: x),
        (lambda x, *, rate=0.5: x, lambda x, *, rate=0.6: x),
        (Plain(0.1), Plain(0.2)),
        (Plain(0.1).method, Plain(0.2).method),
        (Settings(0.1), Settings(0.2)),
        (np.arange(5), np.arange(5) + 1),
        (np.arange(5), np.arange(5.0)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (jnp.arange(5), jnp.arange(5) + 1),
        (jnp.asarray(1.0), jnp.float32(1.0)),  # one is weakly typed
        (jax.random.key(3), jax.random.key(4)),
        (jax.random.key(3), jax.random.key(3, impl="rbg")),
        (np.random.default_rng(3), np.random.default_rng(4)),
        (re.compile("a+"), re.compile("a")),
        (np.exp, np.log),
        (jnp.exp, jnp.log),
        (math.exp, math.log),
        (np.dtype("float32"), np.dtype("int32")),
        (jnp.dtype("bfloat16"), jnp.dtype("float8_e5m2")),
        ([], ()),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (int, float),
        ([].append, ().count),
    ],
)
def test_what_differs_is_told_apart(one, other):
    if isinstance(one, jax.Array) and one.ndim == 0 and one.dtype == other.dtype:
        one = jax.numpy.asarray(1.0) * 1.0  # weakly typed in every version
        if one.aval == other.aval:
            pytest.skip("nothing is weakly typed here")
    assert content(one) != content(other)


CELL = "def loss(model, x):\n    return helper(x) * BETA + sum(RATES)\n"
HELPER = "def helper(x):\n    return x ** POWER\n"


def cells():
    return notebook(HELPER + CELL, BETA=2.0, POWER=2, RATES=[1, 2], unused=0)


def test_the_same_cell_run_again_is_the_same():
    found = cells()
    before = content(found["loss"])
    assert content(cells()["loss"]) == before
    rerun(found, HELPER + CELL)
    found["unused"] = 1
    assert content(found["loss"]) == before


@pytest.mark.parametrize(
    "change",
    [
        "BETA = 3.0",
        "BETA = 2",
        "POWER = 3",
        "RATES.append(3)",
        "def helper(x):\n    return x",
        "del BETA",
        "sum = max",
        "helper.__defaults__ = (1,)",
    ],
)
def test_a_changed_global_is_noticed_however_deep(change):
    found = cells()
    before = content(found["loss"])
    rerun(found, change)
    assert content(found["loss"]) != before


def test_a_changed_global_is_noticed_in_functions_within_and_behind_wrappers():
    source = (
        "import functools\n"
        "def loss(x):\n    return [f(x) for f in (lambda y: y * BETA,)]\n"
        "@functools.wraps(loss)\ndef wrapped(*a):\n    return loss(*a)\n"
        "import jax\njitted = jax.jit(loss)\n"
        "part = functools.partial(loss)\n"
        "class Callable:\n    def __call__(self, x):\n        return x * BETA\n"
        "made = Callable()\n"
        "def calls_made(x):\n    return made(x)\n"
        "def makes(x):\n    return Callable()(x)\n"
    )
    found = notebook(source, BETA=2.0)
    names = "loss", "wrapped", "jitted", "part", "made", "calls_made", "makes"
    before = [content(found[name]) for name in names]
    assert [content(found[name]) for name in names] == before
    found["BETA"] = 3.0
    for name, old in zip(names, before, strict=True):
        assert content(found[name]) != old, name


def test_a_changed_object_is_noticed():
    plain, array = Plain(0.1), np.zeros(3)
    for function, change in (
        (lambda x: plain.rate * x, lambda: setattr(plain, "rate", 0.2)),
        (plain.method, lambda: setattr(plain, "rate", 0.3)),
        (lambda x: array + x, lambda: array.fill(1)),
    ):
        before = content(function)
        assert content(function) == before
        change()
        assert content(function) != before


def test_a_changed_attribute_of_a_class_is_noticed():
    found = notebook(
        "class Config:\n    BETA = 2\ndef loss(x):\n    return x * Config.BETA"
    )
    before = content(found["loss"])
    assert content(found["loss"]) == before
    found["Config"].BETA = 3
    assert content(found["loss"]) != before


def test_a_users_own_module_is_followed_and_an_installed_one_is_not(
    tmp_path, monkeypatch
):
    (tmp_path / "my_helpers.py").write_text("BETA = 2\ndef kl(x):\n    return BETA\n")
    monkeypatch.syspath_prepend(tmp_path)
    helpers = importlib.import_module("my_helpers")
    source = "import my_helpers\ndef loss(x):\n    return my_helpers.kl(x)\n"
    inside = "def loss(x):\n    from my_helpers import kl\n    return kl(x)\n"
    losses_of_both = [notebook(text)["loss"] for text in (source, inside)]
    before = [content(loss) for loss in losses_of_both]
    assert before == [content(notebook(text)["loss"]) for text in (source, inside)]
    helpers.BETA = 3
    for loss, old in zip(losses_of_both, before, strict=True):
        assert content(loss) != old
    sys.modules.pop("my_helpers")
    uses_jax = notebook("import jax\ndef loss(x):\n    return jax.numpy.exp(x)")["loss"]
    assert len(repr(content(uses_jax))) < 2000


def test_a_teacher_is_itself_until_its_parameters_change():
    def make(seed=0):
        return nnx.Linear(2, 2, rngs=nnx.Rngs(seed))

    def distil(teacher):
        return lambda model, x: teacher(x)

    teacher = make()
    before = content(distil(teacher))
    assert content(distil(teacher)) == before
    assert content(distil(make())) != before
    teacher.kernel[...] = teacher.kernel[...] + 1
    assert content(distil(teacher)) != before


def test_a_large_array_is_compared_as_an_object_and_kept_alive():
    def over(array):
        return lambda x: x + array

    one, other = jnp.zeros(2**15), jnp.zeros(2**15)
    assert content(over(one)) == content(over(one))
    assert content(over(one)) != content(over(other))
    gone = content(over(jnp.ones(2**15)))
    assert gone != content(over(jnp.ones(2**15)))


@pytest.mark.parametrize(
    "make",
    [
        lambda opaque=None: scaled(i for i in range(3)),
        lambda: notebook("def loss(x):\n    return globals()['BETA'] * x")["loss"],
        lambda: notebook("def loss(x):\n    return eval('BETA')")["loss"],
        lambda: notebook(
            "import importlib\n"
            "def loss(x):\n    return importlib.import_module('mine').BETA"
        )["loss"],
    ],
)
def test_what_cannot_be_looked_into_is_the_same_only_as_an_object(make):
    one = make()
    assert content(one) == content(one)
    assert content(one) != content(make())


def test_functions_that_refer_to_themselves_or_each_other_end():
    source = (
        "def even(n):\n    return n == 0 or odd(n - 1)\n"
        "def odd(n):\n    return n != 0 and even(n - STEP)\n"
    )
    found, again = notebook(source, STEP=1), notebook(source, STEP=1)
    assert content(found["even"]) == content(again["even"])
    assert content(found["even"]) != content(found["odd"])
    again["STEP"] = 2
    assert content(found["even"]) != content(again["even"])
    loop = []
    loop.append(loop)
    assert content(scaled(loop)) == content(scaled(loop))


def test_an_unfilled_variable_of_a_closure_is_read():
    def outer():
        def inner():
            return late  # noqa: F821

        if False:
            late = 1
        return inner

    assert content(outer()) == content(outer())


def test_what_a_function_sets_itself_is_no_input_of_it():
    def counted(x):
        counted.traces += 1
        return x * counted.beta

    counted.traces, counted.beta = 0, 2
    before = content(counted)
    counted(1)
    assert content(counted) == before
    counted.beta = 3
    assert content(counted) != before
