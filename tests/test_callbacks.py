import json
import logging
import struct
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import wandb
from flax import nnx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

import vaelab
from vaelab import losses
from vaelab.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    JSONLogger,
    ProgressBar,
    ReduceLROnPlateau,
    TensorBoard,
    WandB,
)

ADAM = optax.adam(1e-3)


def new_vae():
    return vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))


def fit(images, *callbacks, model=None, epochs=4, optimizer=ADAM, **options):
    options = {"batch_size": 32} | options
    return vaelab.fit(
        new_vae() if model is None else model,
        images,
        epochs=epochs,
        optimizer=optimizer,
        callbacks=callbacks,
        **options,
    )


@pytest.fixture(scope="module")
def images(digits):
    return digits.train[:128]


def state_of(model, filter):
    return [np.array(x) for x in jax.tree.leaves(nnx.state(model, filter))]


def streams_of(model):
    return [
        np.array(jax.random.key_data(x) if is_key(x) else x)
        for x in jax.tree.leaves(nnx.state(model, nnx.RngState))
    ]


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def assert_same(got, expected):
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


class Each(Callback):
    """Calls a function after every epoch, and keeps what it returns."""

    def __init__(self, function):
        self.function = function
        self.seen = []

    def on_epoch(self, run):
        self.seen.append(self.function(run))


class FakeRun(SimpleNamespace):
    """A run whose metric takes given values."""

    def __init__(self, epoch=0, **history):
        super().__init__(
            epoch=epoch,
            history={name: list(values) for name, values in history.items()},
            steps_per_epoch=10,
            step=10 * epoch,
            is_within_epoch=False,
            learning_rate_scale=1.0,
            stopped_by=None,
        )

    def stop(self, reason):
        self.stopped_by = reason


def visited(callback, values, metric="validation_elbo", run=None):
    """Takes a callback through epochs until it stops the run."""
    run = run or FakeRun(**{metric: []})
    callback.on_start(run)
    for value in values:
        run.history[metric].append(value)
        run.epoch += 1
        if run.epoch % callback.every == 0:
            callback.on_epoch(run)
        if run.stopped_by:
            break
    return run


def as_checkpointed(state, form):
    """Gives a state back the ways a checkpoint may: as JSON, or as NumPy arrays."""
    if form == "arrays":
        return jax.tree.map(np.asarray, state)
    return json.loads(json.dumps(jax.tree.map(lambda x: np.asarray(x).tolist(), state)))


class TestEarlyStopping:
    @pytest.mark.parametrize(
        ("values", "options", "stops_after", "best"),
        [
            ([1, 2, 3, 2, 2, 9], {"patience": 2}, 5, 3),
            ([1, 2, 3, 3, 3, 9], {"patience": 2}, 5, 3),
            ([1, 0, 2, 0, 3, 0, 0], {"patience": 2}, 7, 5),
            ([5, 4, 3], {"patience": 1}, 2, 1),
            ([1, 1.5, 2, 2.5, 3], {"patience": 2, "min_delta": 0.9}, None, 5),
            ([1, 1.5, 1.9, 2.5, 3], {"patience": 2, "min_delta": 1}, 3, 1),
            ([1, np.nan, 2, np.nan, np.nan], {"patience": 2}, 5, 3),
            ([1, np.inf, 2, 0, 0], {"patience": 2}, 5, 3),
            ([1, 2, 3, 4], {"patience": 1}, None, 4),
        ],
    )
    def test_stops_when_patience_is_over(self, values, options, stops_after, best):
        stopping = EarlyStopping(restore_best=False, **options)
        run = visited(stopping, values)
        assert stopping.best_epoch == best
        if stops_after is None:
            assert run.stopped_by is None
        else:
            assert run.epoch == stops_after
            assert run.stopped_by == f"validation_elbo was best in epoch {best}"

    def test_a_loss_is_better_the_lower_it_is(self):
        stopping = EarlyStopping(2, "loss", restore_best=False)
        assert visited(stopping, [3, 2, 1, 2, 3, 0], "loss").epoch == 5
        assert stopping.best_epoch == 3

    def test_says_if_the_metric_was_never_finite(self):
        stopping = EarlyStopping(2, restore_best=False)
        run = visited(stopping, [np.nan, -np.inf, 1.0])
        assert run.stopped_by == "validation_elbo was never finite"
        assert stopping.best_epoch == 0

    def test_patience_counts_epochs_however_often_it_looks(self):
        stopping = EarlyStopping(4, restore_best=False)
        stopping.every = 3
        run = visited(stopping, [0, 0, 9, *[0] * 20])
        assert (run.epoch, stopping.best_epoch) == (9, 3)

    def test_a_second_run_begins_anew(self):
        stopping = EarlyStopping(2, restore_best=False)
        visited(stopping, [9, 0, 0])
        assert visited(stopping, [1, 2, 3, 2, 2]).epoch == 5
        assert stopping.best_epoch == 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"patience": 0}, "patience is 0: give at least 1"),
            ({"patience": 1, "min_delta": -1}, "min_delta is -1: give 0 or a"),
            ({"patience": 1, "min_delta": np.nan}, "min_delta is nan: give 0 or a"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(ValueError, match=message):
            EarlyStopping(**options)

    @pytest.mark.parametrize(
        "restore_best", [True, pytest.param(False, marks=pytest.mark.slow)]
    )
    def test_gives_the_model_its_best_parameters(self, digits, restore_best):
        model = new_vae()
        each = Each(
            lambda run: (state_of(run.model, nnx.Param), streams_of(run.model)),
        )
        stopping = EarlyStopping(3, restore_best=restore_best)
        result = fit(
            digits.train[:16],  # few images at a high rate, which soon overfits
            stopping,
            each,
            model=model,
            epochs=200,
            batch_size=16,
            optimizer=optax.adam(0.03),
            validation=digits.test,
        )
        best = stopping.best_epoch
        assert best == 1 + np.argmax(result.history["validation_elbo"])
        assert 1 < best == result.epochs - 3
        assert result.stopped_by == f"validation_elbo was best in epoch {best}"
        kept = best if restore_best else result.epochs
        assert_same(state_of(model, nnx.Param), each.seen[kept - 1][0])
        assert_same(streams_of(model), each.seen[-1][1])

    @pytest.mark.slow
    def test_a_run_without_a_best_epoch_keeps_its_parameters(self, images):
        model = new_vae()
        each = Each(lambda run: state_of(run.model, nnx.Param))

        def without_elbo(model, x):
            elbo = losses.elbo(model, x)
            return elbo._replace(elbo=elbo.elbo * jnp.nan)

        stopping = EarlyStopping(3, "elbo")
        result = fit(images, stopping, each, model=model, loss_fn=without_elbo)
        assert (result.epochs, result.stopped_by) == (3, "elbo was never finite")
        assert_same(state_of(model, nnx.Param), each.seen[-1])

    @pytest.mark.parametrize("form", ["arrays", "json"])
    @pytest.mark.parametrize(
        "restore_best", [True, pytest.param(False, marks=pytest.mark.slow)]
    )
    def test_goes_on_from_a_checkpoint(self, form, restore_best):
        values = [1, 5, 2, 3, 4, 0]
        model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        run = FakeRun(validation_elbo=[])
        run.model = model
        before = EarlyStopping(4, restore_best=restore_best)
        visited(before, values[:3], run=run)
        after = EarlyStopping(4, restore_best=restore_best)
        after.restore(as_checkpointed(before.state(), form))
        best = state_of(model, nnx.Param)
        model.kernel[...] += 1.0
        visited(after, values[3:], run=run)
        after.on_end(run)
        assert run.stopped_by == "validation_elbo was best in epoch 2"
        assert isinstance(model.kernel[...], jax.Array)
        if restore_best:
            assert_same(state_of(model, nnx.Param), best)
        else:
            assert (model.kernel[...] != best[1]).all()

    @pytest.mark.parametrize("form", ["arrays", "json"])
    def test_an_unused_one_comes_back_unused(self, form):
        stopping = EarlyStopping(2)
        stopping.restore(as_checkpointed(EarlyStopping(2).state(), form))
        assert stopping.best_epoch == 0
        assert stopping.state() == EarlyStopping(2).state()


class TestReduceLROnPlateau:
    @pytest.mark.parametrize(
        ("values", "options", "scale"),
        [
            ([1, 2, 3, 2], {"patience": 2}, 1.0),
            ([1, 2, 3, 2, 2], {"patience": 2}, 0.1),
            ([1, 2, 3, 2, 2, 2], {"patience": 2}, 0.1),
            ([1, 2, 3, 2, 2, 2, 2], {"patience": 2, "factor": 0.5}, 0.25),
            ([1, 0, 0, 2, 0], {"patience": 2}, 0.1),
            ([1, 0, 0, 2, 0, 0], {"patience": 2, "factor": 0.5}, 0.25),
            ([1, 0, 0, 0], {"patience": 1, "factor": 0.5, "min_scale": 0.2}, 0.2),
            ([np.nan, np.nan], {"patience": 2}, 0.1),
        ],
    )
    def test_lowers_the_rate_when_patience_is_over(self, values, options, scale):
        run = visited(ReduceLROnPlateau(**options), values)
        assert run.learning_rate_scale == pytest.approx(scale)

    def test_never_raises_a_rate_that_someone_else_lowered(self):
        run = FakeRun(validation_elbo=[])
        run.learning_rate_scale = 0.01
        visited(ReduceLROnPlateau(1, min_scale=0.1), [1, 0, 0], run=run)
        assert run.learning_rate_scale == 0.01

    def test_a_second_run_begins_anew(self):
        plateau = ReduceLROnPlateau(2)
        visited(plateau, [9, 9])
        assert visited(plateau, [1, 2, 2]).learning_rate_scale == 1.0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"factor": 1.0}, r"factor is 1.0: give a number in \(0, 1\)"),
            ({"factor": 0.0}, "factor is 0.0"),
            ({"min_scale": 2.0}, r"min_scale is 2.0: give a number in \[0, 1\]"),
            ({"patience": 0}, "patience is 0"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(ValueError, match=message):
            ReduceLROnPlateau(**{"patience": 1} | options)

    @pytest.mark.parametrize("form", ["arrays", "json"])
    def test_goes_on_from_a_checkpoint(self, form):
        before, after = (ReduceLROnPlateau(3) for _ in range(2))
        run = visited(before, [5, 4, 3])
        after.restore(as_checkpointed(before.state(), form))
        assert visited(after, [4], run=run).learning_rate_scale == pytest.approx(0.1)

    @pytest.mark.parametrize("make", [optax.sgd, optax.adam, optax.adamw])
    @pytest.mark.slow
    def test_is_the_same_as_another_rate(self, images, make):
        class Halve(Callback):
            def on_epoch(self, run):
                if run.epoch >= 2:
                    rates = run.optimizer.opt_state[0].hyperparams
                    rates["learning_rate"][...] *= 0.5

        optimizer = optax.inject_hyperparams(make)(learning_rate=1e-3)
        lowered, reference = new_vae(), new_vae()
        plateau = ReduceLROnPlateau(1, "loss", factor=0.5, min_delta=1e9)
        scales = Each(lambda run: run.learning_rate_scale)
        fit(images, plateau, scales, model=lowered, optimizer=optimizer)
        fit(images, Halve(), model=reference, optimizer=optimizer)
        assert scales.seen == [1.0, 0.5, 0.25, 0.125]
        # a factor of two rounds nothing, so that the two agree bit for bit
        assert_same(state_of(lowered, nnx.Param), state_of(reference, nnx.Param))

    @pytest.mark.parametrize("make", [optax.sgd, optax.adam])
    @pytest.mark.slow
    def test_scales_a_plain_optimizer(self, images, make):
        """The optimizers that people use have their rate built in."""
        lowered, reference = new_vae(), new_vae()
        plateau = ReduceLROnPlateau(1, "loss", factor=0.1, min_delta=1e9)
        fit(images, plateau, model=lowered, optimizer=make(1e-3), epochs=3)
        schedule = optax.piecewise_constant_schedule(1e-3, {8: 0.1})  # two epochs
        fit(images, model=reference, optimizer=make(schedule), epochs=3)
        for a, b in zip(
            state_of(lowered, nnx.Param), state_of(reference, nnx.Param), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-7)


class TestProgressBar:
    @pytest.mark.slow
    def test_shows_in_a_notebook(self, images, monkeypatch, capsys):
        class Kernel:
            config = {"IPKernelApp": {}}

        from tqdm.auto import tqdm  # noqa: F401 (chooses its bar now, in no notebook)

        ipython = SimpleNamespace(get_ipython=Kernel)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        fit(images, validation=images, epochs=3)
        shown = capsys.readouterr().err
        assert "3/3" in shown
        for name in ("loss=", "elbo=", "validation_elbo=", "steps/s="):
            assert name in shown

    @pytest.mark.parametrize(("progress", "bars"), [(True, 1), (None, 0), (False, 0)])
    def test_is_silent_when_no_one_watches(self, images, capsys, progress, bars):
        fit(images, progress=progress)
        assert capsys.readouterr().err.count(" 0/4 ") == bars

    def test_shows_once(self, images, capsys):
        fit(images, ProgressBar(show=True), progress=True)
        assert capsys.readouterr().err.count(" 0/4 ") == 1

    def test_a_loss_without_an_elbo(self, images, capsys):
        def squared_error(model, x):
            return ((jax.nn.sigmoid(model(x).logits) - x) ** 2).mean()

        fit(images, loss_fn=squared_error, progress=True)
        shown = capsys.readouterr().err
        assert "loss=" in shown and "elbo" not in shown and "nan" not in shown

    def test_shows_what_a_run_that_failed_reached(self, images, capsys):
        class Failing(Callback):
            def on_epoch(self, run):
                if run.epoch == 2:
                    raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            fit(images, Failing(), progress=True)
        assert "2/4" in capsys.readouterr().err


def test_a_callback_of_ones_own_in_five_lines(images):
    seen = []

    class Mine(Callback):
        every = 2

        def on_epoch(self, run):
            seen.append((run.epoch, run.step, len(run.history["loss"])))

    fit(images, Mine(), epochs=5)
    assert seen == [(2, 8, 2), (4, 16, 4), (5, 20, 5)]


def test_a_callback_sees_the_beginning_and_the_end(images):
    class Ends(Callback):
        every = None

        def on_start(self, run):
            self.start = (run.epoch, run.epochs, run.step, run.steps_per_epoch)

        def on_end(self, run):
            self.end = (run.epoch, run.step, run.stopped_by)

    ends = Ends()
    fit(images, ends)
    assert ends.start == (0, 4, 0, 4)
    assert ends.end == (4, 16, "epochs")


class Ending(Callback):
    """Notes its end, and may fail on the way."""

    def __init__(self, name, ended, fails=None):
        self.name, self.ended, self.fails = name, ended, fails

    def on_start(self, run):
        if self.fails == "start":
            raise OSError(self.name)

    def on_end(self, run):
        self.ended.append((self.name, run.stopped_by))
        if self.fails == "end":
            raise OSError(self.name)


def test_callbacks_end_in_reverse_even_if_one_fails(images):
    ended = []
    model = new_vae()
    with pytest.raises(OSError, match="second"):
        fit(
            images,
            Ending("first", ended),
            Ending("second", ended, fails="end"),
            Ending("third", ended),
            model=model,
        )
    assert ended == [("third", "epochs"), ("second", "epochs"), ("first", "epochs")]
    assert int(model.rngs.noise.count[...]) > 0  # the model is trained


def test_only_callbacks_that_started_end(images):
    ended = []
    with pytest.raises(OSError, match="second"):
        fit(
            images,
            Ending("first", ended),
            Ending("second", ended, fails="start"),
            Ending("third", ended),
        )
    assert ended == [("first", "error")]


def test_every_none_leaves_epochs_in_one_call(images):
    each = Each(lambda run: run.epoch)
    each.every = None
    fit(images, each, epochs=40)
    assert each.seen[-1] == 40
    assert len(each.seen) < 20


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_every_is_a_number_of_epochs(images, every):
    each = Each(lambda run: None)
    each.every = every
    with pytest.raises(ValueError, match=f"every of Each is {every}: give at least 1"):
        fit(images, each)


def test_what_a_callback_changes_is_trained_on(images):
    class Zero(Callback):
        def on_epoch(self, run):
            params = nnx.state(run.model, nnx.Param)
            nnx.update(run.model, jax.tree.map(jnp.zeros_like, params))

    still, model = optax.sgd(0.0), new_vae()
    history = fit(images, Zero(), model=model, optimizer=still, epochs=2).history
    # all logits 0 and the posterior N(0, 1): 64 pixels of log 2 nats each, no KL
    assert history["reconstruction"][1] == pytest.approx(64 * np.log(2), rel=1e-5)
    assert history["kl"][1] == pytest.approx(0, abs=1e-5)
    assert history["reconstruction"][0] != pytest.approx(64 * np.log(2), rel=1e-3)
    assert not any(leaf.any() for leaf in state_of(model, nnx.Param))


def test_a_callback_may_stop_the_run(images):
    result = fit(images, Each(lambda run: run.epoch == 2 and run.stop("enough")))
    assert (result.epochs, result.stopped_by) == (2, "enough")
    assert len(result.history["loss"]) == 2


def test_a_learning_rate_scale_of_zero_leaves_the_parameters(images):
    model = new_vae()
    each = Each(lambda run: state_of(run.model, nnx.Param))

    class Freeze(Callback):
        every = 2

        def on_epoch(self, run):
            run.learning_rate_scale = 0.0

    fit(images, each, Freeze(), model=model)
    assert any((a != b).any() for a, b in zip(*each.seen[:2], strict=True))
    assert_same(each.seen[3], each.seen[1])


@pytest.mark.parametrize("kind", [EarlyStopping, ReduceLROnPlateau])
@pytest.mark.parametrize(
    ("metric", "validated", "advice"),
    [
        ("elbow", False, "choose one of elbo, kl, loss, reconstruction"),
        ("validation_elbow", True, "elbo, kl, loss, reconstruction, validation_elbo"),
        ("validation_elbo", False, "give validation=images, or metric='elbo'"),
    ],
)
def test_a_wrong_metric_is_refused_before_anything_is_compiled(
    images, caplog, kind, metric, validated, advice
):
    new = kind, metric, validated  # so that no earlier test has compiled its equal

    def loss_fn(model, x):
        assert new
        return losses.elbo(model, x)

    held_out = images if validated else None
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        message = f"metric of {kind.__name__} is '{metric}', which is not recorded: "
        with pytest.raises(ValueError, match=message + ".*" + advice):
            callback = kind(patience=1, metric=metric)
            fit(images, callback, loss_fn=loss_fn, validation=held_out)
        assert "steps" not in caplog.text and "validate" not in caplog.text


def test_what_a_run_compiles_is_logged_by_these_names(images, caplog):
    new = object()  # so that no earlier test has compiled its equal

    def loss_fn(model, x):
        assert new
        return losses.elbo(model, x)

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        fit(images, loss_fn=loss_fn, validation=images)
    assert "steps" in caplog.text and "validate" in caplog.text


@pytest.mark.parametrize("wrong", [JSONLogger, print])
def test_a_class_or_a_function_is_no_callback(images, wrong):
    with pytest.raises(TypeError, match=f"callbacks holds a '{wrong.__name__}': give"):
        fit(images, wrong)


def test_one_callback_is_no_list(images):
    with pytest.raises(TypeError, match="callbacks is a EarlyStopping: give a list"):
        vaelab.fit(
            new_vae(),
            images,
            epochs=1,
            batch_size=20,
            optimizer=ADAM,
            callbacks=EarlyStopping(2),
        )


@pytest.mark.slow
def test_callbacks_may_come_from_a_generator(images):
    class Count(Callback):
        epochs = 0

        def on_epoch(self, run):
            self.epochs += 1

    count = Count()
    settings = {"epochs": np.int64(2), "batch_size": np.int32(20), "optimizer": ADAM}
    vaelab.fit(new_vae(), images, callbacks=(c for c in [count]), **settings)
    assert count.epochs == 2


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def after(epochs, sign=1.0):
    losses = [sign * epoch for epoch in range(1, epochs + 1)]
    return FakeRun(epochs, loss=losses, validation_elbo=[-x for x in losses])


def logged(logger, *epochs, sign=1.0):
    """Takes a logger through a run that it sees after these numbers of epochs."""
    logger.on_start(after(epochs[0], sign))
    for epoch in epochs[1:]:
        logger.on_epoch(after(epoch, sign))
    logger.on_end(after(epochs[-1], sign))


class TestJSONLogger:
    def test_writes_the_history(self, images, tmp_path):
        path = tmp_path / "new" / "log.jsonl"
        result = fit(images, JSONLogger(path), validation=images[:20])
        rows = rows_of(path)
        assert [list(row)[:2] for row in rows] == [["epoch", "step"]] * 4
        assert [row.pop("epoch") for row in rows] == [1, 2, 3, 4]
        assert [row.pop("step") for row in rows] == [4, 8, 12, 16]
        for name, values in result.history.items():
            assert [row.pop(name) for row in rows] == list(values)
        assert rows == [{}] * 4

    def test_knows_the_steps_of_a_stream(self, images, tmp_path):
        class Batches:
            def __iter__(self):
                yield from images.reshape(4, 32, 8, 8)

        path = tmp_path / "log.jsonl"
        fit(Batches(), JSONLogger(path), epochs=3, batch_size=None)
        assert [row["step"] for row in rows_of(path)] == [4, 8, 12]

    def test_leaves_epochs_in_one_call(self, images, tmp_path):
        path = tmp_path / "log.jsonl"
        each = Each(lambda run: run.epoch)
        each.every = None
        fit(images, JSONLogger(path), each, epochs=40)
        assert [row["epoch"] for row in rows_of(path)] == list(range(1, 41))
        assert len(each.seen) < 20

    def test_a_reader_sees_each_epoch_at_once(self, images, tmp_path):
        path = tmp_path / "log.jsonl"
        each = Each(lambda run: len(rows_of(path)))
        fit(images, JSONLogger(path), each)
        assert each.seen == [1, 2, 3, 4]

    @pytest.mark.slow
    def test_a_failed_run_leaves_its_epochs(self, images, tmp_path):
        def overflowing(model, x, beta):
            return losses.elbo(model, x, beta=jnp.where(beta > 9, jnp.inf, 1.0))

        path = tmp_path / "log.jsonl"
        with pytest.raises(vaelab.debug.NonFiniteError) as error:
            fit(
                images,
                JSONLogger(path),
                loss_fn=overflowing,
                beta=lambda step: jnp.float32(step),
            )
        assert error.value.step == 10
        assert [row["epoch"] for row in rows_of(path)] == [1, 2]

    def test_numbers_that_json_lacks_are_null(self, tmp_path):
        path = tmp_path / "log.jsonl"
        logger, run = JSONLogger(path), FakeRun(3, loss=[np.nan, np.inf, np.float32(2)])
        logger.on_start(run)
        logger.on_end(run)
        assert [row["loss"] for row in rows_of(path)] == [None, None, 2.0]

    def test_a_new_run_replaces_the_log(self, tmp_path):
        path = tmp_path / "log.jsonl"
        logger = JSONLogger(path)
        logged(logger, 0, 2, 5)
        logged(logger, 0)
        assert rows_of(path) == []
        logged(logger, 0, 3, sign=-1.0)
        assert [row["loss"] for row in rows_of(path)] == [-1, -2, -3]

    @pytest.mark.parametrize("reached", [3, 5, 7])
    def test_a_resumed_run_logs_no_epoch_twice(self, tmp_path, reached):
        path = tmp_path / "log.jsonl"
        logged(JSONLogger(path), 0, 1, reached)
        logged(JSONLogger(path), 5, 6, 8)
        rows = rows_of(path)
        assert [row["epoch"] for row in rows] == list(range(1, 9))
        assert [row["loss"] for row in rows] == list(range(1, 9))
        assert [row["step"] for row in rows] == list(range(10, 90, 10))

    @pytest.mark.parametrize("cut", [1, 5, 12, 40])
    def test_a_line_that_was_cut_off_is_written_again(self, tmp_path, cut):
        path = tmp_path / "log.jsonl"
        logged(JSONLogger(path), 0, 3)
        whole = path.read_bytes()
        for lines in (1, 3):
            path.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines])[:-cut])
            logged(JSONLogger(path), 3)
            assert path.read_bytes() == whole

    def test_lines_that_are_there_stay_as_they_are(self, tmp_path):
        path = tmp_path / "log.jsonl"
        path.write_text('{"epoch": 1, "step": 10, "mark": 1}\n')
        logged(JSONLogger(path), 2)
        assert [row.get("mark") for row in rows_of(path)] == [1, None]

    def test_refuses_a_file_that_is_no_log(self, images, tmp_path):
        path = tmp_path / "thesis.md"
        path.write_text("# Three years of work\n")
        with pytest.raises(ValueError, match="thesis.md', a file that is no log of"):
            fit(images, JSONLogger(path))
        assert path.read_text() == "# Three years of work\n"

    @pytest.mark.parametrize("path", ["", "file/log.jsonl"])
    def test_refuses_a_path_that_cannot_be_written(self, images, tmp_path, path):
        (tmp_path / "file").touch()

        def loss_fn(model, x):
            raise AssertionError

        with pytest.raises(ValueError, match=r"path is '.*', which cannot be written "):
            fit(images, JSONLogger(tmp_path / path))


def curves_of(directory):
    events = EventAccumulator(str(directory))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


class TestTensorBoard:
    def test_writes_the_history(self, images, tmp_path):
        directory = tmp_path / "new" / "events"
        result = fit(images, TensorBoard(directory), validation=images[:20])
        curves = curves_of(directory)
        assert curves.keys() == result.history.keys()
        for name, values in result.history.items():
            expected = [
                (i, np.float32(value)) for i, value in enumerate(values, start=1)
            ]
            assert curves[name] == expected

    def test_a_reader_sees_each_epoch_at_once(self, images, tmp_path):
        each = Each(lambda run: len(curves_of(tmp_path)["loss"]))
        fit(images, TensorBoard(tmp_path), each, epochs=2)
        assert each.seen == [1, 2]

    @pytest.mark.parametrize("reached", [5, 7])
    def test_a_resumed_run_logs_no_epoch_twice(self, tmp_path, reached):
        logged(TensorBoard(tmp_path), 0, 1, reached)
        logged(TensorBoard(tmp_path), 5, 6, 8)
        assert curves_of(tmp_path)["loss"] == [(i, i) for i in range(1, 9)]

    def test_a_resumed_run_may_log_elsewhere(self, tmp_path):
        logged(TensorBoard(tmp_path), 5, 6, 8)
        assert curves_of(tmp_path)["loss"] == [(i, i) for i in range(1, 9)]

    def test_a_new_run_hides_an_earlier_one(self, tmp_path):
        logger = TensorBoard(tmp_path)
        logged(logger, 0, 5)
        logged(logger, 0, 3, sign=-1.0)
        assert curves_of(tmp_path)["loss"] == [(i, -i) for i in range(1, 4)]

    def test_leaves_tensorflow_alone(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorflow", None)  # an import would fail
        logged(TensorBoard(tmp_path), 0, 1)

    def test_refuses_a_directory_that_cannot_be_written(self, images, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="directory is '.*', which cannot be writ"):
            fit(images, TensorBoard(tmp_path / "file"))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Arguments of a W&B run that stays on this machine."""
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return {"project": "test", "mode": "offline", "dir": str(tmp_path)}


def wandb_runs(directory):
    """Reads what W&B runs on this machine have logged: ids, rows, exit codes."""
    wandb.teardown()  # finish() may return before the last records are in the file
    runs = []
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        content, rows, exit_code = path.read_bytes()[7:], [], None
        while content:  # LevelDB's format of records, all in its first block of 32 KiB
            _, length, kind = struct.unpack("<IHB", content[:7])
            assert kind == 1
            record = wandb_internal_pb2.Record.FromString(content[7 : 7 + length])
            content = content[7 + length :]
            if record.HasField("history"):
                values = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
                rows.append(values)
            if record.HasField("exit"):
                exit_code = record.exit.exit_code
        runs.append((path.stem.removeprefix("run-"), rows, exit_code))
    return runs


class TestWandB:
    def test_logs_the_history(self, images, tmp_path, offline):
        result = fit(images, WandB(**offline), validation=images[:20])
        ((_, rows, exit_code),) = wandb_runs(tmp_path)
        assert [row["_step"] for row in rows] == [1, 2, 3, 4]
        for name, values in result.history.items():
            assert [row[name] for row in rows] == list(values)
        assert exit_code == 0
        assert wandb.run is None

    def test_a_failed_run_is_marked_as_such(self, images, tmp_path, offline):
        def fail(run):
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            fit(images, WandB(**offline), Each(fail))
        ((_, rows, exit_code),) = wandb_runs(tmp_path)
        assert len(rows) == 1
        assert exit_code == 1

    @pytest.mark.parametrize("form", ["arrays", "json"])
    def test_a_resumed_run_logs_no_epoch_twice(self, tmp_path, offline, form):
        before, after = WandB(**offline), WandB(**offline)
        logged(before, 0, 5)
        after.restore(as_checkpointed(before.state(), form))
        logged(after, 5, 7, 8)
        (name, rows, _), (same_name, more, _) = wandb_runs(tmp_path)
        assert name == same_name
        assert [row["loss"] for row in rows + more] == list(range(1, 9))
        assert [row["_step"] for row in rows + more] == list(range(1, 9))

    def test_another_run_is_whole(self, tmp_path, offline):
        logger = WandB(**offline)
        logged(logger, 0, 2)
        logged(logger, 0, 3)  # begins anew
        logged(WandB(**offline), 4, 5)  # resumed from a checkpoint without a logger
        runs = wandb_runs(tmp_path)
        assert len({name for name, *_ in runs}) == 3
        assert sorted(len(rows) for _, rows, _ in runs) == [2, 3, 5]

    @pytest.mark.parametrize(
        ("there", "expected"), [(0, range(1, 9)), (3, range(4, 9)), (7, [8])]
    )
    def test_goes_on_with_what_the_server_has(self, monkeypatch, there, expected):
        """Runs that the server resumes need one, so this one is made up."""
        asked, steps = [], []

        def init(**arguments):
            asked.append(arguments)
            resumed = "resume" in arguments
            return SimpleNamespace(
                id="abc",
                resumed=resumed,
                starting_step=there + 1 if resumed and there else 0,
                offline=False,
                log=lambda row, step, commit: steps.append(step),
                finish=lambda exit_code: None,
            )

        monkeypatch.setattr(wandb, "init", init)
        before, after = WandB(project="p"), WandB(project="p")
        logged(before, 0)
        after.restore(before.state())
        logged(after, 5, 6, 8)
        same = {"id": "abc", "resume": "allow"}
        assert asked == [{"project": "p"}, {"project": "p"} | same]
        assert steps == list(expected)


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [
        (lambda: TensorBoard("events"), "tensorboard", "tensorboard"),
        (WandB, "wandb", "wandb"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, make, package, extra):
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{package} is not installed: pip install 'vaelab\[{extra}\]'"
    with pytest.raises(ImportError, match=message):
        make()


def test_a_metric_of_ones_own_says_whether_it_shall_rise(images, tmp_path):
    def loss_fn(model, x):
        terms = losses.elbo(model, x)
        return terms, {"accuracy": -terms.reconstruction}

    for callback in (
        EarlyStopping(2, "accuracy"),
        ReduceLROnPlateau(2, "accuracy"),
        Checkpoint(tmp_path, metric="accuracy"),
    ):
        with pytest.raises(ValueError, match="metric is 'accuracy', .* mode='max'"):
            fit(images, callback, loss_fn=loss_fn)
    stopping = EarlyStopping(2, "accuracy", mode="max")
    result = fit(images, stopping, loss_fn=loss_fn, epochs=3)
    assert stopping.best_epoch == np.argmax(result.history["accuracy"]) + 1
    with pytest.raises(ValueError, match="mode is 'up': give 'min', 'max' or None"):
        EarlyStopping(2, mode="up")
