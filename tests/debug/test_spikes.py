import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vaelab.debug import LossSpikeError, NonFiniteError, guarded
from vaelab.debug._leaps import Leaps


def line_of(function, text):
    lines, first = inspect.getsourcelines(function)
    return first + next(k for k, line in enumerate(lines) if text in line)


class Rate(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.linear(x))


class Weighted(nnx.Module):
    def __init__(self, rngs):
        self.rate = Rate(rngs)

    def __call__(self, x, weight):
        error = (self.rate(x)[:, 0] - 1.0) ** 2
        return jnp.mean(error / weight)


@nnx.jit
def step(model, optimizer, x, weight):
    loss, grads = nnx.value_and_grad(lambda m: m(x, weight))(model)
    optimizer.update(model, grads)
    return loss


def run(*, bad=None, steps=20, what=1e-6, **options):
    """Trains, with one small weight in step `bad`; returns the error and the rest."""
    model = Weighted(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(1e-9), wrt=nnx.Param)
    x = jnp.linspace(-1, 1, 8).reshape(4, 2)
    recorder = guarded(step, **options)
    try:
        with recorder:
            for i in range(steps):
                weight = np.ones(4, np.float32)
                if i == bad:
                    weight[2] = what
                recorder(model, optimizer, x, weight)
    except (LossSpikeError, NonFiniteError) as error:
        return error, recorder, optimizer
    return None, recorder, optimizer


@pytest.fixture(scope="module")
def spike():
    return run(bad=13, every=10, spikes=10.0)


def test_the_step_the_line_and_the_operation(spike):
    error, recorder, _ = spike
    assert isinstance(error, LossSpikeError)
    assert (error.step, recorder.crash.step) == (13, 13)
    assert recorder.crash.args[3][2] == np.float32(1e-6)
    largest = error.report.largest
    assert (largest.primitive, largest.module) == ("div", "Weighted")
    assert largest.file == __file__
    assert largest.line == line_of(Weighted, "error / weight")
    assert largest.source == "return jnp.mean(error / weight)"
    assert largest.amplification > 1e5
    assert largest.after == pytest.approx(1e6 * largest.before, rel=0.9)
    assert error.report.loss > 10 * error.report.usual > 0
    assert error.report.grown == ()


def test_the_state_is_that_before_the_step(spike):
    _, _, optimizer = spike
    assert int(optimizer.step[...]) == 13


def test_the_block_for_a_terminal(spike):
    report = spike[0].report
    first, *rest = str(report).splitlines()
    place = f"div at test_spikes.py:{report.largest.line} in __call__"
    assert re.fullmatch(f"The loss leaps to [^ ]+ from [^ ]+: {place},", first)
    assert rest[0] == "    module Weighted" and rest[1].startswith("cause:  its result")
    assert "what amplifies, on the way to the loss:" in rest
    assert str(report) in str(spike[0])
    assert max(map(len, str(report).splitlines())) <= 78
    assert str(report).count(report.largest.source) == 1


def test_without_a_leap_all_is_as_without_spikes():
    assert run(every=10, spikes=10.0)[0] is None
    assert run(bad=13, every=10)[0] is None  # nobody asked


@pytest.mark.parametrize("every", [1, 13])
def test_a_leap_right_after_a_look_has_no_step_to_compare_with(every):
    error, _, _ = run(bad=13, every=every, spikes=10.0)
    assert error.step == 13
    assert error.report.largest.primitive == "div"
    assert error.report.largest.before is None
    assert "no step before to compare with" in " ".join(str(error).split())


def test_a_nan_is_reported_as_ever():
    error, _, _ = run(bad=13, what=0.0, every=10, spikes=10.0)
    assert isinstance(error, NonFiniteError) and error.step == 13


def test_an_argument_that_has_grown_is_named():
    @jax.jit
    def pure(state, batch):
        loss = jnp.mean(batch["x"] ** 2) + state["w"]
        return {"w": state["w"] * 1.0}, loss

    state = {"w": jnp.float32(0.5)}
    with pytest.raises(LossSpikeError) as caught, guarded(pure, spikes=5) as recorder:
        for i in range(9):
            x = jnp.full(3, 300.0 if i == 7 else 1.0)
            state, _ = recorder(state, {"x": x})
    report = caught.value.report
    assert caught.value.step == 7 and report.usual == 1.5
    assert report.grown == (("batch['x']", pytest.approx(300.0)),)
    assert report.largest.primitive in ("integer_pow", "square")
    assert report.largest.amplification == pytest.approx(1.0)  # it only squares
    assert report.chain == ()
    assert "batch['x'] grew 300-fold" in " ".join(str(report).split())


def test_another_branch_cannot_be_compared_with():
    @jax.jit
    def branched(x):
        return jax.lax.cond(x > 2, lambda x: jnp.exp(2 * x), lambda x: x, x)

    recorder = guarded(branched, spikes=5)
    for x in [1.0] * 6 + [4.0]:
        recorder(jnp.float32(x))
    with pytest.raises(LossSpikeError) as caught:
        recorder.check()
    assert caught.value.report.largest.primitive == "exp"
    assert caught.value.report.largest.before is None


def test_watch_picks_the_loss():
    @jax.jit
    def two(x):
        return {"count": x * 1e6, "loss": x}

    options = {"watch": lambda out: out["loss"], "spikes": 3.0}
    recorder = guarded(two, **options)
    for x in [1.0] * 6 + [2.0, 10.0]:
        recorder(x)
    with pytest.raises(LossSpikeError) as caught:
        recorder.check()
    assert (caught.value.step, caught.value.report.loss) == (7, 10.0)


def test_a_step_without_a_loss_is_refused():
    recorder = guarded(jax.jit(lambda x: x * 2), spikes=10)
    with pytest.raises(ValueError, match="no number that could be its loss.*watch="):
        recorder(jnp.ones(3))


@pytest.mark.parametrize("spikes", [1, 0.5, float("nan"), float("inf")])
def test_a_factor_is_above_1(spikes):
    with pytest.raises(ValueError, match="spikes is .*: give a number above 1"):
        guarded(step, spikes=spikes)


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([1, 1, 1, 1, 1, 9.9, 10.1], 6),  # ten times what is usual
        ([100, 50, 20, 10, 8, 7, 99], None),  # a start is steep
        ([-3, -3, -3, -3, -3, 20, 30], 6),  # a leap goes upwards: 27 from -3
        ([0.1, -0.1, 0.1, -0.1, 0.0, 0.89, 0.96], 6),  # about 0 the spread counts
        ([1, 1, 1, 1, 50], None),  # four losses tell nothing
        ([1, 1, 1, 1, 1, np.nan, np.inf, 1, 11], 8),
    ],
)
def test_what_leaps(losses, found):
    assert Leaps(10.0).first(losses) == found


def test_the_row_of_the_batch_that_makes_it_leap():
    @jax.jit
    def fit(state, batch):
        loss = jnp.mean((batch["x"] * state["w"]) ** 2)
        return {"w": state["w"] * 1.0}, loss

    state, x = {"w": jnp.float32(1)}, jnp.ones(6)
    recorder = guarded(fit, spikes=5)
    for batch in [x] * 7 + [x.at[4].set(1e3)]:
        state, _ = recorder(state, {"x": batch})
    with pytest.raises(LossSpikeError) as caught:
        recorder.check()
    report = caught.value.report
    assert report.advice.startswith("Look at row 4 of the batch: ")
    assert report.tried == "tried, without row 4: the loss is 1"
    assert "advice: Look at row 4" in str(report)
    page = report._repr_html_()
    assert page.count("vaelab-label") >= 3 and "without row 4" in page
    assert "&lt;" not in report.advice and "<script" not in page


def test_the_update_that_makes_it_leap():
    @jax.jit
    def fit(state, x, rate):
        loss, slope = jax.value_and_grad(lambda w: jnp.mean((x * w) ** 2))(state)
        return state - rate * slope, loss

    state, recorder = jnp.float32(1), guarded(fit, spikes=5)
    x = jnp.ones(6)
    for rate in [1e-3] * 7 + [50.0, 0.0]:
        state, _ = recorder(state, x, jnp.float32(rate))
    with pytest.raises(LossSpikeError) as caught:
        recorder.check()
    report = caught.value.report
    assert "The update of the step before made it leap" in report.advice
    assert report.tried.startswith("tried, with the state of the step before: ")
    assert float(report.tried.split()[-1]) < 2


def test_nothing_is_advised_that_did_not_help():
    @jax.jit
    def fit(state, x):
        return state, jnp.mean(x * state)

    state, recorder = jnp.float32(1), guarded(fit, spikes=5)
    for size in [1.0] * 7 + [100.0]:
        state, _ = recorder(state, jnp.full(4, size))
    with pytest.raises(LossSpikeError) as caught:
        recorder.check()
    report = caught.value.report
    assert report.advice == ""
    assert report.tried == "nothing that was tried brings it back"
