"""Shapes of public functions, checked by jaxtyping while they run.

Each function below says which axes its arguments and its result share. It is called
with random arrays of these axes, under `beartype`.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from flax import nnx
from jaxtyping import Array, Float, Int, jaxtyped

import vaelab
from vaelab import data, evaluation, likelihoods, losses, oracle, recipes

SIZES = {"b": 5, "h": 2, "w": 3, "z": 2, "k": 2, "f": 2, "n": 40}
KEY = jax.random.key(0)
MODEL = vaelab.VAE((2, 3), (), 2, rngs=nnx.Rngs(0, noise=1))
FUNCTIONS = []

Images = Float[Array, "b h w"]
Codes = Float[Array, "b z"]
PerImage = Float[Array, " b"]
Host = np.ndarray


def shaped(function):
    FUNCTIONS.append(jaxtyped(function, typechecker=beartype))
    return function


@shaped
def kl_standard_normal(mean: Codes, std: Codes) -> Codes:
    return losses.kl_standard_normal(mean, std)


@shaped
def elbo(x: Images) -> tuple[PerImage, PerImage, Codes]:
    terms = losses.elbo(MODEL, x, key=KEY)
    return terms.loss, terms.reconstruction, terms.kl


@shaped
def mean_reduced(x: Images) -> PerImage:
    return losses.mean_reduced_loss(MODEL, x, key=KEY).loss


@shaped
def iwae_loss(x: Images) -> PerImage:
    return losses.iwae_loss(MODEL, x, num_samples=3, key=KEY).loss


@shaped
def iwae_bound(x: Images) -> PerImage:
    return losses.iwae_bound(MODEL, x, num_samples=3, key=KEY)


@shaped
def importance_samples(x: Images) -> tuple[Float[Array, "7 b"], Float[Array, "7 b"]]:
    return losses.importance_samples(MODEL, x, KEY, 7)


@shaped
def total_correlation(z: Codes, mean: Codes, std: Codes) -> PerImage:
    terms = losses.total_correlation_terms(z, mean, std, dataset_size=9)
    return terms.total_correlation


@shaped
def stratified(x: PerImage) -> Float[Array, "b b"]:
    return losses.stratified_log_weights(len(x), 9)


@shaped
def beta_tc(x: Images) -> PerImage:
    return losses.beta_tc_loss(MODEL, x, dataset_size=9, key=KEY).loss


@shaped
def encode(x: Images) -> tuple[Float[Array, "b 2"], Float[Array, "b 2"]]:
    return tuple(MODEL.encode(x))


@shaped
def decode(z: Codes) -> Images:
    return MODEL.decode(z)


@shaped
def call(x: Images) -> tuple[Images, Codes, Codes]:
    return tuple(MODEL(x))


@shaped
def encoder(x: Images) -> tuple[Codes, Codes, Codes]:
    return tuple(MODEL.encoder(x))


@shaped
def posterior_sample(mean: Codes, std: Codes) -> Codes:
    return vaelab.Posterior(mean, std).sample(KEY)


@shaped
def reconstruct(x: Images) -> Images:
    return MODEL.reconstruct(x)


@shaped
def generate(z: Codes) -> Images:
    return MODEL.generate(z)


@shaped
def sample(x: Images) -> Images:
    return MODEL.sample(len(x), key=KEY, draw_pixels=True)


@shaped
def bernoulli(logits: Images, x: Images) -> PerImage:
    return likelihoods.Bernoulli().nll(logits, x)


@shaped
def continuous_bernoulli(logits: Images, x: Images) -> PerImage:
    return likelihoods.ContinuousBernoulli().nll(logits, x)


@shaped
def gaussian(logits: Images, x: Images) -> PerImage:
    return likelihoods.Gaussian().nll(logits, x)


@shaped
def pixelwise(logits: Float[Array, "b h w k"], x: Images) -> PerImage:
    return likelihoods.PixelwiseGaussian().nll(logits, x)


@shaped
def pixelwise_mean(logits: Float[Array, "b h w k"]) -> Images:
    return likelihoods.PixelwiseGaussian().mean(logits)


@shaped
def categorical(logits: Float[Array, "b h w k"], x: Images) -> PerImage:
    return likelihoods.Categorical(2).nll(logits, x)


@shaped
def categorical_sample(logits: Float[Array, "b h w k"]) -> Images:
    return likelihoods.Categorical(2).sample(KEY, logits)


@shaped
def dequantize(x: Images) -> Images:
    return likelihoods.uniform_dequantize(KEY, x, 2)


@shaped
def warp(x: Images) -> Images:
    return recipes.warp(KEY, x)


@shaped
def latent_codes(x: Images) -> Float[Host, "b z"]:
    return evaluation.latent_codes(MODEL, x)


@shaped
def anomaly_scores(x: Images) -> Float[Host, " b"]:
    return evaluation.anomaly_scores(MODEL, x, key=KEY, num_samples=3)


@shaped
def metrics(x: Images) -> Float[Host, " 2"]:
    return vaelab.evaluate(MODEL, x, key=KEY, num_samples=3).kl


@shaped
def grid(x: Images) -> Float[Host, " b"]:
    return oracle.grid_log_likelihood(MODEL, x, points=5)


@shaped
def mixture(x: Images) -> Float[Host, " b"]:
    binary = np.asarray(x) > 0.5
    return oracle.independent_bernoulli(binary).log_likelihood(binary)


@shaped
def split(x: Images, labels: Int[Array, " b"]) -> Int[Array, " 3"]:
    return data.from_arrays(x, labels=labels, test_size=0.4).train_labels


def example(annotation, key):
    sizes = [SIZES[axis] for axis in annotation.dim_str.split()]
    values = jax.random.uniform(key, sizes, minval=0.1)
    is_whole = "int32" in annotation.dtypes
    return values.astype(jnp.int32) if is_whole else values


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_shapes_are_those_that_are_promised(function):
    parameters = inspect.signature(function).parameters.values()
    keys = jax.random.split(KEY, len(parameters))
    arguments = [
        example(p.annotation, key) for p, key in zip(parameters, keys, strict=True)
    ]
    if function.__name__ == "categorical":
        arguments[1] = jnp.round(arguments[1])
    function(*arguments)


def test_a_wrong_shape_is_noticed():
    @jaxtyped(typechecker=beartype)
    def transposed(x: Images) -> Images:
        return x.T

    with pytest.raises(Exception, match="return value"):
        transposed(jnp.zeros((5, 2, 3)))


def test_thirty_functions_are_checked():
    assert len(FUNCTIONS) >= 30
