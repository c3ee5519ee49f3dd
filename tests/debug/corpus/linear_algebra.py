"""Decompositions, solves and distances."""

import jax
import jax.numpy as jnp

from ._registry import call, program


@program(kind="nan", direction="forward", primitive="cholesky")
def cholesky_of_indefinite():
    """A covariance that is not positive definite."""

    def sample(covariance, noise):
        factor = jnp.linalg.cholesky(covariance)  # <- here
        return factor @ noise

    return call(jax.jit(sample), jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.ones(2))


@program(kind="inf", direction="backward")
def eigenvectors_of_repeated_eigenvalue():
    """Eigenvectors have no derivative where two eigenvalues are equal."""

    def loss(x):
        vectors = jnp.linalg.eigh(x)[1]  # <- here
        return jnp.sum(vectors[0] ** 2 * jnp.array([1.0, 2.0, 3.0]))

    return call(jax.grad(loss), jnp.diag(jnp.array([1.0, 1.0, 2.0])))


@program(kind="inf", direction="backward")
def pairwise_distances():
    """A matrix of distances has zeros on its diagonal; their gradient is a NaN."""

    def energy(points):
        difference = points[:, None, :] - points[None, :, :]  # (n, n, dimension)
        distances = jnp.linalg.norm(difference, axis=-1)  # <- here
        return jnp.sum(distances)

    return call(jax.jit(jax.grad(energy)), jnp.arange(6.0).reshape(3, 2))


@program(kind="nan", direction="forward", primitive="div")
def cosine_similarity_of_zero():
    """A vector of zeros has no direction."""

    def similarity(u, v):
        unit = u / jnp.linalg.norm(u)  # <- here
        return unit @ v

    return call(similarity, jnp.zeros(3), jnp.ones(3))


@program(kind="inf", direction="forward", primitive="log")
def log_determinant_of_singular():
    """The log-determinant of a singular matrix by its diagonal."""

    def log_det(factor):
        diagonal = jnp.diagonal(factor)
        return 2 * jnp.sum(jnp.log(diagonal))  # <- here

    return call(jax.jit(log_det), jnp.array([[1.0, 0.0], [3.0, 0.0]]))


@program(kind="inf", direction="forward", primitive="dot_general")
def matrix_product_overflow():
    """Two finite matrices whose product does not fit into float32."""

    def energy(x, w):
        y = x @ w  # <- here
        return jnp.mean(y)

    return call(jax.jit(energy), jnp.full((2, 3), 1e20), jnp.full((3, 2), 1e20))
