"""What would give a number that means nothing is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest
from flax import nnx
from matplotlib.figure import Figure

import vaelab
from vaelab import (
    callbacks,
    data,
    evaluation,
    likelihoods,
    losses,
    oracle,
    plots,
    recipes,
)

KEY = jax.random.key(0)
X = np.zeros((5, 2, 2), np.float32)
CODES = np.random.default_rng(0).normal(size=(20, 3))
FACTORS = np.random.default_rng(0).integers(0, 3, (20, 2))


def vae(**options):
    return vaelab.VAE((2, 2), (), 2, rngs=nnx.Rngs(0, noise=1), **options)


def with_nan(array):
    array = np.array(array, np.float64)
    array.flat[3] = np.nan
    return array


BAD_IMAGES = {
    "NaN": (with_nan(X), ValueError, "images contains 1 NaN"),
    "0..16": (X + 16, ValueError, r"images lie in \[16, 16\], .* images / 16"),
    "0..255": (X + 255, ValueError, "images / 255"),
    "complex": (X + 1j, TypeError, "images has dtype complex"),
    "text": (X.astype(str), TypeError, "images has dtype <U"),
    "none": (X[:0], ValueError, r"images has shape \(0, 2, 2\): give at least one"),
    "shape": (np.zeros((5, 4)), ValueError, r"this model takes \(batch, 2, 2\)"),
    "overflow": (np.zeros((5, 2, 2)) + 1e300, ValueError, "NaN or infinite"),
}

JUDGES = {
    "latent_codes": evaluation.latent_codes,
    "active_units": evaluation.active_units,
    "posterior_collapse_report": evaluation.posterior_collapse_report,
    "evaluate": lambda m, x: vaelab.evaluate(m, x, key=KEY, num_samples=2),
    "anomaly_scores": lambda m, x: evaluation.anomaly_scores(m, x, key=KEY),
    "grid_log_likelihood": oracle.grid_log_likelihood,
    "gap_decomposition": oracle.gap_decomposition,
    "plot_reconstructions": plots.plot_reconstructions,
}


@pytest.mark.parametrize("bad", BAD_IMAGES)
@pytest.mark.parametrize("judge", JUDGES)
def test_images_that_mean_nothing(judge, bad):
    images, error, message = BAD_IMAGES[bad]
    with pytest.raises(error, match=message):
        JUDGES[judge](vae(), images)


SCORES = {
    "mig": evaluation.mutual_information_gap,
    "sap": evaluation.sap,
    "dci": evaluation.dci,
    "factor_vae": evaluation.factor_vae_score,
    "beta_vae": evaluation.beta_vae_score,
    "all": evaluation.disentanglement,
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (with_nan(CODES), ValueError, "codes contains 1 NaN"),
        (CODES + np.inf, ValueError, "codes contains 60 NaN or infinite"),
        (CODES + 1j, TypeError, "codes has dtype complex128"),
        (CODES > 0, TypeError, "codes has dtype bool"),
        (CODES[:, :0], ValueError, r"codes has shape \(20, 0\)"),
    ],
)
def test_codes_that_mean_nothing(score, codes, error, message):
    with pytest.raises(error, match=message):
        SCORES[score](codes, FACTORS)


BINARY = (np.random.default_rng(0).random((6, 4)) > 0.5).astype(float)


@pytest.mark.parametrize(
    "fitted",
    [
        oracle.independent_bernoulli,
        lambda x: oracle.bernoulli_mixture(x, 2, seed=0),
        lambda x: oracle.independent_bernoulli(BINARY).log_likelihood(x),
    ],
)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (with_nan(BINARY), ValueError, "x contains 1 NaN"),
        (BINARY / 2, ValueError, "x contains 0.5: give zeros and ones"),
        (BINARY * 16, ValueError, "x contains 16"),
        (BINARY[:0], ValueError, r"x has shape \(0, 4\)"),
        (BINARY[0], ValueError, r"x has shape \(4,\)"),
        (BINARY + 1j, TypeError, "x has dtype complex128"),
    ],
)
def test_data_that_a_mixture_is_not_of(fitted, x, error, message):
    with pytest.raises(error, match=message):
        fitted(x)


PIXELS = {
    likelihoods.Bernoulli(): (),
    likelihoods.ContinuousBernoulli(): (),
    likelihoods.Gaussian(): (),
    likelihoods.PixelwiseGaussian(): (2,),
    likelihoods.Categorical(3): (3,),
}


@pytest.mark.parametrize("likelihood", PIXELS, ids=repr)
@pytest.mark.parametrize("shape", [(5, 2, 1), (1, 2, 2), (2, 2), (5, 4)])
def test_targets_of_another_shape_are_not_stretched(likelihood, shape):
    logits = jnp.zeros((5, 2, 2, *PIXELS[likelihood]))
    assert likelihood.nll(logits, jnp.zeros((5, 2, 2))).shape == (5,)
    with pytest.raises(ValueError, match=r"logits has shape \(5, 2, 2.* and x has sh"):
        likelihood.nll(logits, jnp.zeros(shape))


def test_a_learned_likelihood_does_not_stretch_either():
    with pytest.raises(ValueError, match="give them the same shape"):
        likelihoods.LearnedGaussian().nll(jnp.zeros((5, 2, 2)), jnp.zeros((5, 1, 2)))


def parts(*shapes):
    return [jnp.ones(shape) for shape in shapes]


def figure_axis():
    return Figure().subplots()


class Tensor:
    shape = (5, 2, 2)

    def detach(self):
        return self


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: losses.kl_standard_normal(*parts((5, 2), (5, 1))),
            ValueError,
            r"mean has shape \(5, 2\) and std has shape \(5, 1\): give them",
        ),
        (
            lambda: losses.total_correlation_terms(
                *parts((5, 2), (5, 2), (5, 1)), dataset_size=5
            ),
            ValueError,
            "give them the same shape",
        ),
        (lambda: losses.elbo(vae(), X, free_bits=-1), ValueError, "free_bits is -1"),
        (lambda: losses.elbo(vae(), X, free_bits=np.nan), ValueError, "free_bits is n"),
        (
            lambda: losses.elbo(vae(), X, key=0),
            TypeError,
            "key is 0: give a random key",
        ),
        (lambda: losses.elbo(vae(), Tensor()), TypeError, r"write np.asarray\(x\)"),
        (lambda: losses.elbo(vae(), (X, X)), TypeError, "x is a tuple"),
        (
            lambda: losses.iwae_bound(vae(), X, num_samples=2.5, key=KEY),
            TypeError,
            "num_samples is 2.5: give a whole number, at least 1",
        ),
        (
            lambda: losses.iwae_loss(vae(), X, num_samples=True),
            TypeError,
            "num_samples is True",
        ),
        (
            lambda: losses.iwae_bound(vae(), X, num_samples=2, key=0),
            TypeError,
            "key is 0",
        ),
        (lambda: vaelab.evaluate(vae(), X, key=None), TypeError, "key is None"),
        (lambda: losses.kl_warmup(2.5), TypeError, "steps is 2.5"),
        (lambda: losses.kl_warmup(5, start=np.nan), ValueError, "start is nan"),
        (lambda: losses.effective_beta(0.1, 64.5, 8), ValueError, "num_pixels is 64.5"),
        (
            lambda: likelihoods.Gaussian(np.inf),
            ValueError,
            "std is inf: give a",
        ),
        (lambda: likelihoods.Gaussian(True), TypeError, "std is True: give a positive"),
        (lambda: likelihoods.Gaussian("1"), TypeError, "std is '1'"),
        (lambda: likelihoods.Gaussian(np.ones(3)), TypeError, "std is a ndarray of sh"),
        (
            lambda: likelihoods.LearnedGaussian(floor=0),
            ValueError,
            "floor is 0: give",
        ),
        (lambda: likelihoods.Categorical(2.5), TypeError, "levels is 2.5"),
        (
            lambda: likelihoods.Categorical(1),
            ValueError,
            "levels is 1: give at least 2",
        ),
        (
            lambda: likelihoods.uniform_dequantize(KEY, X, levels=1),
            ValueError,
            "levels is 1: give at least 2",
        ),
        (lambda: recipes.warp(KEY, X, share=2), ValueError, r"share is 2: .* \[0, 1\]"),
        (lambda: recipes.warp(0, X), TypeError, "key is 0"),
        (
            lambda: data.from_arrays(X, labels=np.full(5, 2**32 + 5)),
            ValueError,
            "labels contain 4294967301, which int32 cannot hold",
        ),
        (lambda: data.from_arrays(X, test_size=True), TypeError, "test_size is True"),
        (lambda: data.from_arrays(X, seed=1.5), TypeError, "seed is 1.5"),
        (
            lambda: evaluation.active_units(vae(), X, threshold=-1),
            ValueError,
            "threshold is -1",
        ),
        (
            lambda: evaluation.mutual_information_gap(CODES, FACTORS, bins=0),
            ValueError,
            "bins is 0",
        ),
        (
            lambda: evaluation.factor_vae_score(CODES, FACTORS, votes=0),
            ValueError,
            "votes is 0",
        ),
        (
            lambda: evaluation.beta_vae_score(CODES, FACTORS, points=1),
            ValueError,
            "points is 1: give at least 4",
        ),
        (
            lambda: oracle.bernoulli_mixture(BINARY, 2, 0, tolerance=0),
            ValueError,
            "tolerance is 0: give a positive number",
        ),
        (
            lambda: oracle.independent_bernoulli(BINARY, alpha=-1),
            ValueError,
            "alpha is -1",
        ),
        (lambda: oracle.probabilistic_pca(BINARY, q=1.5), TypeError, "q is 1.5"),
        (
            lambda: oracle.probabilistic_pca(BINARY, q=1).log_likelihood(BINARY[:, 1:]),
            ValueError,
            "x has 3 pixels: this model is of 4",
        ),
        (lambda: oracle.linear_beta_vae([1.0], 1, np.inf), ValueError, "sigma2 is inf"),
        (
            lambda: oracle.grid_log_likelihood(vae(), X, points=0),
            ValueError,
            "points is 0: give at least 2",
        ),
        (
            lambda: oracle.grid_log_likelihood(vae(), X, extent=-1),
            ValueError,
            "extent is -1",
        ),
        (
            lambda: oracle.gap_decomposition(vae(), X, steps=0),
            ValueError,
            "steps is 0: give at least 1",
        ),
        (lambda: plots.plot_images(X[:0]), ValueError, r"images has shape \(0, 2, 2\)"),
        (lambda: plots.plot_images(X, columns=0), ValueError, "columns is 0"),
        (lambda: plots.plot_images(with_nan(X)), ValueError, "images contains 1 NaN"),
        (
            lambda: plots.plot_history([1.0]),
            TypeError,
            r"history is \[1.0\]: give",
        ),
        (lambda: plots.plot_samples(vae(), 0, key=KEY), ValueError, "n is 0"),
        (lambda: plots.plot_images(X + 1j), TypeError, "images has dtype complex"),
        (
            lambda: plots.plot_images(np.zeros((3, 5))),
            ValueError,
            r"for vectors images\[:, None\]",
        ),
        (
            lambda: plots.plot_images(np.zeros((3, 5, 5, 2))),
            ValueError,
            "a picture has 1, 3 or 4 channels",
        ),
        (lambda: plots.plot_images(X, axes=[]), ValueError, "axes has 0 axes: 5 are"),
        (
            lambda: plots.plot_history({"a": [1.0], "b": [2.0]}, axes=figure_axis()),
            ValueError,
            "axes has 1 axes: 2 are",
        ),
        (
            lambda: recipes.warp(KEY, np.zeros((5, 2, 2, 1))),
            ValueError,
            r"images has shape \(5, 2, 2, 1\): give \(batch, height, width\)",
        ),
        (
            lambda: losses.importance_samples(vae(), X, 0, 3),
            TypeError,
            "key is 0: give a random key",
        ),
        (
            lambda: losses.elbo(vae(), pandas.DataFrame(BINARY)),
            TypeError,
            r"x is a DataFrame, .* write np.asarray\(x\)",
        ),
        (
            lambda: losses.total_correlation_terms(*parts(5, 5, 5), dataset_size=5),
            ValueError,
            r"z has shape \(5,\): give \(batch, latent\)",
        ),
        (
            lambda: data.from_arrays(X, labels=np.zeros((5, 0), int)),
            ValueError,
            r"labels has shape \(5, 0\)",
        ),
        (
            lambda: likelihoods.Bernoulli().check(X + 1j),
            TypeError,
            "images has dtype complex",
        ),
        (
            lambda: oracle.probabilistic_pca(np.ones((5, 4)), q=1),
            ValueError,
            "x varies in fewer than 2 directions",
        ),
        (
            lambda: oracle.linear_beta_vae([2.0, -1.0], 1, 1),
            ValueError,
            "eigenvalues contains -1",
        ),
        (
            lambda: oracle.bernoulli_mixture(BINARY, 2, 0, rounds=0),
            ValueError,
            "rounds is 0",
        ),
        (
            lambda: vaelab.evaluate(vae(), np.zeros((3, 4)), key=KEY),
            ValueError,
            r"for flattened images write images.reshape\(-1, 2, 2\)",
        ),
        (lambda: losses.elbo(None, X), TypeError, "model is None, which has no encode"),
        (lambda: losses.elbo(vaelab.VAE, X), TypeError, "model is the class VAE"),
        (lambda: losses.elbo(nnx.Rngs(0), X), TypeError, "model is a Rngs"),
        (lambda: losses.elbo(vae(), X, beta=-1), ValueError, "beta is -1"),
        (lambda: losses.elbo(vae(), X, beta=np.nan), ValueError, "beta is nan"),
        (lambda: losses.elbo(vae(), X, beta=jnp.ones(5)), TypeError, "beta is a Array"),
        (lambda: losses.elbo(vae(), X + 1j), TypeError, "x is a ndarray of shape"),
        (lambda: losses.elbo(vae(), X[:0]), ValueError, "give at least one image"),
        (
            lambda: losses.mean_reduced_loss(vae(), X, kl_weight=-1),
            ValueError,
            "kl_weight is -1",
        ),
        (lambda: losses.kl_warmup(5, end=-1), ValueError, "end is -1"),
        (lambda: vae().decode(2.5), TypeError, "z is 2.5: give an array of real"),
        (lambda: vae().decoder(jnp.ones((5, 3))), ValueError, r"takes \(batch, 2\)"),
        (lambda: vae().encoder.posterior(X[:, 0]), ValueError, r"takes \(batch, 4\)"),
        (lambda: vae().encode(X).sample(0), TypeError, "key is 0"),
        (
            lambda: likelihoods.Bernoulli().mean(["x"]),
            TypeError,
            r"logits is \['x'\]: give an array",
        ),
        (
            lambda: likelihoods.Categorical(3).mean(jnp.ones((5, 2, 2))),
            ValueError,
            "give 3 for each pixel",
        ),
        (
            lambda: likelihoods.Gaussian().check(["x"], "y"),
            TypeError,
            "y has dtype <U1",
        ),
        (
            lambda: likelihoods.uniform_dequantize(KEY, X.astype(int), 2),
            TypeError,
            "x has dtype int",
        ),
        (lambda: recipes.warp(KEY, X[0]), ValueError, r"images has shape \(2, 2\)"),
        (lambda: recipes.digits_vae(X, epochs=0), ValueError, "epochs is 0"),
        (lambda: recipes.digits_vae(X, seed=1.5), TypeError, "seed is 1.5"),
        (lambda: data.load_digits(binarize=2.5), TypeError, "binarize is 2.5"),
        (lambda: data.from_arrays(X, seed=2**32), ValueError, "seed is 4294967296"),
        (lambda: data.from_arrays(nnx.Rngs(0)), TypeError, "images is a Rngs"),
        (
            lambda: oracle.linear_beta_vae([[1.0]], 1, 1),
            ValueError,
            r"eigenvalues has shape \(1, 1\)",
        ),
        (
            lambda: oracle.linear_beta_vae("x", 1, 1),
            TypeError,
            "eigenvalues has dtype <U1",
        ),
        (lambda: vaelab.evaluate(None, X, key=KEY), TypeError, "model is None, which"),
        (
            lambda: oracle.grid_log_likelihood(None, X),
            TypeError,
            "model is None, which",
        ),
        (
            lambda: plots.plot_samples(vae(), 2, key=KEY, columns=2.5),
            TypeError,
            "columns is 2.5",
        ),
        (lambda: plots.plot_images(X, axes=2), TypeError, "axes is 2: give axes"),
        (
            lambda: plots.plot_images(X, figsize=5),
            TypeError,
            "figsize is 5: give",
        ),
        (
            lambda: plots.plot_images(X, figsize=(5, -1)),
            ValueError,
            r"figsize\[1\] is -1",
        ),
        (
            lambda: plots.plot_interpolation(vae(), X, X[0]),
            ValueError,
            r"start has shape \(1, 5, 2, 2\)",
        ),
        (
            lambda: plots.plot_history({"loss": [1.0]}, "loss"),
            TypeError,
            r"names is 'loss': give a list, such as \['loss'\]",
        ),
    ],
)
def test_arguments_that_mean_nothing(call, error, message):
    with pytest.raises(error, match=message):
        call()


def many(**options):
    given = {"seeds": [0], "learning_rates": [0.1], "epochs": 1, "batch_size": 2}
    return vaelab.fit_many(lambda seed: vae(), X, **given | options)


def fit(**options):
    given = {"epochs": 1, "batch_size": 2, "optimizer": optax.sgd(0.1)}
    return vaelab.fit(vae(), X, **given | options)


def step(*, model=None, batch=X, **options):
    model = vae() if model is None else model
    optimizer = nnx.Optimizer(vae(), optax.sgd(0.1), wrt=nnx.Param)
    return vaelab.train_step(model, optimizer, batch, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fit(beta=-1), ValueError, "beta is -1"),
        (lambda: fit(beta=True), TypeError, "beta is True"),
        (lambda: fit(beta=[1.0, 2.0]), TypeError, r"beta is \[1.0, 2.0\]"),
        (lambda: fit(progress=2.5), TypeError, "progress is 2.5"),
        (lambda: fit(resume=""), TypeError, "resume is ''"),
        (lambda: fit(callbacks=""), TypeError, "callbacks is a str"),
        (lambda: fit(validation="x"), TypeError, "validation is 'x'"),
        (lambda: fit(validation=KEY), TypeError, "validation has dtype key"),
        (lambda: fit(loss_fn=vaelab.VAE), TypeError, "loss_fn is the class VAE"),
        (lambda: fit(transform=set), TypeError, "transform is the class set"),
        (lambda: many(seeds=["x"]), TypeError, r"seeds\[0\] is 'x'"),
        (lambda: many(betas=[1.0, -1]), ValueError, r"betas\[1\] is -1"),
        (lambda: many(betas={1.0}), TypeError, r"betas is \{1.0\}: give a list"),
        (
            lambda: many(learning_rates=[np.nan]),
            ValueError,
            r"learning_rates\[0\] is n",
        ),
        (
            lambda: many(optimizer=lambda: None),
            TypeError,
            "optimizer .* cannot be called",
        ),
        (lambda: many(optimizer=lambda rate: rate), TypeError, "optimizer returned"),
        (lambda: step(model=vaelab.VAE), TypeError, "model is the class VAE"),
        (lambda: step(batch=None), TypeError, "batch is None"),
        (lambda: step(batch=X[:0]), ValueError, r"batch has shape \(0, 2, 2\)"),
        (lambda: step(batch=np.ma.masked_less(X, 1)), TypeError, "batch is a Masked"),
        (lambda: step(beta=np.nan), ValueError, "beta is nan"),
        (lambda: vaelab.save(None, "there"), TypeError, "model is None: give an NNX"),
        (lambda: vaelab.save(vae(), ""), TypeError, "path is ''"),
        (lambda: vaelab.load(2.5), TypeError, "path is 2.5"),
        (lambda: vaelab.load("there", model=2.5), TypeError, "model is 2.5"),
        (lambda: vaelab.load("there", best=2.5), TypeError, "best is 2.5"),
        (lambda: callbacks.JSONLogger(2.5), TypeError, "path is 2.5: give .* a file"),
        (lambda: callbacks.TensorBoard(None), TypeError, "directory is None"),
        (lambda: callbacks.ProgressBar(2.5), TypeError, "show is 2.5"),
        (lambda: vae(activation=lambda: 0), TypeError, "called with one array"),
        (lambda: vae(dtype=np.float32(1)), TypeError, "dtype is a float32 of shape"),
    ],
)
def test_runs_that_mean_nothing(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_table_is_judged_like_images():
    table = np.random.default_rng(0).normal(size=(7, 3))
    model = vaelab.VAE(
        (3,), (), 2, likelihood=likelihoods.Gaussian(), rngs=nnx.Rngs(0, noise=1)
    )
    metrics = vaelab.evaluate(model, table, key=KEY, num_samples=5)
    assert metrics.elbo < metrics.log_likelihood
    assert evaluation.latent_codes(model, table).shape == (7, 2)
    assert evaluation.anomaly_scores(model, table, key=KEY).shape == (7,)
    frame = pandas.DataFrame(table)
    np.testing.assert_array_equal(
        evaluation.latent_codes(model, frame), evaluation.latent_codes(model, table)
    )


def test_the_mean_of_many_images_is_exact(monkeypatch):
    mutual_information = "vaelab.evaluation._metrics._mutual_information"
    monkeypatch.setattr(mutual_information, lambda *_: np.zeros(1))  # n² of them

    class Constant(likelihoods.Bernoulli):
        def nll(self, logits, x):
            return jnp.full(len(x), 540.3) + 0 * super().nll(logits, x)

    metrics = vaelab.evaluate(
        vae(likelihood=Constant()),
        np.zeros((60_000, 2, 2), np.float32),
        key=KEY,
        num_samples=1,
    )
    np.testing.assert_allclose(metrics.reconstruction, np.float32(540.3), rtol=1e-7)
