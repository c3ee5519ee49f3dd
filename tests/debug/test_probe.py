import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaelab.debug.probe import probe, probes

MIXED = np.array([1.0, np.nan, -3.0, np.inf, -np.inf, np.nan], np.float32)
MIXED_LINE = "x: float32[6]  min -3  mean -1  max 1  nan 2  inf 2"


@pytest.fixture(autouse=True)
def _on_again():
    yield
    probes(True)


def printed(capfd):
    jax.effects_barrier()
    out, err = capfd.readouterr()
    assert err == ""
    return out.splitlines()


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_probe_prints_a_summary_of_the_finite_values(capfd, transform):
    out = transform(lambda x: probe("x", x))(MIXED)
    np.testing.assert_array_equal(out, MIXED)
    assert printed(capfd) == [MIXED_LINE]


def test_a_probe_returns_its_argument_itself():
    x = jnp.ones(3)
    assert probe("x", x) is x


def test_under_grad_the_gradient_is_unchanged(capfd):
    x = jnp.arange(3.0)
    gradient = jax.jit(jax.grad(lambda x: (probe("x", x) ** 2).sum()))(x)
    np.testing.assert_array_equal(gradient, 2 * x)
    assert printed(capfd) == ["x: float32[3]  min 0  mean 1  max 2  nan 0  inf 0"]


def test_the_gradient_is_printed_on_request(capfd):
    x = jnp.array([0.0, 4.0])
    f = jax.jit(jax.grad(lambda x: jnp.sqrt(probe("x", x, grad=True)).sum()))
    np.testing.assert_array_equal(f(x), [np.inf, 0.25])
    assert printed(capfd) == [
        "x: float32[2]  min 0  mean 2  max 4  nan 0  inf 0",
        "x (gradient): float32[2]  min 0.25  mean 0.25  max 0.25  nan 0  inf 1",
    ]


def test_under_vmap_each_example_has_its_line(capfd):
    x = jnp.array([[1.0, 2.0], [3.0, np.nan]])
    out = jax.jit(jax.vmap(lambda x: probe("x", x) * 2))(x)
    np.testing.assert_array_equal(out, 2 * x)
    assert sorted(printed(capfd)) == [
        "x: float32[2]  min 1  mean 1.5  max 2  nan 0  inf 0",
        "x: float32[2]  min 3  mean 3  max 3  nan 1  inf 0",
    ]


def test_under_vmap_only_the_bad_example_is_printed(capfd):
    x = jnp.array([[1.0, 2.0], [3.0, np.nan]])
    jax.jit(jax.vmap(lambda x: probe("x", x, when="nonfinite")))(x)
    assert len(printed(capfd)) == 1


def scanned(**options):
    def body(carry, _):
        return probe("carry", carry * 10.0, **options), None

    return jax.lax.scan(body, jnp.float32(1e36), None, 4)[0]


def test_under_scan_each_iteration_has_its_line(capfd):
    jax.jit(scanned)()
    infs = [re.search(r"inf (\d)", line)[1] for line in printed(capfd)]
    assert infs == ["0", "0", "1", "1"]


def test_only_when_nonfinite(capfd):
    jax.jit(lambda: scanned(when="nonfinite"))()
    assert printed(capfd) == ["carry: float32[]  nan 0  inf 1"] * 2


def test_every_kth_call(capfd):
    f = jax.jit(lambda x: probe("x", x, every=3))
    for i in range(7):
        f(float(i))
    assert [re.search(r"min (\d)", line)[1] for line in printed(capfd)] == list("036")


def test_every_counts_what_when_lets_through(capfd):
    f = jax.jit(lambda x: probe("x", x, when="nonfinite", every=2))
    for x in (1.0, np.inf, 2.0, np.nan, np.inf):
        f(x)
    assert printed(capfd) == ["x: float32[]  nan 0  inf 1"] * 2


def test_a_tree_has_a_line_for_each_leaf(capfd):
    tree = {"a": jnp.ones(2), "b": [jnp.arange(3), jnp.array(True)]}
    out = probe("tree", tree)
    assert jax.tree.structure(out) == jax.tree.structure(tree)
    assert printed(capfd) == [
        "tree['a']: float32[2]  min 1  mean 1  max 1  nan 0  inf 0",
        "tree['b'][0]: int32[3]  min 0  mean 1  max 2  nan 0  inf 0",
        "tree['b'][1]: bool[]  min 1  mean 1  max 1  nan 0  inf 0",
    ]


@pytest.mark.parametrize(
    ("x", "line"),
    [
        (jnp.full(4, 6e4, jnp.float16), "min 6e+04  mean 6e+04  max 6e+04  nan 0"),
        (jnp.full(2, 3e38), "mean 3e+38"),
        (jnp.array([3 + 4j]), "complex64[1]  min 5  mean 5  max 5"),
        (jnp.zeros((0, 3)), "x: float32[0,3]"),
        (jax.random.key(0), "key<fry>[]"),
        (jnp.array([np.nan]), "x: float32[1]  nan 1  inf 0"),
    ],
)
def test_every_type(capfd, x, line):
    probe("x", x)
    (got,) = printed(capfd)
    assert line in got


def test_integers_have_no_gradient(capfd):
    jax.grad(lambda x: x * probe("n", jnp.int32(3), grad=True))(1.0)
    assert len(printed(capfd)) == 1


def test_a_probe_is_silent_under_the_nan_checks_of_jax(capfd):
    def f(x):
        return jnp.nan_to_num(probe("x", x))

    with jax.debug_nans(True), jax.debug_infs(True):
        f(MIXED)
    assert printed(capfd) == [MIXED_LINE]


@pytest.mark.parametrize("grad", [False, True])
def test_off_there_is_no_trace_of_it(capfd, grad):
    def loss(x, look=lambda x: x):
        return (look(jnp.sin(x)) ** 2).sum()

    def probed(x):
        return loss(x, lambda x: probe("x", x, grad=grad))

    x = jnp.ones(3)
    plain = str(jax.make_jaxpr(jax.value_and_grad(loss))(x))
    assert str(jax.make_jaxpr(jax.value_and_grad(probed))(x)) != plain
    probes(False)
    assert str(jax.make_jaxpr(jax.value_and_grad(probed))(x)) == plain
    probed(x)
    assert printed(capfd) == []


def test_toggling_reaches_a_compiled_function(capfd):
    f = jax.jit(lambda x: probe("x", x))
    f(1.0)
    assert len(printed(capfd)) == 1
    probes(False)
    f(1.0)
    assert printed(capfd) == []
    probes(True)
    f(1.0)
    assert len(printed(capfd)) == 1


def test_asking_for_the_present_setting_compiles_nothing():
    traces = []
    f = jax.jit(lambda x: traces.append(0) or x)
    f(1.0)
    probes(True)
    f(1.0)
    assert len(traces) == 1


@pytest.mark.parametrize(("value", "lines"), [("0", 0), ("off", 0), ("1", 1)])
def test_the_environment_variable(value, lines):
    code = (
        "import jax; from vaelab.debug.probe import probe; probe('x', 1.0);"
        "jax.effects_barrier()"
    )
    environment = os.environ | {"VAELAB_PROBES": value}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == lines


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: probe(1.0, "x"), TypeError, r"name is a float: write probe\('name'"),
        (lambda: probe("x", 1.0, when="nan"), ValueError, "when is 'nan': give"),
        (lambda: probe("x", 1.0, every=0), ValueError, "every is 0: give"),
        (lambda: probes("off"), TypeError, "on is 'off': give True or False"),
    ],
)
def test_errors_say_what_to_write(call, error, message):
    with pytest.raises(error, match=message):
        call()
