import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaelab
from vaelab import recipes

IMAGES = vaelab.data.load_digits().train[:200]


@pytest.mark.slow
def test_warp_gives_black_and_white_images_that_resemble_theirs():
    bent = recipes.warp(jax.random.key(0), IMAGES, share=1.0)
    assert bent.shape == IMAGES.shape
    assert bent.dtype == IMAGES.dtype
    assert set(np.unique(bent)) == {0.0, 1.0}
    own = jnp.abs(bent - IMAGES).mean()
    others = jnp.abs(bent - jnp.roll(IMAGES, 1, axis=0)).mean()
    assert 0 < own < 0.4 * others
    # neither thinner nor thicker on average
    np.testing.assert_allclose(bent.mean(), IMAGES.mean(), atol=0.03)


def test_warp_bends_a_share_of_the_images():
    np.testing.assert_array_equal(
        recipes.warp(jax.random.key(0), IMAGES, share=0.0), IMAGES
    )
    everywhere = recipes.warp(jax.random.key(0), IMAGES, share=1.0)
    half = recipes.warp(jax.random.key(0), IMAGES, share=0.5)
    kept = (half == IMAGES).all(axis=(1, 2))
    np.testing.assert_array_equal(half[~kept], everywhere[~kept])
    assert 0.3 < kept.mean() < 0.7


def test_warp_takes_images_that_are_not_square():
    assert recipes.warp(jax.random.key(0), IMAGES[:, :5]).shape == (200, 5, 8)


@pytest.mark.slow
def test_the_recipe_learns():
    vae = recipes.digits_vae(IMAGES, epochs=20, progress=False)
    assert vaelab.elbo(vae, IMAGES, key=jax.random.key(0)).elbo.mean() > -27
