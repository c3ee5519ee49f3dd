from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vaelab.debug import _failure
from vaelab.debug.crash import load_crash
from vaelab.debug.explain import explain
from vaelab.debug.recorder import guarded
from vaelab.debug.report import NonFiniteError

STEPS = 12
BAD = 7


def batches(bad=BAD):
    x = np.random.default_rng(0).normal(size=(STEPS, 4, 3)).astype(np.float32)
    x[bad, 2, 1] = -1e30  # its square overflows
    return x


def bits(tree):
    def of(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).tobytes()

    return [of(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def explained(monkeypatch):
    """In the place of a report, for tests that are about something else."""
    report = object()
    monkeypatch.setattr(_failure, "explain", lambda *args, **kwargs: report)
    return report


# ---- NNX steps


class Model(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.25, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.linear(x))


def nnx_loss(model, x):
    return (model(x) ** 2).mean()


def plain_nnx_step(model, optimizer, x):
    loss, grads = nnx.value_and_grad(nnx_loss)(model, x)
    optimizer.update(model, grads)
    return loss


def silent_step(model, optimizer, x):
    plain_nnx_step(model, optimizer, x)


NNX_STEPS = {
    "nnx.jit": nnx.jit(plain_nnx_step),
    "donate_argnums": nnx.jit(plain_nnx_step, donate_argnums=(0, 1)),
    "donate_argnames": nnx.jit(plain_nnx_step, donate_argnames=("model", "optimizer")),
    "not jitted": plain_nnx_step,
    "no output": nnx.jit(silent_step, donate_argnums=(0, 1)),
}


def nnx_state():
    model = Model(nnx.Rngs(0, dropout=1))
    return model, nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(1, marks=pytest.mark.slow),
        3,
        pytest.param(100, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", NNX_STEPS)
def test_an_nnx_step_stops_at_the_first_bad_step(name, every, explained):
    step = NNX_STEPS[name]
    expected = nnx_state()
    for x in batches()[:BAD]:
        step(*expected, jnp.asarray(x))

    model, optimizer = nnx_state()
    run = guarded(step, every=every)
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            run(model, optimizer, jnp.asarray(x))

    assert caught.value.step == BAD == run.crash.step
    assert BAD < run.calls <= max(BAD + every, 1) and run.calls <= STEPS
    assert bits(nnx.state((model, optimizer))) == bits(nnx.state(expected))
    *state, x = run.crash.args
    assert state[0] is not model
    assert bits(nnx.state(tuple(state))) == bits(nnx.state(expected))
    np.testing.assert_array_equal(x, batches()[BAD])
    assert caught.value.report is explained


def test_the_report_explains_exactly_the_failing_call():
    step, state = NNX_STEPS["donate_argnums"], nnx_state()
    run = guarded(step)
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            run(*state, x)
    report = caught.value.report
    lines = {link.source for link in (*report.chain, *report.others)}
    assert report.file == __file__
    assert "return (model(x) ** 2).mean()" in lines
    assert str(report) == str(explain(step, *run.crash.args))
    assert str(report) in str(caught.value)


def test_a_guarded_run_computes_the_same_bits():
    step = NNX_STEPS["donate_argnums"]
    plain, guarded_state = nnx_state(), nnx_state()
    with guarded(step, every=4) as run:
        for x in batches()[:BAD]:
            assert bits(step(*plain, x)) == bits(run(*guarded_state, x))
    assert bits(nnx.state(plain)) == bits(nnx.state(guarded_state))
    assert run.crash is None and run.calls == BAD


def test_a_run_is_compiled_once_replay_included(explained):
    traces = []

    def counted(model, optimizer, x):
        traces.append(0)
        return plain_nnx_step(model, optimizer, x)

    state = nnx_state()
    run = guarded(nnx.jit(counted, donate_argnums=(0, 1)), every=5)
    with pytest.raises(NonFiniteError), run:
        for x in batches():
            run(*state, x)
    assert len(traces) == 1


def test_parameters_that_are_bad_one_step_before_the_loss():
    def loss(model, x):
        return jnp.sqrt(jnp.abs(model.w[...] * x)).sum()  # its gradient: inf at 0

    @nnx.jit
    def step(model, optimizer, x):
        value, grads = nnx.value_and_grad(loss)(model, x)
        optimizer.update(model, grads)
        return value

    class Weight(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.float32(1))

    model = Weight()
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)
    run = guarded(step)
    with pytest.raises(NonFiniteError) as caught, run:
        losses = [run(model, optimizer, jnp.float32(i != 3)) for i in range(4)]
    assert np.isfinite(losses).all()
    assert caught.value.step == 3
    assert caught.value.report.direction == "backward"
    assert np.isfinite(model.w[...])


def test_changes_from_outside_are_replayed(explained):
    """Someone draws from the model's RNG and lowers a parameter between two steps."""

    def loop(step, state):
        for i, x in enumerate(batches()):
            if i == 4:
                state[0].dropout(jnp.ones(3))
                state[0].linear.bias[...] = jnp.full(4, 0.5)
            step(*state, x)
            if i == BAD - 1:
                return

    step = NNX_STEPS["donate_argnums"]
    expected, state = nnx_state(), nnx_state()
    loop(step, expected)
    run = guarded(step)
    loop(run, state)
    run(*state, batches()[BAD])
    with pytest.raises(NonFiniteError):
        run.check()
    assert bits(nnx.state(state)) == bits(nnx.state(expected))


def test_another_model_starts_a_new_record(explained):
    step = NNX_STEPS["nnx.jit"]
    one, two = nnx_state(), nnx_state()
    run = guarded(step)
    for i, x in enumerate(batches()):
        if i < BAD:
            run(*(one if i % 2 else two), x)
    run(*one, batches()[BAD])
    with pytest.raises(NonFiniteError) as caught:
        run(*two, batches()[0])
    assert caught.value.step == BAD


def test_rngs_and_modules_inside_containers(explained):
    @nnx.jit
    def step(state, batch, *, rngs):
        noise = jax.random.normal(rngs.noise(), batch["x"].shape)
        return {"loss": plain_nnx_step(*state["both"], batch["x"] + noise)}

    model, optimizer = nnx_state()
    rngs = nnx.Rngs(noise=5)
    run = guarded(step, every=5)
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            run({"both": (model, optimizer)}, {"x": x}, rngs=rngs)
    assert caught.value.step == BAD
    assert int(rngs.noise.count[...]) == BAD
    assert int(run.crash.kwargs["rngs"].noise.count[...]) == BAD


# ---- pure steps


ADAM = optax.adam(1e-2)


def pure_step(state, x, scale=1.0):
    params, opt_state, key = state
    key, now = jax.random.split(key)
    noise = jax.random.normal(now, x.shape)

    def loss(params):
        return (((x + scale * noise) @ params["w"]) ** 2).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, opt_state = ADAM.update(grads, opt_state)
    return (optax.apply_updates(params, updates), opt_state, key), {"loss": value}


def pure_state():
    params = {"w": jnp.ones((3, 2))}
    return params, ADAM.init(params), jax.random.key(0)


PURE_STEPS = {
    "jax.jit": jax.jit(pure_step),
    "donate_argnums": jax.jit(pure_step, donate_argnums=0),
    "donate all": jax.jit(pure_step, donate_argnums=(0, 1)),
    "donate_argnames": jax.jit(pure_step, donate_argnames="state"),
    "not jitted": pure_step,
}


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("name", PURE_STEPS)
def test_a_pure_step_stops_at_the_first_bad_step(name, every, explained):
    step = PURE_STEPS[name]
    expected = pure_state()
    for x in batches()[:BAD]:
        expected, _ = step(expected, jnp.array(x))

    state = pure_state()
    run = guarded(step, every=every)
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            state, _ = run(state, jnp.array(x))
    assert caught.value.step == BAD
    assert bits(run.crash.args[0]) == bits(expected)
    np.testing.assert_array_equal(run.crash.args[1], batches()[BAD])
    assert caught.value.report is explained


def test_any_arrangement_of_state_and_output(explained):
    @partial(jax.jit, donate_argnums=(1, 2))
    def step(x, params, opt_state, key):
        (params, opt_state, _), aux = pure_step((params, opt_state, key), x)
        return aux["loss"], params, opt_state

    params, opt_state, key = pure_state()
    run = guarded(step, every=5)
    with pytest.raises(NonFiniteError) as caught, run:
        for i, x in enumerate(batches()):
            now = jax.random.fold_in(key, i)
            loss, params, opt_state = run(x, params, opt_state, now)
    assert caught.value.step == BAD
    assert bits(run.crash.args[3]) == bits(jax.random.fold_in(key, BAD))


def test_a_state_that_is_changed_between_the_steps(explained):
    step = PURE_STEPS["donate_argnums"]

    def loop(step, steps):
        state = pure_state()
        for i, x in enumerate(batches()[:steps]):
            if i == 3:
                state = ({"w": state[0]["w"] * 0.5}, *state[1:])
            state, _ = step(state, x)
        return state

    run = guarded(step)
    loop(run, BAD + 1)
    with pytest.raises(NonFiniteError):
        run.check()
    assert bits(run.crash.args[0]) == bits(loop(step, BAD))


@pytest.mark.parametrize("donate", [0, (0, 1)])
def test_an_output_that_becomes_an_argument_later(donate):
    step = jax.jit(
        lambda w, last, x: (w * 0.9, jnp.log(x) + 0 * last), donate_argnums=donate
    )
    run, w, loss = guarded(step), jnp.ones(3), jnp.float32(0)
    with pytest.raises(NonFiniteError) as caught, run:
        for i in range(10):
            last = loss if i > 4 else jnp.float32(i)
            w, loss = run(w, last, jnp.float32(-1 if i == 7 else 1 + i))
    assert caught.value.step == 7
    np.testing.assert_allclose(run.crash.args[0], 0.9**7 * np.ones(3), rtol=1e-6)
    np.testing.assert_allclose(run.crash.args[1], np.log(7), rtol=1e-6)


def test_a_step_that_recovers_is_still_found():
    """The loss is NaN once, and the state never: optax skips such a step."""
    step = jax.jit(lambda w, x: (w * 0.9, jnp.log(x)))
    run, w = guarded(step), jnp.ones(3)
    with pytest.raises(NonFiniteError) as caught, run:
        for i in range(10):
            w, _ = run(w, jnp.float32(-1 if i == 4 else 1))
    assert caught.value.step == 4
    assert caught.value.report.primitive == "log"


def test_a_batch_that_the_loader_fills_again(explained):
    buffer = np.zeros((4, 3), np.float32)
    step, state = PURE_STEPS["jax.jit"], pure_state()
    run = guarded(step)
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            buffer[:] = x
            state, _ = run(state, buffer)
            jax.block_until_ready(state)
    assert caught.value.step == BAD
    np.testing.assert_array_equal(run.crash.args[1], batches()[BAD])


def test_an_infinity_that_was_there_from_the_start_is_no_alarm():
    @jax.jit
    def step(state, x):
        w, best = state
        return (w * 0.9, best), jnp.sum(w * x)

    run, state = guarded(step, every=3), (jnp.ones(3), jnp.full(3, jnp.inf))
    with run:
        for _ in range(10):
            state, _ = run(state, 1.0)
    scalar = (jnp.ones(3), jnp.float32(jnp.inf))
    with guarded(step, every=3) as run:
        for _ in range(10):
            scalar, _ = run(scalar, 1.0)


def test_watch_picks_what_must_be_finite():
    step = jax.jit(lambda w, x: (w * 0.9, {"loss": x.sum(), "mask": jnp.log(x)}))
    with guarded(step, watch=lambda out: out[1]["loss"]) as run:
        w = jnp.ones(3)
        for _ in range(5):
            w, _ = run(w, jnp.zeros(2))
    with pytest.raises(NonFiniteError), run:
        run(w, jnp.full(2, jnp.nan))


@pytest.mark.parametrize("donate", [(), (0,)])
def test_a_state_of_nnx_variables(donate, explained):
    graph, first = nnx.split(nnx_state())

    @partial(jax.jit, donate_argnums=donate)
    def step(state, x):
        both = nnx.merge(graph, state)
        loss = plain_nnx_step(*both, x)
        return nnx.state(both), loss

    run, state = guarded(step, every=5), first
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            state, _ = run(state, x)
    assert caught.value.step == BAD


@pytest.mark.parametrize("donate", [(), (0, 1)])
def test_modules_that_a_step_takes_and_returns(donate, explained):
    def once(model, optimizer, x):
        model, optimizer = nnx.clone((model, optimizer))
        return model, optimizer, plain_nnx_step(model, optimizer, x)

    step = nnx.jit(once, donate_argnums=donate)
    run, state = guarded(step, every=5), nnx_state()
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            *state, _ = run(*state, x)
    assert caught.value.step == BAD
    expected = nnx_state()
    for x in batches()[:BAD]:
        *expected, _ = step(*expected, x)
    assert bits(nnx.state(run.crash.args[:2])) == bits(nnx.state(tuple(expected)))


# ---- around the loop


def test_the_look_is_early_when_the_batches_are_large(explained):
    run, state = guarded(PURE_STEPS["jax.jit"], memory=3 * 4 * 3 * 4), pure_state()
    with pytest.raises(NonFiniteError):
        for x in batches():
            state, _ = run(state, x)
    assert run.calls < STEPS


def test_it_goes_on_after_an_error(explained):
    run = guarded(PURE_STEPS["jax.jit"], every=1)
    state, skipped = pure_state(), []
    for i, x in enumerate(batches()):
        try:
            state, _ = run(state, x)
        except NonFiniteError as error:
            skipped.append((i, error.step))
    assert skipped == [(BAD, BAD)]
    assert run.calls == STEPS


def test_an_error_in_the_loop_is_explained_too(explained):
    run, state = guarded(PURE_STEPS["jax.jit"]), pure_state()
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            state, aux = run(state, x)
            if not jnp.isfinite(aux["loss"]):
                raise RuntimeError("the loss is NaN")
    assert caught.value.step == BAD
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_another_kind_passes():
    with pytest.raises(KeyError), guarded(PURE_STEPS["jax.jit"]) as run:
        run(pure_state(), batches()[0])
        raise KeyError("other")


def test_a_step_that_is_no_function_of_its_arguments_says_so():
    values = iter([1.0, np.nan, 1.0, 1.0])
    run = guarded(lambda w: (w, next(values)))
    with pytest.raises(NonFiniteError, match="steps 0 to 1, but .*arguments") as caught:
        with run:
            run(jnp.ones(2))
            run(jnp.ones(2))
    assert caught.value.report is None and caught.value.step is None


def test_under_the_nan_checks_of_jax_a_donating_step_is_replayed():
    run, state = guarded(jax.jit(lambda w, x: (w, jnp.log(x)))), jnp.ones(2)
    for x in (1.0, -1.0):
        state, _ = run(state, x)
    with jax.debug_nans(True), pytest.raises(NonFiniteError) as caught:
        run.check()
    assert caught.value.step == 1


def test_an_explanation_that_fails_does_not_hide_the_error(monkeypatch):
    def broken(*args, **kwargs):
        raise NotImplementedError("no such primitive")

    monkeypatch.setattr(_failure, "explain", broken)
    run = guarded(jax.jit(jnp.log), every=1)
    with pytest.raises(NonFiniteError, match="explain.. failed: .*no such prim") as e:
        run(0.0)
    assert e.value.report is None and e.value.step == 0


def test_save_crash_and_explain_elsewhere(tmp_path):
    path = tmp_path / "crash.npz"
    step, state = NNX_STEPS["donate_argnums"], nnx_state()
    run = guarded(step)
    with pytest.raises(RuntimeError, match="no step has failed"):
        run.save_crash(path)
    with pytest.raises(NonFiniteError) as caught, run:
        for x in batches():
            run(*state, x)
    run.save_crash(path)
    crash = load_crash(path, *nnx_state())
    assert crash.step == BAD
    assert str(explain(step, *crash.args)) == str(caught.value.report)


def test_it_looks_like_the_step():
    run = guarded(pure_step)
    assert run.__name__ == "pure_step" and run.__wrapped__ is pure_step


@pytest.mark.parametrize(
    ("step", "options", "error", "message"),
    [
        (3, {}, TypeError, "step is a int: give the function itself"),
        (len, {"every": 0}, ValueError, "every is 0: give a whole number"),
        (len, {"memory": "1G"}, ValueError, "memory is '1G': give"),
    ],
)
def test_errors_say_what_to_write(step, options, error, message):
    with pytest.raises(error, match=message):
        guarded(step, **options)
