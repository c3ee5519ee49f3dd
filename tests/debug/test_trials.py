"""Advice is the user's own line, rewritten, and it was tried."""

import linecache
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from vaelab.debug import explain

FINE = "tried: all outputs and gradients are finite"
ZERO = jnp.array([1.0, 0.0])


def masked_log(p):
    return jnp.sum(jnp.where(p > 0, p * jnp.log(p), 0.0))


def logarithm(p):
    return jnp.log(p).sum()


def length(x):
    return jnp.linalg.norm(x)


def area(x):
    return jnp.arccosh(x).sum()


def power(x, y):
    return jnp.sum(x**y)


def probability(logits):
    p = jax.nn.sigmoid(logits)
    return jnp.log(1 - p).sum()


def sharp(x):
    std = jnp.exp(x)
    return -jnp.log(std**2).sum()


def half_sum(x):
    return jnp.sum(x)


FLOAT32 = "jnp.finfo(jnp.float32)"
CASES = {
    "double where": (
        jax.grad(masked_log),
        (ZERO,),
        "jnp.log(jnp.where(p > 0, p, 1))",
    ),
    "floor": (logarithm, (ZERO,), f"jnp.log(jnp.maximum(p, {FLOAT32}.tiny)).sum()"),
    "floor in half precision": (
        logarithm,
        (ZERO.astype(jnp.float16),),
        "jnp.maximum(p, jnp.finfo(jnp.float16).tiny)",
    ),
    "a norm of zero": (
        jax.grad(length),
        (0 * ZERO,),
        f"jnp.sqrt(jnp.maximum(jnp.sum(x ** 2), {FLOAT32}.eps ** 2))",
    ),
    "one-sided": (
        jax.grad(area),
        (ZERO + 1,),
        f"jnp.arccosh(jnp.maximum(x, 1 + {FLOAT32}.eps)).sum()",
    ),
    "a power": (
        jax.grad(power),
        (ZERO, jnp.float32(0.5)),
        "jnp.sum(jnp.where(x > 0, jnp.where(x > 0, x, 1) ** y, 0))",
    ),
    "log space": (
        jax.grad(probability),
        (100 * ZERO,),
        "jax.nn.log_sigmoid(-logits).sum()",
    ),
    "bounds": (jax.grad(sharp), (-60 * ZERO,), "jnp.exp(jnp.clip(x, -10, 10))"),
    "wider": (
        half_sum,
        (jnp.full(3, 6e4, jnp.float16),),
        "jnp.sum(x, dtype=jnp.float32)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_line_is_rewritten(name):
    fn, args, code = CASES[name]
    report = explain(jax.jit(fn), *args)
    [rewrite] = report.rewrites
    assert code in rewrite.new and code in report.advice
    assert rewrite.file == __file__
    assert report.tried == FINE
    assert report.notes == ()


def test_without_verify_nothing_is_tried():
    report = explain(logarithm, ZERO, verify=False)
    assert (report.tried, report.rewrites) == ("", ())
    assert report.advice and "jnp.finfo" not in report.advice


def test_two_faults_are_repaired_together():
    def fn(x):
        a = jnp.log(x)
        b = jnp.sqrt(x - 1)
        return a, b

    report = explain(fn, ZERO)
    lines = sorted(link.line for link in (report, *report.others))
    assert [rewrite.first_line for rewrite in report.rewrites] == lines
    assert report.tried == FINE


def test_a_fault_behind_the_first_is_repaired_with_it():
    def loss(x, y):
        first = jnp.log(x)
        return first.sum() + jnp.sqrt(y - 1).sum()

    report = explain(loss, ZERO, ZERO)
    assert (report.primitive, report.others) == ("sqrt", ())
    assert [r.new.split("(")[0] for r in report.rewrites] == [
        "        first = jnp.log",
        "        return first.sum",
    ]
    assert report.tried == FINE


def test_functions_and_other_threads_are_as_before():
    code, seen = logarithm.__code__, []

    def watching(x):
        thread = threading.Thread(target=lambda: seen.append(float(logarithm(x))))
        if not isinstance(x, jax.core.Tracer):
            thread.start()
            thread.join()
        return logarithm(x)

    def step(x):
        with jax.ensure_compile_time_eval():
            watching(ZERO)
        return logarithm(x)

    report = explain(step, ZERO)
    assert report.tried == FINE
    assert len(seen) > 1 and set(seen) == {-np.inf}  # during the trial as well
    assert logarithm.__code__ is code


def test_inside_of_loops_branches_and_lambdas():
    def step(total, x):
        value = lax.cond(x > 1, lambda y: jnp.sqrt(y), lambda y: y, x - 2)
        return total + value, None

    def loss(xs):
        return lax.scan(step, 0.0, xs)[0]

    report = explain(jax.jit(jax.grad(loss)), jnp.array([3.0, 2.0, 4.0]))
    assert report.tried == FINE
    assert "lambda y: jnp.sqrt(jnp.maximum(y, " in report.rewrites[0].new


def test_methods_of_modules():
    class Net(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(2, 1, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jnp.sqrt(self.linear(x) ** 2)

    x = jnp.ones((5, 2)).at[3].set(0.0)
    report = explain(nnx.jit(nnx.grad(lambda model, x: jnp.mean(model(x)))), Net(), x)
    assert report.tried == FINE
    assert "jnp.maximum(self.linear(x) ** 2" in report.advice


def test_it_says_that_nothing_helps():
    def fn(x):
        return jnp.linalg.cholesky(x)

    report = explain(fn, -jnp.eye(2))
    assert report.tried.startswith("nothing that was tried helps (a jitter")
    assert report.rewrites == ()


def test_data_are_repaired():
    report = explain(lambda w, x: jnp.sum(w * x), ZERO, jnp.array([1.0, jnp.nan]))
    assert report.tried.startswith("tried, with 0 for the non-finite entries of x:")


def test_a_number_out_of_range_is_tried_in_float64():
    def fn(x):
        return jnp.prod(x)

    report = explain(fn, jnp.full(8, 1e9))
    assert report.tried.startswith("tried, in float64:")
    assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32


def test_the_rows_of_a_batch_that_fail_alone():
    def loss(w, x, y):
        shape = jax.ShapeDtypeStruct(x.shape[:1], x.dtype)
        roots = jax.pure_callback(lambda x: np.log(np.asarray(x)[:, 0]), shape, x)
        return jnp.mean(roots * w) + y.sum()

    x = np.ones((9, 2), np.float32)
    x[[2, 7]] = -1
    with np.errstate(invalid="ignore"):
        report = explain(jax.jit(loss), jnp.ones(9), jnp.array(x), jnp.ones(9))
    assert "only these fail: 2, 7." in report.advice
    assert report.tried.startswith("tried, without rows 2, 7:")


def test_without_source_the_operand_is_kept_in_its_domain():
    space = {"jnp": jnp}
    exec("def fn(x):\n    return jnp.log(x)", space)
    report = explain(space["fn"], ZERO)
    assert report.rewrites == ()
    assert report.tried.startswith("tried, with the operand of log kept in its domain")


def test_a_cell_of_a_notebook_whose_imports_are_in_another_cell(monkeypatch):
    cell = "/tmp/ipykernel_1/7.py"
    source = "def fn(x):\n    return jnp.sqrt(x - 1).sum()\n"
    lines = source.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, cell, (len(source), None, lines, cell))
    notebook = types.ModuleType("__main__")
    notebook.jnp = jnp
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    exec(compile(source, cell, "exec"), vars(notebook))
    report = explain(notebook.fn, ZERO)
    assert report.tried == FINE
    assert report.rewrites[0].new.strip() == (
        f"return jnp.sqrt(jnp.maximum(x - 1, {FLOAT32}.eps ** 2)).sum()"
    )


def test_what_was_finite_before_stays_as_it_was():
    @jax.jit
    def inverse_squares(x):
        return x**-2

    report = explain(inverse_squares, jnp.array([0.0, -2.0, 3.0]))
    assert "jnp.where(x != 0" in report.advice  # x > 0 would be finite, too
    assert report.tried == FINE

    @jax.jit
    def growth(x):
        return jnp.exp(x)

    report = explain(growth, jnp.array([20.0, 11.06, 1.0], jnp.float16))
    assert "jnp.minimum(x, 11)" in report.advice
    assert report.tried == f"{FINE}, and some that were finite before are others"


def no_epsilon(gradient):
    return optax.adam(1e-3, eps=0.0).update(gradient, optax.adam(1e-3).init(gradient))


def long_jump(w):
    return w - 1e20 * jax.grad(lambda w: 50 * jnp.sum(w**2))(w)


def scaled_up(w):
    return w * jnp.float16(1000)


def certain(x):
    return jnp.log(jax.scipy.stats.norm.cdf(x)).sum()


def without_width(scale):
    scale = jax.nn.relu(scale)
    return -jax.scipy.stats.norm.logpdf(1.0, 0.0, scale).sum()


def orthogonalised(x):
    basis, _ = jnp.linalg.qr(x)
    return basis.sum()


def log_cosh(x):
    return jnp.log(jnp.cosh(x))


def sinc(x):
    return jnp.where(x != 0, jnp.sin(x) / x, 1.0).sum()


FITTING = {
    "an optimizer without eps": (no_epsilon, 0 * ZERO, "such as eps=1e-8", ""),
    "an overflow is no mask": (long_jump, 1e18 * ZERO, "", "jnp.where"),
    "float16 needs 32 bits": (
        lambda w: jax.lax.fori_loop(0, 1, lambda i, w: scaled_up(w), w),
        jnp.full(2, 100, jnp.float16),
        "float32",
        "float64",
    ),
    "a probit": (certain, jnp.array([-20.0, 1.0]), "stats.norm.logcdf(x)", ""),
    "an argument of a library's": (
        without_width,
        ZERO,
        "jnp.maximum(scale, ",
        "log_softmax",
    ),
    "columns": (
        jax.grad(orthogonalised),
        jnp.eye(3, 2).at[:, 1].set(0),
        "jnp.eye",
        "igenvalue",
    ),
    "both sides": (log_cosh, jnp.array([-100.0, 1.0]), "jnp.clip(x, -88, 88)", ""),
    "a quotient's slope": (jax.grad(sinc), ZERO, "square of the divisor", "if y < 1"),
}


@pytest.mark.parametrize("name", FITTING)
def test_what_is_said_fits_what_happened(name):
    fn, x, said, not_said = FITTING[name]
    report = explain(fn, x)
    text = f"{report.cause} {report.advice}"
    assert said in text, report
    assert not not_said or not_said not in text, report
