import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.errors import TraceContextError
from jax import lax
from jax.experimental import io_callback

from vaelab.debug import NonFiniteError, NonFiniteReport, explain


def line_of(fn, text):
    """The number of the line of `fn` that contains `text`."""
    lines, first = inspect.getsourcelines(fn)
    [found] = [i for i, line in enumerate(lines, first) if text in line]
    return found


def log_loss(p):
    nats = -jnp.log(p)
    return jnp.mean(nats)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.linear(x)))

    def head(self, h):
        return jnp.sqrt(0 * h**2)


def train_step(model, optimizer, x):
    loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(x)))(model)
    optimizer.update(model, grads)
    return loss


def new_state():
    model = Net(nnx.Rngs(0))
    return model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)


def numbers(tree):
    leaves = jax.tree.leaves(nnx.state(tree))
    is_key = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
    return [
        np.asarray(jax.random.key_data(x) if k else x)
        for x, k in zip(leaves, is_key, strict=True)
    ]


def test_finite_outputs_have_no_explanation():
    assert explain(log_loss, jnp.ones(3)) is None
    assert explain(jax.jit(jax.value_and_grad(log_loss)), jnp.ones(3)) is None


def test_every_field_of_a_report():
    report = explain(jax.jit(log_loss), jnp.array([1.0, 0.0, 0.5, 0.0]))
    assert isinstance(report, NonFiniteReport)
    assert (report.kind, report.primitive) == ("inf", "log")
    assert report.file == __file__
    assert report.line == line_of(log_loss, "nats = ")
    assert (report.function, report.source) == ("log_loss", "nats = -jnp.log(p)")
    assert (report.direction, report.module, report.iteration) == ("forward", None, ())
    [operand] = report.operands
    assert (operand.shape, operand.dtype) == ((4,), "float32")
    assert (operand.min, operand.max, operand.zeros) == (0.0, 1.0, 2)
    assert (operand.nans, operand.infs) == (0, 0)
    assert (operand.index, operand.value) == ((1,), 0.0)
    assert operand.origin.argument == "p"
    assert (report.result.infs, report.result.value) == (2, -np.inf)
    assert report.result.min == pytest.approx(-np.log(2))
    assert report.outputs == ("output",)
    assert report.others == report.inputs == ()
    assert len(report.chain) == 1
    assert report.chain[0].line == report.line


def test_operands_and_line_inputs_know_where_they_were_computed():
    def loss(x):
        scale = jnp.exp(x)
        return jnp.sum(jnp.sqrt(scale - 1))

    report = explain(jax.jit(jax.grad(loss)), jnp.array([1.0, 0.0]))
    [entering] = report.line_inputs
    assert entering.origin.source == "scale = jnp.exp(x)"
    assert entering.origin.line == line_of(loss, "scale = ")
    assert entering.origin.primitive == "exp"
    assert (entering.min, entering.value) == (1.0, 1.0)
    assert entering.max == pytest.approx(np.e)


def test_line_inputs_are_found_across_scans():
    def loss(xs):
        def step(total, x):
            shifted = x - 2
            return total + jnp.sqrt(shifted), None

        return lax.scan(step, 0.0, xs)[0]

    report = explain(jax.jit(jax.grad(loss)), jnp.array([3.0, 4.0, 2.0, 5.0]))
    assert report.iteration == (2,)
    [entering] = report.line_inputs
    assert entering.origin.source == "shifted = x - 2"
    assert entering.value == 0.0


@pytest.mark.parametrize("compile_", [lambda f: f, nnx.jit])
def test_a_train_step_is_left_as_it_was(compile_):
    step = compile_(train_step)
    model, optimizer = new_state()
    before = numbers((model, optimizer))
    reports = [explain(step, model, optimizer, jnp.ones((4, 2))) for _ in range(2)]
    np.testing.assert_equal(numbers((model, optimizer)), before)
    assert "_vaelab_debug_path" not in vars(model)
    assert str(reports[0]) == str(reports[1])
    assert reports[0].direction == "backward"
    assert reports[0].line == line_of(Net.head, "jnp.sqrt")
    assert "model.linear.kernel" in reports[0].outputs
    assert "optimizer.opt_state.0.mu.linear.kernel" in reports[0].outputs


def test_a_model_that_was_compiled_before_still_gets_its_names():
    class Outer(nnx.Module):
        def __init__(self):
            self.net = Net(nnx.Rngs(0))

        def __call__(self, x):
            return self.net(x)

    model = Outer()
    traces = []

    @nnx.jit
    def fn(model, x):
        traces.append(1)
        return jnp.log(model(x) * 0).sum(), jnp.log(model.net.head(x) * 0)

    @nnx.jit
    def gradient(model, x):
        return nnx.grad(lambda m: m(x).sum())(model)

    gradient(model, jnp.ones((4, 2)))
    report = explain(gradient, model, jnp.ones((4, 2)))
    assert report.module == "net"

    fn(model, jnp.ones((4, 2)))
    explain(fn, model, jnp.ones((4, 2)))
    count = len(traces)
    fn(model, jnp.ones((4, 2)))
    assert len(traces) == count  # the user's compiled function is still there


def test_two_models_have_the_names_of_their_arguments():
    def step(generator, critic, x):
        loss = lambda g: jnp.sum(critic.head(g.linear(x)))  # noqa: E731 (short)
        return nnx.grad(loss)(generator)

    models = Net(nnx.Rngs(0)), Net(nnx.Rngs(1))
    report = explain(nnx.jit(step), *models, jnp.ones((4, 2)))
    assert report.module == "critic"
    assert report.chain[-1].module in ("critic", "generator.linear")


def test_modules_methods_and_partial_functions_can_be_called():
    class Bad(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.zeros(()))

        def __call__(self, x):
            return jnp.log(self.scale * x)

        def method(self, x, power):
            return 1 / (self.scale * x) ** power

    bad = Bad()
    for report, primitive in (
        (explain(bad, jnp.ones(2)), "log"),
        (explain(bad.method, jnp.ones(2), power=3), "div"),
    ):
        assert (report.module, report.primitive) == ("Bad", primitive)
    assert explain(partial(bad.method, power=1), jnp.ones(2)).primitive == "div"
    assert explain(lambda x: bad(x), jnp.ones(2)).primitive == "log"


def test_state_that_was_bad_and_is_not_used_does_not_count():
    model = Net(nnx.Rngs(0))
    model.unused = nnx.Param(jnp.full(3, jnp.nan))
    assert explain(nnx.jit(lambda m, x: m.linear(x)), model, jnp.ones((1, 2))) is None


def test_an_argument_that_is_returned_as_it_is():
    report = explain(lambda x: (x, 1.0), jnp.array([1.0, jnp.nan]))
    assert (report.kind, report.inputs, report.outputs) == (
        "nan",
        ("x",),
        ("output[0]",),
    )
    assert "argument x" in report.cause


def test_python_numbers_that_are_not_finite_are_arguments():
    report = explain(lambda x, scale: x * scale, jnp.ones(2), float("inf"))
    assert report.inputs == ("scale",)


def test_callbacks_are_not_run(capfd):
    seen = []

    def fn(x):
        jax.debug.print("x is {}", x)
        jax.debug.callback(lambda x: seen.append(x), x)
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jnp.log(x) + io_callback(lambda: seen.append(0), shape)

    report = explain(jax.jit(fn), jnp.zeros(2))
    jax.effects_barrier()
    assert capfd.readouterr().out == ""
    assert seen == []
    assert report.primitive == "log"
    assert "io_callback was not run" in report.notes[0]


def test_a_pure_callback_is_run():
    def fn(x):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jnp.log(jax.pure_callback(lambda x: np.float32(0 * x), shape, x))

    assert explain(fn, jnp.float32(3)).primitive == "log"


def test_a_long_loop_is_stepped_to_its_first_bad_round():
    def fn(x):
        return lax.fori_loop(0, 1000, lambda i, x: x / (700 - i), x)

    report = explain(jax.jit(fn), jnp.float32(1e30))
    assert report.iteration in ((700,), ())


def test_the_chain_goes_on_in_later_rounds_of_a_loop():
    def step(x, _):
        return jnp.exp(x), jnp.sin(x)

    report = explain(lambda x: lax.scan(step, x, length=8), jnp.float32(1.0))
    assert [link.kind for link in report.chain] == ["inf", "nan"]
    assert [link.primitive for link in report.chain] == ["exp", "sin"]
    assert report.chain[1].iteration > report.chain[0].iteration


def test_a_masked_failure_is_no_other_root():
    def fn(x):
        masked = jnp.where(x > 0, jnp.log(x), 0.0)
        return jnp.sqrt(masked - 5)

    report = explain(jax.jit(fn), jnp.array([0.0, 1.0]))
    assert report.primitive == "sqrt"
    assert report.others == ()


@pytest.mark.parametrize(
    ("fn", "x", "direction"),
    [
        (jnp.sqrt, -1.0, "forward"),
        (jnp.sqrt, 0.0, "backward"),
        (jnp.exp, 1000.0, "forward"),
        (lambda x: x**0.5, 0.0, "backward"),
        (jnp.arcsin, 1.0, "backward"),
        (jnp.log, 0.0, "backward"),
    ],
)
def test_direction_of_the_gradient_of_one_function(fn, x, direction):
    assert explain(jax.grad(fn), jnp.float32(x)).direction == direction


def test_forward_mode_is_forward():
    report = explain(lambda x: jax.jvp(jnp.sqrt, (x,), (x + 1,)), jnp.float32(0.0))
    assert report.direction == "forward"


def test_what_is_patched_while_tracing_is_put_back():
    before = (jax.custom_vjp.__call__, jax.custom_jvp.__call__)
    before += (nnx.Linear.__call__, Net.head, nnx.merge)
    with pytest.raises(ZeroDivisionError):
        explain(lambda x: 1 / 0, jnp.ones(2))
    after = (jax.custom_vjp.__call__, jax.custom_jvp.__call__)
    after += (nnx.Linear.__call__, Net.head, nnx.merge)
    assert after == before


def test_a_user_rule_in_another_function_keeps_its_line():
    @jax.custom_vjp
    def scale(x, factor):
        return x * factor

    def backward(factor, g):
        inverse = 1 / factor
        return g * inverse, None

    scale.defvjp(lambda x, factor: (x * factor, factor), backward)
    report = explain(jax.jit(jax.grad(scale)), jnp.float32(1), jnp.float32(0))
    assert report.line == line_of(backward, "inverse = ")
    assert report.direction == "backward"


def test_settings_of_the_caller_are_kept():
    with jax.debug_nans(True):
        assert explain(jnp.log, jnp.zeros(2)).primitive == "log"
        assert jax.config.jax_debug_nans


def test_the_error_carries_report_and_step():
    error = NonFiniteError("NaN", step=3)
    assert isinstance(error, FloatingPointError)
    assert (str(error), error.report, error.step) == ("NaN", None, 3)


def test_whether_an_output_is_bad_is_decided_by_the_compiled_call():
    def divide(a, b, c):
        first = a / b
        return first / c  # XLA writes this as a / (b * c), and b * c underflows

    args = [jnp.array([x, 1.0]) for x in (1e-20, 1e-25, 1e-25)]
    report = explain(jax.jit(divide), *args)
    if bool(jnp.isfinite(jax.jit(divide)(*args)).all()):
        assert report is None
    else:
        assert report.line == line_of(divide, "return first")
        assert report.kind == "inf"
        assert "Only the compiled form" in report.cause

    def product(x):
        return jnp.exp(x) * jnp.exp(-x)  # XLA may write this as exp(x - x)

    finite = bool(jnp.isfinite(jax.jit(product)(jnp.float32(100.0))))
    assert (explain(jax.jit(product), jnp.float32(100.0)) is None) == finite


def test_an_object_that_must_be_an_argument():
    model = Net(nnx.Rngs(0))
    with pytest.raises(TraceContextError) as caught:
        explain(lambda x: model(x), jnp.ones((4, 2)))
    assert "pass it as an argument" in " ".join(caught.value.__notes__)
    model(jnp.ones((4, 2)))
