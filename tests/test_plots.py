import jax
import numpy as np
import pytest
from flax import nnx
from matplotlib import pyplot
from matplotlib.figure import Figure

import vaelab
from vaelab import plots, training

IMAGES = np.random.default_rng(0).uniform(size=(12, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def vae():
    return vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))


def shown(figure):
    return [axis.images[0].get_array() for axis in figure.axes if axis.images]


def test_images_stand_row_by_row():
    figure = plots.plot_images(IMAGES, columns=5, figsize=(5, 3))
    assert isinstance(figure, Figure)
    assert tuple(figure.get_size_inches()) == (5, 3)
    assert len(figure.axes) == 15
    np.testing.assert_array_equal(np.stack(shown(figure)), IMAGES)


def test_images_with_channels():
    assert shown(plots.plot_images(np.zeros((2, 4, 4, 1))))[0].shape == (4, 4)
    assert shown(plots.plot_images(np.zeros((2, 4, 4, 3))))[0].shape == (4, 4, 3)


def test_reconstructions_stand_below_their_images(vae):
    images = shown(plots.plot_reconstructions(vae, IMAGES[:3]))
    np.testing.assert_array_equal(np.stack(images[:3]), IMAGES[:3])
    np.testing.assert_allclose(np.stack(images[3:]), vae.reconstruct(IMAGES[:3]))


def test_samples_fill_a_square(vae):
    key = jax.random.key(0)
    figure = plots.plot_samples(vae, 9, key=key)
    np.testing.assert_allclose(np.stack(shown(figure)), vae.sample(9, key=key))
    assert figure.axes[0].get_gridspec().ncols == 3


def test_an_interpolation_starts_and_ends_at_the_reconstructions(vae):
    images = shown(plots.plot_interpolation(vae, IMAGES[0], IMAGES[1], steps=5))
    ends = vae.reconstruct(IMAGES[:2])
    assert len(images) == 5
    np.testing.assert_allclose(images[0], ends[0], rtol=1e-5)
    np.testing.assert_allclose(images[-1], ends[1], rtol=1e-5)


def test_history_has_a_panel_for_each_curve():
    history = {"loss": np.array([3.0, 2.0]), "elbo": np.array([-3.0, -2.0])}
    figure = plots.plot_history(history)
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "elbo"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [1, 2])
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), [-3.0, -2.0])


def test_ones_own_axes_are_drawn_into(vae):
    figure, axes = pyplot.subplots(2, 6)
    assert plots.plot_images(IMAGES, axes=axes) is figure
    figure, axes = pyplot.subplots(1, 1)
    assert plots.plot_history({"loss": [1.0]}, axes=axes) is figure


def test_pictures_leave_the_models_noise_alone(vae):
    before = int(vae.rngs.noise.count[...])
    plots.plot_reconstructions(vae, IMAGES[:2])
    plots.plot_samples(vae, 2, key=jax.random.key(0))
    plots.plot_interpolation(vae, IMAGES[0], IMAGES[1])
    assert int(vae.rngs.noise.count[...]) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.plot_images(IMAGES[0]), r"write images\[None\]"),
        (
            lambda: plots.plot_images(IMAGES, axes=pyplot.subplots()[1]),
            "axes has 1 axes",
        ),
        (lambda: plots.plot_history({"loss": [1.0]}, ["los"]), "the history has loss"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("shape", [(3, 1, 5), (3, 5, 1), (3, 4, 5, 1), (3, 4, 5, 3)])
def test_images_of_one_row_or_channel_are_shown(shape):
    pictures = shown(plots.plot_images(np.zeros(shape)))
    assert {picture.shape[:2] for picture in pictures} == {shape[1:3]}


def test_what_a_model_of_vectors_makes_is_shown_as_rows():
    model = vaelab.VAE((5,), (), 2, rngs=nnx.Rngs(0, noise=1))
    pictures = shown(plots.plot_reconstructions(model, np.zeros((3, 5))))
    pictures += shown(plots.plot_samples(model, 4, key=jax.random.key(0)))
    assert {picture.shape for picture in pictures} == {(1, 5)}


def test_a_list_of_images_is_shown():
    pictures = shown(plots.plot_images([np.zeros((4, 5))] * 3))
    assert [picture.shape for picture in pictures] == [(4, 5)] * 3


def test_a_history_is_that_of_a_result_too():
    history = {"loss": np.array([3.0, 2.0])}
    one = plots.plot_history(training.FitResult(history, 2, "epochs"))
    np.testing.assert_array_equal(one.axes[0].get_lines()[0].get_ydata(), [3.0, 2.0])
    many = {"loss": np.array([[3.0, 2.0], [5.0, 4.0]])}
    result = training.FitManyResult(None, many, *[np.zeros(2)] * 3)
    lines = plots.plot_history(result).axes[0].get_lines()
    np.testing.assert_array_equal(lines[1].get_ydata(), [5.0, 4.0])
