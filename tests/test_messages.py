"""What constructors refuse, before anything is compiled, and what they take."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab.callbacks import Callback, Checkpoint, EarlyStopping, ReduceLROnPlateau
from vaelab.likelihoods import Gaussian
from vaelab.models import Posterior

KEY = jax.random.key(0)


def rngs():
    return nnx.Rngs(0, noise=1)


def vae(**options):
    settings = {
        "image_shape": (2, 2),
        "hidden_size": (),
        "latent_size": 2,
        "rngs": rngs(),
    }
    return vaelab.VAE(**(settings | options))


@dataclass
class Unhashable:
    outputs_per_pixel: int = 1
    nll = mean = sample = check = None


class Flat:
    """An encoder part; what it returns is given."""

    def __init__(self, returned, latent_size=2):
        self.returned, self.latent_size = returned, latent_size

    def posterior(self, x):
        n = len(x)
        return self.returned(jnp.zeros((n, 2)), jnp.ones((n, 2)))


def joined(encoder, decoder):
    return vaelab.VAE.from_parts(encoder, decoder, image_shape=(2, 2), rngs=rngs())


def four(z):
    return jnp.zeros((len(z), 4))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: vae(rngs=0), TypeError, r"rngs is 0: give .* rngs=nnx.Rngs\(0, noise"),
        (lambda: vae(rngs=KEY), TypeError, "rngs is a PRNGKeyArray"),
        (lambda: vae(image_shape=784), TypeError, "image_shape is 784: give a tuple"),
        (lambda: vae(image_shape="88"), TypeError, "image_shape is '88': give a tuple"),
        (lambda: vae(image_shape=()), ValueError, r"image_shape is \(\)"),
        (lambda: vae(image_shape=(2, 0)), ValueError, r"image_shape\[1\] is 0"),
        (lambda: vae(image_shape=(2.0, 2)), ValueError, r"image_shape\[0\] is 2.0"),
        (lambda: vae(hidden_size={3, 4}), TypeError, r"hidden_size is \{3, 4\}"),
        (lambda: vae(hidden_size=0), ValueError, "hidden_size is 0: give a positive"),
        (lambda: vae(hidden_size=True), ValueError, "hidden_size is True"),
        (lambda: vae(hidden_size=(3, -1)), ValueError, r"hidden_size\[1\] is -1"),
        (lambda: vae(latent_size=2.5), ValueError, "latent_size is 2.5"),
        (lambda: vae(likelihood=Gaussian), TypeError, r"give one of it, .* Gaussian\("),
        (lambda: vae(likelihood="gaussian"), TypeError, "likelihood is 'gaussian', wh"),
        (lambda: vae(likelihood=Unhashable()), TypeError, r"dataclass\(frozen=True\)"),
        (
            lambda: vae(activation="relu"),
            TypeError,
            "activation is 'relu': .*nnx.relu",
        ),
        (lambda: vae(activation=jnp.ones(2)), TypeError, "activation is a ArrayImpl"),
        (lambda: vae(log_std_bounds=(5, -5)), ValueError, r"is \(5, -5\): .* low < hi"),
        (lambda: vae(log_std_bounds=5), TypeError, "log_std_bounds is 5: give "),
        (lambda: vae(log_std_bounds=(-1, np.nan)), ValueError, r"bounds\[1\] is nan"),
        (lambda: vae(dropout=1.0), ValueError, r"dropout is 1.0: give a .* \[0, 1\)"),
        (lambda: vae(dropout="0.1"), TypeError, "dropout is '0.1'"),
        (lambda: vae(dtype="float33"), TypeError, "dtype is 'float33'"),
        (lambda: vae(dtype=jnp.int32), TypeError, "dtype is the class int32"),
        (lambda: joined(object(), four), TypeError, "encoder is .* with latent_size"),
        (lambda: joined(Flat(Posterior), None), TypeError, "decoder is None"),
        (
            lambda: joined(Flat(lambda *parts: parts), four),
            TypeError,
            r"encoder.posterior returned .*: return\s+vaelab.Posterior\(mean, std\)",
        ),
        (
            lambda: joined(Flat(Posterior, latent_size=3), four),
            ValueError,
            r"a mean of shape \(2, 2\) for 2 images: return \(batch, 3\)",
        ),
        (
            lambda: joined(Flat(Posterior), lambda z: jnp.zeros((len(z), 5))),
            ValueError,
            r"decoder returned shape \(2, 5\) .*: return 4 numbers for each",
        ),
        (
            lambda: joined(Flat(Posterior), vaelab.Decoder(3, (), 4, rngs=rngs())),
            ValueError,
            r"decoder does not take z of shape \(2, 2\)",
        ),
        (lambda: vaelab.Decoder(2, (), 0, rngs=rngs()), ValueError, "output_size is 0"),
        (lambda: vaelab.Encoder(4, (), 2, rngs=0), TypeError, "rngs is 0"),
        (lambda: vae().sample(3, key=0), TypeError, "key is 0: give a random key"),
        (
            lambda: vae().sample(3, key=jax.random.split(KEY, 3)),
            ValueError,
            r"key holds 3 random keys: give one, such as key\[0\]",
        ),
        (lambda: vae().sample(0, key=KEY), ValueError, "n is 0: give at least 1"),
        (lambda: vae().sample(2.5, key=KEY), TypeError, "n is 2.5: give a whole"),
        (
            lambda: vae().sample(2, key=KEY, draw_pixels="yes"),
            TypeError,
            "draw_pixels is 'yes': give True or False",
        ),
        (
            lambda: vae(image_shape=(4, 4, 3)).encode(jnp.zeros((5, 3, 4, 4))),
            ValueError,
            r"channels come last, so write np.moveaxis\(x, 1, -1\)",
        ),
        (lambda: vae().decode(jnp.zeros((2, 3))), ValueError, r"z has shape \(2, 3\)"),
        (lambda: EarlyStopping(2.5), TypeError, "patience is 2.5: give a whole number"),
        (lambda: EarlyStopping(0), ValueError, "patience is 0: give at least 1"),
        (lambda: EarlyStopping(True), TypeError, "patience is True"),
        (lambda: EarlyStopping(2, min_delta=np.nan), ValueError, "min_delta is nan"),
        (
            lambda: EarlyStopping(2, restore_best="no"),
            TypeError,
            "restore_best is",
        ),
        (lambda: EarlyStopping(2, metric=3), TypeError, "metric is 3: give a name"),
        (
            lambda: ReduceLROnPlateau(2, factor=2.0),
            ValueError,
            "factor is 2.0",
        ),
        (lambda: ReduceLROnPlateau(2, min_scale=-1), ValueError, "min_scale is -1"),
        (lambda: Checkpoint("a", every=2.5), TypeError, "every is 2.5: give a whole"),
        (lambda: Checkpoint("a", every=True), TypeError, "every is True"),
        (lambda: Checkpoint(3), TypeError, "path is 3: give the path of a folder"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_misspelt_hook_is_refused_with_the_nearest_name():
    with pytest.raises(TypeError, match="Mine has a method on_epochs, .* it on_epoch,"):

        class Mine(Callback):
            def on_epochs(self, run):
                pass


def test_what_is_taken_in_other_forms():
    model = vae(
        image_shape=[2, 2],
        hidden_size=[np.int64(3)],
        latent_size=np.int32(2),
        log_std_bounds=[-5, 5],
        dtype="bfloat16",
        dropout=np.float32(0.5),
    )
    assert model.image_shape == (2, 2)
    assert model.encoder.log_std_bounds == (-5.0, 5.0)
    assert model.encoder.linear_mean.dtype == jnp.bfloat16
    old = vae().sample(2, key=jax.random.PRNGKey(0))
    np.testing.assert_array_equal(
        old, vae().sample(2, key=np.asarray(jax.random.PRNGKey(0)))
    )


def test_results_are_shown_in_a_few_words(digits):
    assert repr(digits) == "ImageData(train=(1347, 8, 8), test=(450, 8, 8), labelled)"
    history = {"loss": np.array([3.0, 2.0]), "elbo": np.array([-3.0, -2.0])}
    result = vaelab.training.FitResult(history, 2, "epochs")
    assert repr(result) == "FitResult(2 epochs, stopped by epochs, loss=2, elbo=-2)"
    assert "<th>elbo</th><td>-2</td>" in result._repr_html_()
    many = vaelab.training.FitManyResult(
        None,
        {"loss": np.array([[3.0, 2.0], [3.0, np.nan], [4.0, 2.5]])},
        *[np.arange(3)] * 3,
    )
    assert repr(many) == "FitManyResult(3 models, loss=2 to 2.5)"
    assert "3 models" in many._repr_html_()


class Narrow:
    """An encoder of vectors of five numbers."""

    latent_size = 2

    def posterior(self, x):
        return Posterior(x @ jnp.ones((5, 2)), jnp.ones((len(x), 2)))


def table(**options):
    import pandas

    columns = {"age": [1.0, 2.0, 3.0], "name": ["x", "y", "z"], "height": [1, 2, 3]}
    return pandas.DataFrame(columns | options)


def fit(images=None, **options):
    images = np.zeros((4, 3), np.float32) if images is None else images
    model = vae(image_shape=(3,), likelihood=Gaussian(std=1.0))
    settings = {"epochs": 1, "batch_size": 2, "optimizer": optax.adam(1e-3)}
    return vaelab.fit(model, images, **(settings | options))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: joined(Narrow(), four),
            ValueError,
            r"encoder.posterior does not take images of shape \(2, 2, 2\), \(batch",
        ),
        (
            lambda: fit(table()),
            TypeError,
            r"columns that are no numbers, \['name'\]: leave .*drop\(columns=",
        ),
        (
            lambda: fit(free_bits=0.5),
            TypeError,
            "fit has no argument free_bits: .* give knobs={'free_bits': ...}",
        ),
        (
            lambda: fit(beta=lambda step: min(1.0, step / 20)),
            TypeError,
            r"beta is <lambda>, which fails .* write jnp.minimum\(1.0, step / 20\)",
        ),
        (
            lambda: vaelab.elbo(vae(), np.zeros((1, 2, 2)), beta=jnp.float32(-1)),
            ValueError,
            "beta is -1.0: give 0 or a positive number",
        ),
        (
            lambda: vaelab.elbo(vae(), np.zeros((1, 2, 2)), free_bits=-jnp.ones(())),
            ValueError,
            "free_bits is -1.0: give 0 or a positive number",
        ),
    ],
)
def test_what_readers_stumbled_over(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_table_that_is_not_standardised_is_named():
    raw = np.array([[0, 1000.0, 1], [1, 900, 2], [0, 950, 3], [1, 1050, 2]], np.float32)
    with pytest.warns(UserWarning, match=r"columns \[1\] of images .* standardise"):
        with pytest.raises(ValueError, match="batch_size is 99"):
            fit(raw, batch_size=99)
