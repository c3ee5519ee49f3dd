"""No public callable takes an argument in silence that means nothing.

Each argument in turn is replaced by values that do not belong there. Either the table
below says that such a value is fine, or it is refused in words that name the argument.
"""

import collections
import contextlib
import functools
import inspect
import re
import signal
import tempfile
import types
import warnings
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import vaelab
from vaelab import (
    callbacks,
    data,
    debug,
    evaluation,
    likelihoods,
    losses,
    oracle,
    plots,
    recipes,
)

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
X = np.zeros((4, 2, 2), np.float32)
X[::2, 0] = 1
ROWS = X.reshape(4, 4)
CODES = np.random.default_rng(0).normal(size=(20, 3))
FACTORS = np.random.default_rng(0).integers(0, 3, (20, 2))
LOGITS = jnp.zeros((4, 2, 2))
ADAM = optax.adam(1e-3)
FOLDER = Path(tempfile.mkdtemp())


@functools.cache
def vae():
    return vaelab.VAE((2, 2), (), 2, rngs=nnx.Rngs(0, noise=1))


@functools.cache
def trained():
    return make_model(0)


def rngs():
    return nnx.Rngs(0, noise=1)


class Tensor:
    """What looks like a tensor of another library, and holds no numbers."""

    shape, ndim, dtype = (4, 2, 2), 3, "torch.float32"

    def detach(self):
        return self

    def cpu(self):
        return self


NASTY = {
    "None": lambda: None,
    "NaN": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-1": lambda: -1,
    "0": lambda: 0,
    "1": lambda: 1,
    "2.5": lambda: 2.5,
    "1j": lambda: 1j,
    "True": lambda: True,
    "2**40": lambda: 2**40,
    "text": lambda: "x",
    "no text": lambda: "",
    "bytes": lambda: b"",
    "list": lambda: [],
    "list of text": lambda: ["x"],
    "tuple": lambda: (),
    "pair": lambda: (X, X),
    "dict": lambda: {},
    "dict of text": lambda: {"x": 1},
    "set": lambda: {1, 2},
    "object": object,
    "generator": lambda: (i for i in range(2)),
    "path": lambda: Path("there"),
    "bad function": lambda: lambda a, b, c, d, e: None,
    "no-argument function": lambda: lambda: None,
    "class": lambda: vaelab.VAE,
    "likelihood class": lambda: likelihoods.Gaussian,
    "callback class": lambda: callbacks.EarlyStopping,
    "module": lambda: np,
    "key": lambda: jax.random.key(1),
    "old key": lambda: jax.random.PRNGKey(1),
    "keys": lambda: jax.random.split(jax.random.key(1), 2),
    "rngs": rngs,
    "layer": lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
    "tensor": Tensor,
    "float32": lambda: np.float32(2.5),
    "int64": lambda: np.int64(1),
    "bool_": lambda: np.bool_(True),
    "scalar array": lambda: np.array(1.0),
    "device scalar": lambda: jnp.float32(1.0),
    "vector": lambda: np.ones(3),
    "no images": lambda: X[:0],
    "one image": lambda: X[0],
    "other images": lambda: np.zeros((4, 3, 3)),
    "images of NaN": lambda: X * np.nan,
    "images of inf": lambda: X + np.inf,
    "images to 255": lambda: X * 255,
    "8-bit images": lambda: (X * 255).astype(np.uint8),
    "complex images": lambda: X + 1j,
    "text images": lambda: X.astype(str),
    "images of objects": lambda: np.full((4, 2, 2), None),
    "bool images": lambda: X > 0,
    "masked images": lambda: np.ma.masked_less(X, 0.5),
    "ragged": lambda: [[1.0], [1.0, 2.0]],
}


# What is fine, by what the argument is.


def nothing(value):
    return False


def anything(value):
    return True


def optional(kind):
    def fine(value):
        return value is None or kind(value)

    return costing(fine) if kind in COSTS else fine


COSTS = set()


def costing(fine):
    """Marks what may be large, and takes as much time or memory then."""
    COSTS.add(fine)
    return fine


def whole(least=0, most=10**20):
    def fine(value):
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        return is_whole and least <= value <= most

    return fine


def size(least=1):
    return costing(whole(least))


def number(fine=lambda x: True):
    def is_fine(value):
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            if not jnp.issubdtype(value.dtype, np.number):
                return False
            value = value.item()
        real = isinstance(value, Real) and not isinstance(value, bool)
        return real and bool(np.isfinite(float(value))) and fine(value)

    return is_fine


positive = number(lambda x: x > 0)
at_least_0 = number(lambda x: x >= 0)
fraction = number(lambda x: 0 < x < 1)
probability = number(lambda x: 0 <= x <= 1)


def flag(value):
    return isinstance(value, bool | np.bool_)


def key(value):
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return value.shape == ()
    return dtype == np.uint32 and value.shape == (2,)


def random_streams(value):
    return isinstance(value, nnx.Rngs)


def path(value):
    return isinstance(value, str | Path) and value != ""


def text(value):
    return isinstance(value, str)


def array(value):
    try:
        found = np.asarray(value)
    except Exception:
        return None
    return found if found.dtype.kind in "biuf" else None


def numbers(*shape, fine=lambda x: True):
    """Numbers of a shape, of which None is any length."""

    def is_fine(value):
        if np.ma.is_masked(value):
            return False
        found = array(value)
        return (
            found is not None
            and found.ndim == len(shape)
            and found.size > 0
            and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
            and fine(found)
        )

    return is_fine


def unit(x):
    return np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1


def binary(x):
    return np.isin(x, (0, 1)).all()


def finite(x):
    return np.isfinite(x).all()


images = numbers(None, 2, 2, fine=unit)
# Compiled steps call these: they see no values, only shapes and dtypes.
batch = numbers(None, 2, 2)
four = numbers(4, 2, 2)


def device_array(fine):
    return lambda value: (
        isinstance(value, np.ndarray | np.generic | jax.Array) and fine(value)
    )


def sizes(value):
    fine = whole(1)
    return isinstance(value, tuple | list) and all(map(fine, value))


def figure_size(value):
    return value is None


class Case(NamedTuple):
    call: Any
    arguments: dict[
        str, tuple[Any, Any]
    ]  # a good value, or how to make it; what is fine


def case(call, **arguments):
    return Case(call, arguments)


# Layers act on the last axis, whatever stands before it.
LAST_2 = device_array(lambda v: array(v) is not None and np.shape(v)[-1:] == (2,))
ROWS_OF_2 = device_array(lambda v: array(v) is not None and np.shape(v)[1:] == (2,))
MODEL = (vae, nothing)
IMAGES = (X, images)
BATCH = (X, device_array(batch))
A_KEY = (KEY, key)
OPTIONAL_KEY = (KEY, optional(key))
SEED = (0, whole(0, 2**32 - 1))
AXES = (None, optional(nothing))
FIGSIZE = (None, figure_size)
DRAWS = (2, size())
BETA = (1.0, at_least_0)
HIDDEN = ((), costing(lambda v: sizes(v) or whole(1)(v)))
BOUNDS = ((-10.0, 10.0), optional(nothing))
DROPOUT = (0.0, number(lambda x: 0 <= x < 1))
ACTIVATION = (nnx.relu, lambda v: isinstance(v, nnx.Linear))  # it may be a layer
DTYPE = (None, optional(nothing))
RNGS = (rngs, random_streams)
CODES_ = (CODES, numbers(20, None, fine=finite))
FACTORS_ = (FACTORS, nothing)
ROWS_ = (ROWS, lambda v: any(numbers(*(None,) * n, fine=binary)(v) for n in (2, 3, 4)))
PROGRESS = (False, optional(flag))
LOGGED = (FOLDER / "log", path)


def with_logits(likelihood, *last):
    logits = jnp.zeros((4, 2, 2, *last))
    name = type(likelihood).__name__
    shaped = device_array(
        lambda v: (
            array(v) is not None
            and not np.ma.is_masked(v)
            and np.shape(v)[-len(last) or np.ndim(v) :] == last
        )
    )
    return {
        f"likelihoods.{name}.nll": case(
            likelihood.nll,
            logits=(logits, device_array(numbers(*logits.shape))),
            x=(X, device_array(four)),
        ),
        f"likelihoods.{name}.mean": case(likelihood.mean, logits=(logits, shaped)),
        f"likelihoods.{name}.sample": case(
            likelihood.sample, key=A_KEY, logits=(logits, shaped)
        ),
        f"likelihoods.{name}.check": case(
            likelihood.check,
            x=(X, lambda v: array(v) is not None and not np.ma.is_masked(v)),
            name=("images", anything),  # it is only shown
        ),
    }


def encoder_arguments():
    return {
        "hidden_size": HIDDEN,
        "latent_size": (2, size()),
        "log_std_bounds": BOUNDS,
        "dropout": DROPOUT,
        "activation": ACTIVATION,
        "dtype": DTYPE,
        "rngs": RNGS,
    }


def decoder(z):
    return jnp.zeros((len(z), 4))


def saved():
    where = FOLDER / "saved"
    if not where.exists():
        vaelab.save(vae(), where)
    return where


def crash():
    where = FOLDER / "crash.npz"
    if not where.exists():
        debug.save_crash(where, (X,))
    return where


def training():
    return {
        "images": (X, images),
        "epochs": (1, size()),
        "batch_size": (2, whole(1, 4)),
        "loss_fn": (losses.elbo, nothing),
        "knobs": (None, lambda v: v is None or v == {}),
        "transform": (None, optional(nothing)),
        "validation": (None, optional(images)),
        "seed": (0, whole()),
    }


CASES = {
    "VAE": case(
        vaelab.VAE,
        image_shape=((2, 2), lambda v: sizes(v) and len(v)),
        likelihood=(likelihoods.Bernoulli(), nothing),
        **encoder_arguments(),
    ),
    "VAE.from_parts": case(
        vaelab.VAE.from_parts,
        encoder=(lambda: vae().encoder, nothing),
        decoder=(decoder, nothing),
        image_shape=((2, 2), nothing),
        likelihood=(likelihoods.Bernoulli(), nothing),
        rngs=RNGS,
    ),
    "VAE.__call__": case(vae(), x=BATCH),
    "VAE.encode": case(vae().encode, x=BATCH),
    "VAE.decode": case(vae().decode, z=(jnp.zeros((3, 2)), ROWS_OF_2)),
    "VAE.generate": case(vae().generate, z=(jnp.zeros((3, 2)), ROWS_OF_2)),
    "VAE.reconstruct": case(vae().reconstruct, x=BATCH),
    "VAE.sample": case(
        vae().sample, n=(2, size()), key=A_KEY, draw_pixels=(False, flag)
    ),
    "Encoder": case(vaelab.Encoder, input_size=(4, size()), **encoder_arguments()),
    "Encoder.posterior": case(vae().encoder.posterior, x=(ROWS, device_array(batch))),
    "Encoder.__call__": case(vae().encoder, x=(ROWS, device_array(batch))),
    "Decoder": case(
        vaelab.Decoder,
        output_size=(4, size()),
        **{k: v for k, v in encoder_arguments().items() if k != "log_std_bounds"},
    ),
    "Decoder.__call__": case(vae().decoder, z=(jnp.zeros((3, 2)), LAST_2)),
    "Posterior.sample": case(
        vaelab.Posterior(jnp.zeros((3, 2)), jnp.ones((3, 2))).sample, key=A_KEY
    ),
    "fit": case(
        vaelab.fit,
        model=(trained, nothing),
        optimizer=(ADAM, nothing),
        beta=(None, optional(at_least_0)),
        callbacks=((), lambda v: isinstance(v, tuple | list) and not v),
        guard=(True, flag),
        resume=(None, optional(path)),
        mesh=(None, optional(nothing)),
        steps_per_epoch=(None, optional(nothing)),
        progress=PROGRESS,
        **training(),
    ),
    "fit_many": case(
        vaelab.fit_many,
        make_model=(lambda: make_model, nothing),
        seeds=([0], nothing),
        betas=(None, optional(numbers(None, fine=lambda x: (x >= 0).all()))),
        learning_rates=([1e-3], numbers(None, fine=lambda x: (x >= 0).all())),
        optimizer=(lambda: optax.adam, nothing),
        **training(),
    ),
    "train_step": case(
        vaelab.train_step,
        model=(trained, nothing),
        optimizer=(lambda: nnx.Optimizer(trained(), ADAM, wrt=nnx.Param), nothing),
        batch=(X, device_array(batch)),
        loss_fn=(losses.elbo, nothing),
        beta=(1.0, at_least_0),
    ),
    "save": case(
        vaelab.save,
        model=(vae, lambda v: isinstance(v, nnx.Linear)),
        path=(FOLDER / "new", path),
    ),
    "load": case(
        vaelab.load,
        path=(saved, path),  # `save` wrote to those names
        model=(None, optional(nothing)),
        best=(False, flag),
    ),
    "data.from_arrays": case(
        data.from_arrays,
        images=(
            X,
            lambda v: (
                numbers(None, None, fine=finite)(v)
                or any(numbers(*(None,) * n, fine=unit)(v) for n in (3, 4))
            ),
        ),
        labels=(None, optional(numbers(4))),
        test_size=(0.25, fraction),
        seed=SEED,
    ),
    "data.load_digits": case(
        data.load_digits,
        binarize=(True, flag),
        threshold=(0.5, number(lambda x: 0 <= x < 1)),
        test_size=(0.25, fraction),
        seed=SEED,
    ),
    "data.load_sprites": case(data.load_sprites, test_size=(0.25, fraction), seed=SEED),
    "likelihoods.Bernoulli": case(likelihoods.Bernoulli),
    "likelihoods.ContinuousBernoulli": case(likelihoods.ContinuousBernoulli),
    "likelihoods.Gaussian": case(likelihoods.Gaussian, std=(1.0, positive)),
    "likelihoods.LearnedGaussian": case(
        likelihoods.LearnedGaussian, std=(1.0, positive), floor=(1e-3, positive)
    ),
    "likelihoods.PixelwiseGaussian": case(
        likelihoods.PixelwiseGaussian, floor=(1e-3, positive)
    ),
    "likelihoods.Categorical": case(likelihoods.Categorical, levels=(3, whole(2))),
    "likelihoods.uniform_dequantize": case(
        likelihoods.uniform_dequantize,
        key=A_KEY,
        x=(X, device_array(lambda v: array(v) is not None and v.dtype.kind == "f")),
        levels=(2, whole(2)),
    ),
    **with_logits(likelihoods.Bernoulli()),
    **with_logits(likelihoods.ContinuousBernoulli()),
    **with_logits(likelihoods.Gaussian()),
    **with_logits(likelihoods.LearnedGaussian()),
    **with_logits(likelihoods.PixelwiseGaussian(), 2),
    **with_logits(likelihoods.Categorical(3), 3),
    "losses.elbo": case(
        losses.elbo,
        model=MODEL,
        x=BATCH,
        key=OPTIONAL_KEY,
        beta=BETA,
        free_bits=(0.0, at_least_0),
    ),
    "losses.mean_reduced_loss": case(
        losses.mean_reduced_loss,
        model=MODEL,
        x=BATCH,
        kl_weight=(0.1, at_least_0),
        key=OPTIONAL_KEY,
    ),
    "losses.iwae_loss": case(
        losses.iwae_loss, model=MODEL, x=BATCH, num_samples=DRAWS, key=OPTIONAL_KEY
    ),
    "losses.iwae_bound": case(
        losses.iwae_bound, model=MODEL, x=BATCH, num_samples=DRAWS, key=A_KEY
    ),
    "losses.importance_samples": case(
        losses.importance_samples, model=MODEL, x=BATCH, key=A_KEY, num_samples=DRAWS
    ),
    "losses.beta_tc_loss": case(
        losses.beta_tc_loss,
        model=MODEL,
        x=BATCH,
        dataset_size=(4, whole(4)),
        beta=BETA,
        key=OPTIONAL_KEY,
    ),
    "losses.total_correlation_terms": case(
        losses.total_correlation_terms,
        z=(jnp.zeros((4, 2)), nothing),
        mean=(jnp.zeros((4, 2)), nothing),
        std=(jnp.ones((4, 2)), nothing),
        dataset_size=(4, whole(4)),
    ),
    "losses.stratified_log_weights": case(
        losses.stratified_log_weights,
        batch_size=(2, whole(2, 4)),
        dataset_size=(4, whole(2)),
    ),
    "losses.kl_standard_normal": case(
        losses.kl_standard_normal,
        mean=(jnp.zeros((4, 2)), nothing),
        std=(jnp.ones((4, 2)), nothing),
    ),
    "losses.effective_beta": case(
        losses.effective_beta,
        kl_weight=(0.1, at_least_0),
        num_pixels=(4, whole(1)),
        latent_size=(2, whole(1)),
    ),
    "losses.kl_warmup": case(
        losses.kl_warmup, steps=(5, whole(1)), start=(0.0, at_least_0), end=BETA
    ),
    "callbacks.Checkpoint": case(
        callbacks.Checkpoint,
        path=LOGGED,
        every=(1, whole(1)),
        metric=(None, optional(text)),
        mode=(None, lambda v: v is None),
    ),
    "callbacks.EarlyStopping": case(
        callbacks.EarlyStopping,
        patience=(1, whole(1)),
        metric=("elbo", text),
        mode=(None, lambda v: v is None),
        min_delta=(0.0, at_least_0),
        restore_best=(True, flag),
    ),
    "callbacks.ReduceLROnPlateau": case(
        callbacks.ReduceLROnPlateau,
        patience=(1, whole(1)),
        metric=("elbo", text),
        mode=(None, lambda v: v is None),
        factor=(0.1, fraction),
        min_delta=(0.0, at_least_0),
        min_scale=(0.0, probability),
    ),
    "callbacks.JSONLogger": case(callbacks.JSONLogger, path=LOGGED),
    "callbacks.ProgressBar": case(callbacks.ProgressBar, show=PROGRESS),
    "callbacks.TensorBoard": case(callbacks.TensorBoard, directory=LOGGED),
    "evaluation.evaluate": case(
        vaelab.evaluate, model=MODEL, images=IMAGES, key=A_KEY, num_samples=DRAWS
    ),
    "evaluation.anomaly_scores": case(
        evaluation.anomaly_scores,
        model=MODEL,
        images=IMAGES,
        key=A_KEY,
        num_samples=DRAWS,
    ),
    "evaluation.latent_codes": case(
        evaluation.latent_codes, model=MODEL, images=IMAGES
    ),
    "evaluation.active_units": case(
        evaluation.active_units,
        model=MODEL,
        images=IMAGES,
        threshold=(0.01, at_least_0),
    ),
    "evaluation.posterior_collapse_report": case(
        evaluation.posterior_collapse_report,
        model=MODEL,
        images=IMAGES,
        threshold=(0.01, at_least_0),
    ),
    "evaluation.mutual_information_gap": case(
        evaluation.mutual_information_gap,
        codes=CODES_,
        factors=FACTORS_,
        bins=(5, size()),
    ),
    "evaluation.sap": case(evaluation.sap, codes=CODES_, factors=FACTORS_),
    "evaluation.dci": case(evaluation.dci, codes=CODES_, factors=FACTORS_, seed=SEED),
    "evaluation.factor_vae_score": case(
        evaluation.factor_vae_score,
        codes=CODES_,
        factors=FACTORS_,
        seed=(0, whole()),
        votes=(4, size()),
        batch_size=(4, size(2)),
    ),
    "evaluation.beta_vae_score": case(
        evaluation.beta_vae_score,
        codes=CODES_,
        factors=FACTORS_,
        seed=(0, whole()),
        points=(16, size(4)),
        batch_size=(4, size()),
    ),
    "evaluation.disentanglement": case(
        evaluation.disentanglement, codes=CODES_, factors=FACTORS_, seed=SEED
    ),
    "oracle.probabilistic_pca": case(
        oracle.probabilistic_pca,
        x=(
            CODES,
            lambda v: any(numbers(*(None,) * n, fine=finite)(v) for n in (2, 3, 4)),
        ),
        q=(1, whole(1, 2)),
    ),
    "oracle.linear_beta_vae": case(
        oracle.linear_beta_vae,
        eigenvalues=([1.0, 0.5], numbers(None, fine=finite)),
        beta=(1.0, positive),
        sigma2=(1.0, positive),
    ),
    "oracle.independent_bernoulli": case(
        oracle.independent_bernoulli, x=ROWS_, alpha=(1.0, positive)
    ),
    "oracle.bernoulli_mixture": case(
        oracle.bernoulli_mixture,
        x=ROWS_,
        k=(2, whole(1, 4)),
        seed=(0, whole()),
        alpha=(1.0, positive),
        tolerance=(10.0, positive),
        rounds=(1000, whole(1)),
    ),
    "oracle.BernoulliMixture.log_likelihood": case(
        oracle.independent_bernoulli(ROWS).log_likelihood,
        x=(ROWS, numbers(None, 2, 2, fine=binary)),
    ),
    "oracle.ProbabilisticPCA.log_likelihood": case(
        oracle.probabilistic_pca(CODES, 1).log_likelihood, x=(CODES, nothing)
    ),
    "oracle.grid_log_likelihood": case(
        oracle.grid_log_likelihood,
        model=MODEL,
        images=IMAGES,
        points=(4, size(2)),
        extent=(6.0, positive),
    ),
    "oracle.gap_decomposition": case(
        oracle.gap_decomposition,
        model=MODEL,
        images=IMAGES,
        steps=(2, size()),
        learning_rate=(0.02, positive),
        nodes=(2, size()),
    ),
    "plots.plot_images": case(
        plots.plot_images,
        images=(
            X,
            lambda v: any(numbers(*(None,) * n, fine=finite)(v) for n in (3, 4)),
        ),
        columns=(None, optional(size())),
        axes=AXES,
        figsize=FIGSIZE,
    ),
    "plots.plot_reconstructions": case(
        plots.plot_reconstructions,
        model=MODEL,
        images=IMAGES,
        axes=AXES,
        figsize=FIGSIZE,
    ),
    "plots.plot_samples": case(
        plots.plot_samples,
        model=MODEL,
        n=(2, size()),
        key=A_KEY,
        columns=(None, optional(size())),
        axes=AXES,
        figsize=FIGSIZE,
    ),
    "plots.plot_interpolation": case(
        plots.plot_interpolation,
        model=MODEL,
        start=(X[0], numbers(2, 2, fine=unit)),
        end=(X[1], numbers(2, 2, fine=unit)),
        steps=(2, size(2)),
        axes=AXES,
        figsize=FIGSIZE,
    ),
    "plots.plot_history": case(
        plots.plot_history,
        history=({"loss": [1.0, 2.0]}, nothing),
        names=(None, optional(nothing)),
        axes=AXES,
        figsize=FIGSIZE,
    ),
    "recipes.warp": case(
        recipes.warp,
        key=A_KEY,
        images=(jnp.asarray(X), device_array(numbers(None, None, None))),
        share=(0.5, probability),
    ),
    "recipes.digits_vae": case(
        recipes.digits_vae,
        images=(X, numbers(None, None, None, fine=binary)),
        epochs=(1, size()),
        seed=(0, whole()),
        progress=PROGRESS,
    ),
    "debug.explain": case(
        lambda fn, verify: debug.explain(fn, X, verify=verify),
        fn=(jnp.sum, callable),
        verify=(True, flag),
    ),
    "debug.guarded": case(
        debug.guarded,
        step=(lambda: jnp.sum, callable),
        every=(250, whole(1)),
        watch=(None, optional(callable)),
        memory=(2**30, whole(1)),
        spikes=(None, optional(number(lambda x: x > 1))),
    ),
    "debug.nan_guard": case(debug.nan_guard, infs=(False, flag), verify=(True, flag)),
    "debug.probe": case(
        debug.probe,
        name=("x", text),
        x=(1.0, anything),
        when=("always", nothing),
        every=(1, whole(1)),
        grad=(False, flag),
    ),
    "debug.probes": case(debug.probes, on=(True, lambda v: v is True)),
    "debug.save_crash": case(
        debug.save_crash,
        path=(FOLDER / "other.npz", path),
        args=((1,), anything),
        kwargs=(None, lambda v: isinstance(v, dict | None)),
        step=(None, optional(whole())),
    ),
    "debug.load_crash": case(debug.load_crash, path=(crash, nothing)),
}

# Results, which nobody but the library makes; what one inherits from; a front for
# another package's arguments.
NOT_CALLED = {
    "Posterior",
    "data.ImageData",
    "likelihoods.Likelihood",
    "losses.ELBOTerms",
    "losses.TotalCorrelationTerms",
    "callbacks.Callback",
    "callbacks.WandB",
    "evaluation.DCI",
    "evaluation.CollapseReport",
    "evaluation.DisentanglementScores",
    "evaluation.Metrics",
    "oracle.BernoulliMixture",
    "oracle.GapDecomposition",
    "oracle.LinearBetaVAE",
    "oracle.ProbabilisticPCA",
    "debug.LossSpikeError",
    "debug.NonFiniteError",
    "debug.NonFiniteReport",
    "debug.SpikeReport",
}
SAME = {"elbo": "losses.elbo", "evaluate": "evaluation.evaluate"}


def make_model(seed):
    return vaelab.VAE((2, 2), (), 2, rngs=nnx.Rngs(seed, noise=seed + 1))


class Hang(BaseException):
    pass


@contextlib.contextmanager
def limited(seconds=10):
    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def good(value):
    makes = isinstance(value, types.FunctionType | type(vae))
    return value() if makes and not inspect.signature(value).parameters else value


ALIASES = {
    ("train_step", "batch"): "x",  # as the loss calls it
    ("check", "x"): "images",  # as its argument `name` calls it
}


def outcome(name, argument, value):
    """Returns what became of a call, and the words with which."""
    call, arguments = CASES[name]
    _, fine = arguments[argument]
    try:
        is_fine = bool(fine(value))
    except Exception:
        is_fine = False
    given = {k: good(v) for k, (v, _) in arguments.items() if k != argument}
    try:
        # the recipe compiles a large program for each shape of images
        with (
            limited(60 if name == "recipes.digits_vae" else 10),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")
            call(**given, **{argument: value})
    except Hang:
        return "hang", ""
    except (ValueError, TypeError, OSError) as error:
        message = f"{type(error).__name__}: {error}"
        names = {
            argument,
            ALIASES.get((getattr(call, "__name__", ""), argument), argument),
        }
        named = any(re.search(rf"\b{name}\b", str(error)) for name in names)
        return "named" if named else "unnamed", message
    except (FloatingPointError, RuntimeWarning) as error:  # JAX or NumPy says it
        return "fine" if is_fine else "other", repr(error)
    except Exception as error:
        return "other", f"{type(error).__name__}: {error}"
    return "fine" if is_fine else "silent", ""


PAIRS = [
    (name, argument) for name, case in CASES.items() for argument in case.arguments
]


def is_costly(name, argument, value):
    _, fine = CASES[name].arguments[argument]
    return fine in COSTS and isinstance(value, Integral) and value > 64


def outcomes(pairs, kinds=NASTY):
    for name, argument in pairs:
        for kind in kinds:
            value = NASTY[kind]()
            if not is_costly(name, argument, value):
                yield (name, argument, kind, *outcome(name, argument, value))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


@pytest.mark.parametrize("name", CASES)
def test_what_is_meant_well_is_taken(name):
    call, arguments = CASES[name]
    call(**{argument: good(value) for argument, (value, _) in arguments.items()})


def test_every_argument_of_every_callable_is_here():
    spaces = {"": vaelab} | {
        f"{space}.": getattr(vaelab, space)
        for space in vaelab.__all__
        if inspect.ismodule(getattr(vaelab, space)) and space != "checkpoints"
    }
    for prefix, space in spaces.items():
        for name in space.__all__:
            found, name = getattr(space, name), prefix + name
            if inspect.ismodule(found) or name in NOT_CALLED:
                continue
            parameters = inspect.signature(found).parameters.values()
            named = {p.name for p in parameters if p.kind not in (2, 4)}
            assert named <= set(CASES[SAME.get(name, name)].arguments), name


def test_nothing_is_taken_in_silence():
    seen = list(outcomes(PAIRS))
    counts = collections.Counter(row[3] for row in seen)
    bad = [row for row in seen if row[3] in ("silent", "hang", "other")]
    assert not bad, "\n".join(map(str, bad))
    unnamed = [row for row in seen if row[3] == "unnamed"]
    refused = len(unnamed) + counts["named"]
    assert len(unnamed) <= 0.02 * refused, "\n".join(map(str, unnamed))


VALUES = st.one_of(
    st.sampled_from(sorted(NASTY)).map(lambda kind: NASTY[kind]()),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3).filter(lambda text: "\0" not in text and "/" not in text),
    st.binary(max_size=3),
    st.lists(st.floats(), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    npst.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, bool, complex, object]),
        st.sampled_from([(), (0,), (3,), (4, 4), (4, 2, 2), (1, 2, 2)]),
    ),
)


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(pair=st.sampled_from(PAIRS), value=VALUES)
def test_nothing_drawn_at_random_is_taken_in_silence(pair, value):
    if is_costly(*pair, value):
        return
    what, message = outcome(*pair, value)
    assert what in ("fine", "named", "unnamed"), (what, message)
