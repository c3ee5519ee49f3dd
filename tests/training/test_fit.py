import jax
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab import losses

ADAM = optax.adam(1e-3)


def new_vae(**options):
    return vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1), **options)


def new_optimizer(model):
    return nnx.Optimizer(model, ADAM, wrt=nnx.Param)


def parameters(model):
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def counting(loss_fn):
    def counted(model, x):
        counted.traces += 1
        return loss_fn(model, x)

    counted.traces = 0
    return counted


def test_a_whole_run_is_traced_once(digits):
    model = new_vae()
    optimizer, loss_fn = new_optimizer(model), counting(losses.elbo)
    for start in range(0, 640, 64):
        vaelab.train_step(model, optimizer, digits.train[start : start + 64], loss_fn)
    assert loss_fn.traces == 1


def test_fit_is_traced_once(digits):
    loss_fn = counting(losses.elbo)
    vaelab.fit(
        new_vae(),
        digits.train,
        epochs=3,
        batch_size=100,
        optimizer=ADAM,
        loss_fn=loss_fn,
    )
    assert loss_fn.traces == 1


def test_a_step_returns_the_means_from_before_the_update(digits):
    x = digits.train[:32]
    expected = losses.elbo(new_vae(), x)
    model = new_vae()
    terms = vaelab.train_step(model, new_optimizer(model), x)
    assert terms.loss.shape == ()
    for got, each in zip(terms, expected, strict=True):
        np.testing.assert_allclose(got, each.mean(axis=0), rtol=1e-5)


def test_a_step_is_the_optimizers_update(digits):
    x = digits.train[:32]
    model, reference = new_vae(), new_vae()
    sgd = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    vaelab.train_step(model, sgd, x)
    grads = nnx.grad(lambda model: losses.elbo(model, x).loss.mean())(reference)
    for got, before, grad in zip(
        parameters(model),
        parameters(new_vae()),
        jax.tree.leaves(nnx.to_pure_dict(grads)),
        strict=True,
    ):
        np.testing.assert_allclose(got, before - 0.1 * grad, rtol=1e-4, atol=1e-6)


def test_a_scalar_loss_of_ones_own(digits):
    def squared_error(model, x):
        return ((jax.nn.sigmoid(model(x).logits) - x) ** 2).mean()

    model = new_vae()
    optimizer = new_optimizer(model)
    values = [
        vaelab.train_step(model, optimizer, digits.train, squared_error)
        for _ in range(50)
    ]
    assert values[0].shape == ()
    assert values[-1] < 0.8 * values[0]
    result = vaelab.fit(
        model,
        digits.train,
        epochs=1,
        batch_size=64,
        optimizer=ADAM,
        loss_fn=squared_error,
    )
    assert set(result.history) == {"loss"}


def test_an_optax_transformation_is_no_optimizer(digits):
    with pytest.raises(TypeError, match=r"nnx\.Optimizer\(model, tx, wrt=nnx\.Param\)"):
        vaelab.train_step(new_vae(), ADAM, digits.train)


def test_fit_trains_in_place_and_records_each_epoch(digits):
    model = new_vae()
    before = parameters(model)
    result = vaelab.fit(model, digits.train, epochs=5, batch_size=64, optimizer=ADAM)
    assert result.epochs == 5
    assert result.stopped_by == "epochs"
    assert set(result.history) == {"loss", "elbo", "reconstruction", "kl"}
    history = result.history
    assert all(values.shape == (5,) for values in history.values())
    assert history["elbo"][-1] > history["elbo"][0] + 3
    np.testing.assert_allclose(
        history["elbo"], -(history["reconstruction"] + history["kl"]), rtol=1e-5
    )
    assert any((a != b).any() for a, b in zip(before, parameters(model), strict=True))


def test_the_same_seed_gives_the_same_run(digits):
    def run(seed):
        model = new_vae()
        vaelab.fit(
            model, digits.train, epochs=2, batch_size=64, optimizer=ADAM, seed=seed
        )
        return parameters(model)

    for a, b in zip(run(0), run(0), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(run(0), run(1), strict=True))


def test_each_epoch_takes_full_batches_of_a_permutation():
    seen = []

    def record(model, x):
        jax.debug.callback(lambda x: seen.append(np.array(x)), x)
        return losses.elbo(model, x)

    images = (np.arange(10)[:, None, None] * np.ones((10, 8, 8)) / 10).astype(
        np.float32
    )
    vaelab.fit(
        new_vae(), images, epochs=2, batch_size=4, optimizer=ADAM, loss_fn=record
    )
    jax.effects_barrier()
    ids = [
        sorted((np.concatenate(seen[i : i + 2])[:, 0, 0] * 10).round()) for i in (0, 2)
    ]
    assert [batch.shape for batch in seen] == [(4, 8, 8)] * 4
    assert all(len(set(epoch)) == 8 for epoch in ids)
    assert not np.array_equal(seen[0], seen[2])


WITH_NAN = np.zeros((8, 8, 8))
WITH_NAN[3, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.full((8, 8, 8), 16.0)}, r"images lie in \[16, 16\]"),
        ({"images": WITH_NAN}, "images contains 1 NaN"),
        ({"images": np.zeros((8, 9, 9))}, r"images has shape \(8, 9, 9\): this model"),
        ({"images": np.zeros((8, 64))}, r"images has shape \(8, 64\)"),
        ({"images": np.zeros((0, 8, 8))}, "give at least one image"),
        ({"epochs": 0}, "epochs is 0: give at least 1"),
        ({"batch_size": 0}, "batch_size is 0: give at least 1"),
        ({"batch_size": 9}, "batch_size is 9: .* at most the 8 images"),
    ],
)
def test_fit_refuses_bad_input_before_it_compiles(changes, message):
    loss_fn = counting(losses.elbo)
    options = {
        "images": np.zeros((8, 8, 8)),
        "epochs": 1,
        "batch_size": 4,
        "optimizer": ADAM,
        "loss_fn": loss_fn,
    } | changes
    with pytest.raises(ValueError, match=message):
        vaelab.fit(new_vae(), **options)
    assert loss_fn.traces == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": vaelab.VAE}, "model is the class VAE: give an NNX module"),
        ({"loss_fn": "elbo"}, "loss_fn is 'elbo': give a function"),
        ({"validation": iter([])}, "validation is a list_iterator: give an array"),
        ({"resume": True}, "resume is True: give the path of a folder"),
        (
            {"images": (np.zeros((8, 8, 8)), np.zeros(8))},
            "x is a tuple: give an array of images alone; images and labels need a",
        ),
    ],
)
def test_fit_refuses_what_is_of_another_kind(changes, message):
    options = {
        "model": new_vae(),
        "images": np.zeros((8, 8, 8)),
        "epochs": 1,
        "batch_size": 4,
        "optimizer": ADAM,
    } | changes
    with pytest.raises(TypeError, match=message):
        vaelab.fit(**options)


def test_beta_may_follow_a_schedule_and_is_traced_once(digits):
    seen = []

    def record(model, x, beta):
        record.traces += 1
        jax.debug.callback(lambda beta: seen.append(float(beta)), beta)
        return losses.elbo(model, x, beta=beta)

    record.traces = 0
    result = vaelab.fit(
        new_vae(),
        digits.train[:40],
        epochs=2,
        batch_size=20,
        optimizer=ADAM,
        loss_fn=record,
        beta=losses.kl_warmup(4),
    )
    jax.effects_barrier()
    assert sorted(seen) == [0.0, 0.25, 0.5, 0.75]
    assert record.traces == 1
    history = result.history
    np.testing.assert_allclose(
        history["loss"][1],
        history["reconstruction"][1] + 0.625 * history["kl"][1],
        1e-2,
    )


def test_a_beta_that_the_loss_does_not_take_is_refused(digits):
    with pytest.raises(ValueError, match="beta is 2.0, but loss_fn mean_reduced_loss"):
        vaelab.fit(
            new_vae(),
            digits.train,
            epochs=1,
            batch_size=64,
            optimizer=ADAM,
            loss_fn=losses.mean_reduced_loss,
            beta=2.0,
        )


def test_fit_takes_an_optax_transformation(digits):
    model = new_vae()
    with pytest.raises(TypeError, match="give an optax transformation"):
        vaelab.fit(
            model, digits.train, epochs=1, batch_size=4, optimizer=new_optimizer(model)
        )


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (None, False)])
def test_the_progress_bar_is_off_when_no_one_watches(digits, capsys, progress, shown):
    vaelab.fit(
        new_vae(),
        digits.train[:64],
        epochs=2,
        batch_size=64,
        optimizer=ADAM,
        progress=progress,
    )
    written = capsys.readouterr().err
    assert ("2/2" in written) == shown
    assert ("compiling" in written) == shown
    assert "compiling" not in written.split("\r")[-1]
