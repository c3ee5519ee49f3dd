"""Saved models, and runs that go on bit for bit after they were killed."""

import json
import random
import shutil
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import callbacks, likelihoods
from vaelab.callbacks import Checkpoint, EarlyStopping, ReduceLROnPlateau
from vaelab.training._program import without_keys

ADAM = optax.adam(1e-3)


def new_vae(**options):
    return vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1), **options)


def assert_same(a, b):
    for x, y in zip(
        without_keys(nnx.state(a)), without_keys(nnx.state(b)), strict=True
    ):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "model",
    [
        new_vae(),
        new_vae(dropout=0.2),
        new_vae(dtype=jnp.bfloat16, log_std_bounds=None),
        new_vae(likelihood=likelihoods.Categorical(17)),
        new_vae(likelihood=likelihoods.Gaussian(0.3)),
        new_vae(likelihood=likelihoods.PixelwiseGaussian()),
        new_vae(likelihood=likelihoods.ContinuousBernoulli()),
        new_vae(likelihood=likelihoods.LearnedGaussian(0.5, floor=0.01)),
        vaelab.VAE((4, 6, 3), (), 2, rngs=nnx.Rngs(noise=3, dropout=4, params=5)),
    ],
    ids=lambda model: str(type(model.likelihood).__name__),
)
def test_a_model_comes_back_to_the_last_bit(tmp_path, model):
    x = jnp.zeros((3, *model.image_shape))
    model(x)  # so that the noise is on its way
    vaelab.save(model, tmp_path / "model")
    loaded = vaelab.load(tmp_path / "model")
    assert nnx.graphdef(loaded) == nnx.graphdef(model)
    assert_same(model, loaded)
    for a, b in zip(model(x), loaded(x), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_model_comes_back_in_another_process(tmp_path):
    model = new_vae()
    vaelab.save(model, tmp_path)
    code = f"""
        import jax, vaelab
        model = vaelab.load({str(tmp_path)!r})
        print(model.sample(1, key=jax.random.key(0)).sum().item())
    """
    run = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    expected = model.sample(1, key=jax.random.key(0)).sum().item()
    assert result.stdout == f"{expected}\n"
    assert result.stderr == ""


def test_the_mode_is_kept_and_a_model_is_replaced(tmp_path):
    model = new_vae(dropout=0.5)
    vaelab.save(model, tmp_path)
    model.eval()
    vaelab.save(model, tmp_path)
    assert vaelab.load(tmp_path).encoder.hidden.layers[2].deterministic
    assert len(list(tmp_path.iterdir())) == 1


class Mine(nnx.Module):
    def __init__(self, size, rngs):
        self.linear = nnx.Linear(size, 2, rngs=rngs)


def test_a_model_of_ones_own_needs_a_template(tmp_path):
    model = Mine(3, nnx.Rngs(0))
    vaelab.save(model, tmp_path)
    with pytest.raises(ValueError, match=r"write load\(path, model=template\)"):
        vaelab.load(tmp_path)
    template = Mine(3, nnx.Rngs(1))
    assert vaelab.load(tmp_path, model=template) is template
    assert_same(model, template)
    with pytest.raises(ValueError, match=r"linear/kernel has shape \(4, 2\)"):
        vaelab.load(tmp_path, model=Mine(4, nnx.Rngs(1)))
    with pytest.raises(ValueError, match="has another structure"):
        vaelab.load(tmp_path, model=new_vae())


def test_folders_that_are_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no saved model in"):
        vaelab.load(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    for use in (vaelab.load, lambda path: vaelab.save(new_vae(), path)):
        with pytest.raises(ValueError, match=r"holds 'notes.txt', which is no check"):
            use(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file"):
        vaelab.save(new_vae(), tmp_path / "notes.txt")
    with pytest.raises(OSError, match="cannot be written to"):
        vaelab.save(new_vae(), "/proc/nowhere")


def test_a_corrupt_checkpoint_is_named(tmp_path):
    vaelab.save(new_vae(), tmp_path)
    for file in (tmp_path / "0" / "arrays").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"checkpoint .*/0 cannot be read, because it is damaged"
    ):
        vaelab.load(tmp_path)


def fit(model, digits, epochs, path=None, *, more=(), **options):
    chosen = [
        EarlyStopping(patience=50),
        ReduceLROnPlateau(patience=2, factor=0.5, min_delta=0.5),
        *more,
    ]
    if path is not None:
        chosen.insert(0, Checkpoint(path))
        options.setdefault("resume", path)
    settings = {"batch_size": 50, "optimizer": ADAM, "validation": digits.test[:50]}
    return vaelab.fit(
        model,
        digits.train[:200],
        epochs=epochs,
        callbacks=chosen,
        **(settings | options),
    )


def test_a_run_goes_on_bit_for_bit(digits, tmp_path):
    whole, first, second = (new_vae(dropout=0.1) for _ in range(3))
    expected = fit(whole, digits, 20)
    fit(first, digits, 7, tmp_path)
    result = fit(second, digits, 20, tmp_path)
    assert result.epochs == 20
    for name, values in expected.history.items():
        np.testing.assert_array_equal(result.history[name], values)
    assert_same(whole, second)
    again = new_vae(dropout=0.1)
    done = fit(again, digits, 20, tmp_path)  # returns at once
    np.testing.assert_array_equal(done.history["loss"], expected.history["loss"])
    assert_same(whole, again)


class StopAt(vaelab.callbacks.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, run):
        if run.epoch == self.epoch:
            run.stop("enough")


@pytest.mark.slow
def test_the_last_checkpoint_is_from_before_the_best_parameters_come_back(
    digits, tmp_path
):
    def early():  # the KL is least near the start
        return EarlyStopping(patience=50, metric="kl")

    whole, first, second = (new_vae() for _ in range(3))
    expected = fit(whole, digits, 10, more=[early()])
    best = early()
    cut = [best, StopAt(5), Checkpoint(tmp_path, every=4)]
    fit(first, digits, 10, more=cut, resume=tmp_path)
    assert best.best_epoch < 5
    assert int(vaelab.load(tmp_path).rngs.noise.count[...]) == 5 * 4
    result = fit(second, digits, 10, more=[early()], resume=tmp_path)
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])
    assert_same(whole, second)


@pytest.mark.slow
@pytest.mark.versions
def test_the_best_checkpoint_has_the_best_parameters(digits, tmp_path):
    model = new_vae()
    vaelab.fit(
        model,
        digits.train[:200],
        epochs=3,
        batch_size=50,
        optimizer=ADAM,
        callbacks=[Checkpoint(tmp_path, metric="kl"), EarlyStopping(50, metric="kl")],
    )
    best = vaelab.load(tmp_path, best=True)
    last = vaelab.load(tmp_path)
    kernel = model.decoder.linear.kernel[...]
    np.testing.assert_array_equal(best.decoder.linear.kernel[...], kernel)
    assert not np.array_equal(last.decoder.linear.kernel[...], kernel)


def test_a_checkpoint_callback_forgets_an_earlier_run(digits, tmp_path):
    checkpoint = Checkpoint(tmp_path)
    fit(new_vae(), digits, 3, more=[checkpoint])
    shutil.rmtree(tmp_path)
    model = new_vae()
    fit(model, digits, 1, more=[checkpoint])
    assert_same(vaelab.load(tmp_path, best=True), model)


def test_a_resumed_run_in_another_folder_has_its_own_best(digits, tmp_path):
    first, second = (Checkpoint(tmp_path / name, metric="kl") for name in "ab")
    fit(new_vae(), digits, 2, more=[first])
    fit(new_vae(), digits, 3, more=[second], resume=tmp_path / "a")
    assert isinstance(vaelab.load(tmp_path / "b", best=True), vaelab.VAE)


@pytest.mark.slow
@pytest.mark.versions
def test_another_metric_begins_anew_when_resumed(digits, tmp_path):
    def callbacks_for(metric):
        return [Checkpoint(tmp_path, metric=metric), EarlyStopping(2, metric)]

    fit(new_vae(), digits, 4, more=callbacks_for("kl"), resume=tmp_path)
    *_, stopping = chosen = callbacks_for("validation_elbo")
    model = new_vae()
    fit(model, digits, 7, more=chosen, resume=tmp_path)
    assert stopping.best_epoch == 7
    best = vaelab.load(tmp_path, best=True)
    np.testing.assert_array_equal(
        best.decoder.linear.kernel[...], model.decoder.linear.kernel[...]
    )


def test_early_stopping_may_join_a_resumed_run(digits, tmp_path):
    fit(new_vae(), digits, 6, tmp_path)
    stopping = EarlyStopping(2)
    result = fit(new_vae(), digits, 8, tmp_path, more=[stopping])
    assert result.epochs == 8 and stopping.best_epoch == 8


def test_the_last_checkpoint_may_be_the_best(digits, tmp_path):
    checkpoint = Checkpoint(tmp_path, every=3, metric="loss")
    model = new_vae()
    options = {
        "batch_size": 50,
        "optimizer": ADAM,
        "callbacks": [StopAt(5), checkpoint],
    }
    vaelab.fit(model, digits.train[:200], epochs=9, **options)
    assert_same(vaelab.load(tmp_path, best=True), model)


def test_what_a_killed_deletion_left_is_cleared_away(digits, tmp_path):
    leftover = tmp_path / "4.deleted"
    leftover.mkdir()
    (leftover / "facts").write_text("half")
    fit(new_vae(), digits, 1, tmp_path)
    assert not leftover.exists()


@pytest.mark.slow
def test_a_run_goes_on_from_the_middle_of_an_epoch(digits, tmp_path, press_ctrl_c):
    class Press(callbacks.Callback):
        def on_epoch(self, run):
            if run.epoch == 2:
                press_ctrl_c()

    whole, model = new_vae(), new_vae()
    expected = fit(whole, digits, 6)
    assert fit(model, digits, 6, tmp_path, more=[Press()]).stopped_by == "interrupt"
    result = fit(new_vae(), digits, 6, tmp_path)
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])


def test_a_run_that_stopped_early_stays_stopped(digits, tmp_path):
    def train(model):
        return vaelab.fit(
            model,
            digits.train[:100],
            epochs=50,
            batch_size=50,
            optimizer=optax.sgd(0.0),
            callbacks=[Checkpoint(tmp_path), EarlyStopping(2, "kl", min_delta=1.0)],
            resume=tmp_path,
        )

    first, again = new_vae(), new_vae()
    assert train(first).epochs == train(again).epochs < 50
    assert_same(first, again)


def test_the_best_checkpoint_is_kept_beside_the_latest(digits, tmp_path):
    checkpoint = Checkpoint(tmp_path, metric="kl")  # lowest at the very start
    vaelab.fit(
        new_vae(),
        digits.train[:100],
        epochs=5,
        batch_size=50,
        optimizer=ADAM,
        callbacks=[checkpoint],
    )
    steps = sorted(int(path.name) for path in tmp_path.iterdir())
    facts = json.loads((tmp_path / "10" / "facts" / "metadata").read_text())
    best = facts["best_step"]
    assert steps == sorted({best, 8, 10})
    lowest = int(np.argmin(facts["history"]["kl"]))
    assert best == 2 * (lowest + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "is a run with seed 0, and this call has 1"),
        ({"batch_size": 40}, "is a run with batch_size 50, and this call has 40"),
        ({"validation": None, "callbacks": []}, "it differs in validation_elbo"),
    ],
)
def test_another_run_is_not_resumed(digits, tmp_path, options, message):
    fit(new_vae(), digits, 1, tmp_path)
    settings = {
        "epochs": 3,
        "batch_size": 50,
        "optimizer": ADAM,
        "validation": digits.test[:50],
        "resume": tmp_path,
    }
    with pytest.raises(ValueError, match=message):
        vaelab.fit(new_vae(), digits.train[:200], **(settings | options))


def test_a_folder_with_an_earlier_run_is_not_written_over(digits, tmp_path):
    fit(new_vae(), digits, 1, tmp_path)
    with pytest.raises(
        ValueError, match=r"earlier run, up to step 4: give fit\(\.\.\."
    ):
        fit(new_vae(), digits, 1, tmp_path, resume=None)
    with pytest.raises(ValueError, match="holds the checkpoints of a training run"):
        vaelab.save(new_vae(), tmp_path)
    vaelab.save(new_vae(), tmp_path.parent / "model")
    with pytest.raises(ValueError, match="holds a saved model, not a training run"):
        fit(new_vae(), digits, 1, tmp_path.parent / "model")


@pytest.mark.parametrize("folder", ["foreign", "/proc/nowhere"])
def test_a_bad_folder_is_refused_before_anything_is_compiled(digits, tmp_path, folder):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    compiled = []

    def loss(model, x):
        terms = vaelab.elbo(model, x)
        jax.debug.callback(lambda: compiled.append(True))
        return terms

    with pytest.raises((ValueError, OSError), match=r"thesis.tex|cannot be written"):
        vaelab.fit(
            new_vae(),
            digits.train,
            epochs=1,
            batch_size=50,
            optimizer=ADAM,
            loss_fn=loss,
            callbacks=[Checkpoint(tmp_path / folder)],
        )
    assert compiled == []


@pytest.mark.slow
@pytest.mark.versions
def test_a_model_of_another_size_is_not_resumed(digits, tmp_path):
    fit(new_vae(), digits, 1, tmp_path)
    other = vaelab.VAE((8, 8), 17, 4, rngs=nnx.Rngs(0, noise=1))
    with pytest.raises(ValueError, match=r"decoder/hidden/layers/0/bias has shape"):
        fit(other, digits, 1, tmp_path)


SCRIPT = """
import sys
import numpy as np, optax, vaelab
from flax import nnx
from vaelab.callbacks import Checkpoint

folder, epochs = sys.argv[1], int(sys.argv[2])
images = vaelab.data.load_digits().train[:100]
model = vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))

class Say(vaelab.callbacks.Callback):
    def on_epoch(self, run):
        print(run.epoch, flush=True)

result = vaelab.fit(model, images, epochs=epochs, batch_size=20,
    optimizer=optax.adam(1e-3), callbacks=[Checkpoint(folder), Say()], resume=folder)
print("loss", result.history["loss"].tolist())
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(digits, tmp_path):
    """SIGKILL at random moments, most of them while a checkpoint is written."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    epochs = 60

    def command(folder):
        path = str(tmp_path / folder)
        return [sys.executable, "-W", "error", str(script), path, str(epochs)]

    generator = random.Random(0)
    kills = 0
    while kills < 4:
        process = subprocess.Popen(
            command("killed"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(generator.randrange(2, 12)):
            line = process.stdout.readline()
        time.sleep(generator.random() * 0.05)
        process.kill()
        _, errors = process.communicate()
        assert errors == ""
        kills += 1
    assert "loss" not in line
    last = subprocess.run(command("killed"), capture_output=True, text=True, check=True)
    whole = subprocess.run(command("whole"), capture_output=True, text=True, check=True)
    assert last.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    assert len(last.stdout.splitlines()) < epochs
