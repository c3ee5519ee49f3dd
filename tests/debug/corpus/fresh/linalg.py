"""Solves, inverses, decompositions: singular, indefinite, repeated eigenvalues."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve, expm
from jax.scipy.sparse.linalg import cg

from .._registry import call, program


@program(
    kind="inf|nan",
    direction="forward",
    primitive="triangular_solve|custom_linear_solve",
    cause=("singular",),
    never=("overflow",),
)
def solve_of_dependent_equations():
    """The second equation is twice the first."""

    def currents(conductance, source):
        scaled = 2.0 * conductance
        return jnp.linalg.solve(scaled, source)  # <- here

    def repaired(conductance, source):
        scaled = 2.0 * conductance
        return jnp.linalg.lstsq(scaled, source)[0]

    a, b = jnp.array([[1.0, 2.0], [2.0, 4.0]]), jnp.ones(2)
    return call(jax.jit(currents), a, b).repaired(repaired)


@program(kind="inf|nan", direction="forward", cause=("singular",), never=("overflow",))
def inverse_of_collinear_features():
    """Normal equations with a feature that is another one, doubled."""

    def least_squares(x, y):
        gram = x.T @ x
        return jnp.linalg.inv(gram) @ (x.T @ y)  # <- here

    def ridge(x, y):
        gram = x.T @ x + 0.1 * jnp.eye(2)
        return jnp.linalg.inv(gram) @ (x.T @ y)

    x = jnp.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    return call(least_squares, x, jnp.ones(3)).repaired(ridge)


@program(
    kind="inf|nan",
    direction="forward",
    cause=("singular",),
    never=("overflow", "double-where"),
)
def gauss_newton_without_damping():
    """Two parameters with the same effect: JᵀJ has rank one."""

    def step(theta, t, y, damping=0.0):
        def residual(theta):
            return (theta[0] + theta[1]) * t - y

        jacobian = jax.jacfwd(residual)(theta)
        normal = jacobian.T @ jacobian + damping * jnp.eye(2)
        return theta - jnp.linalg.solve(normal, jacobian.T @ residual(theta))  # <- here

    args = jnp.ones(2), jnp.arange(3.0), jnp.array([1.0, 2.0, 4.0])
    return call(jax.jit(step), *args).repaired(step, *args, 0.1)


@program(kind="nan", direction="forward", cause=("expm|squaring|norm|large",))
def matrix_exponential_of_large_rates():
    """A rate matrix times a long time: more squarings than expm allows."""

    def transition(rates, time):
        generator = rates - jnp.diag(rates.sum(1))
        return expm(time * generator)  # <- here

    def repaired(rates, time):
        generator = rates - jnp.diag(rates.sum(1))
        return expm(time * generator, max_squarings=40)

    rates = jnp.array([[0.0, 1.0], [2.0, 0.0]])
    return call(transition, rates, jnp.array(1e7)).repaired(repaired)


@program(kind="inf", direction="forward", primitive="div", cause=("zero",))
def conjugate_gradients_without_curvature():
    """The Hessian vanishes at the point of expansion: pᵀA p is zero."""

    def newton(x, g, damping):
        def hessian(v):
            product = jax.jvp(jax.grad(lambda x: jnp.sum(x**3)), (x,), (v,))[1]
            return product + damping * v

        return cg(hessian, g, maxiter=5)[0]  # <- here

    x, g = jnp.zeros(3), jnp.ones(3)
    return call(newton, x, g, 0.0).repaired(newton, x, g, 0.1)


@program(
    kind="nan",
    direction="forward",
    primitive="cholesky",
    cause=("positive definite|positive-definite",),
    never=("1e-6", "1e-06"),
)
def gaussian_process_of_200_points():
    """A smooth kernel in float32: a jitter of 1e-6 is lost in rounding."""

    def log_likelihood(scale, t, y, jitter=1e-6):
        gap = (t[:, None] - t[None, :]) / scale
        kernel = jnp.exp(-0.5 * gap**2) + jitter * jnp.eye(t.size)
        factor = jnp.linalg.cholesky(kernel)  # <- here
        alpha = cho_solve((factor, True), y)
        return -0.5 * y @ alpha - jnp.sum(jnp.log(jnp.diagonal(factor)))

    t = jnp.linspace(0.0, 1.0, 200)
    args = jnp.array(0.3), t, jnp.sin(6 * t)
    return call(jax.jit(jax.value_and_grad(log_likelihood)), *args).repaired(
        jax.value_and_grad(log_likelihood), *args, 1e-3
    )


@program(
    kind="nan",
    direction="forward",
    primitive="cholesky",
    cause=("positive definite|positive-definite|singular",),
)
def kernel_matrix_with_a_duplicate():
    """The same input twice, and no noise."""

    def weights(x, y, noise):
        kernel = jnp.exp(-((x[:, None] - x[None, :]) ** 2))
        factor = cho_factor(kernel + noise * jnp.eye(x.size))  # <- here
        return cho_solve(factor, y)

    x, y = jnp.array([1.0, 1.0, 5.0]), jnp.array([1.0, 2.0, 3.0])
    return call(jax.jit(weights), x, y, 0.0).repaired(weights, x, y, 0.1)


@program(
    kind="inf",
    direction="backward",
    cause=("eigenvalue",),
    never=("double-where",),
)
def whitening_of_white_data():
    """The covariance is the identity: all of its eigenvalues are equal."""

    def loss(covariance, x):
        values, vectors = jnp.linalg.eigh(covariance)  # <- here
        white = (vectors / jnp.sqrt(values)) @ vectors.T @ x
        return jnp.sum(white**3)

    def repaired(covariance, x):
        factor = jnp.linalg.cholesky(covariance)
        return jnp.sum(jnp.linalg.solve(factor, x) ** 3)

    args = jnp.eye(3), jnp.arange(3.0)
    return call(jax.grad(loss), *args).repaired(jax.grad(repaired))


@program(
    kind="inf",
    direction="backward",
    cause=("singular value",),
    never=("double-where",),
)
def orthogonal_factor_of_identity():
    """U Vᵀ of a matrix whose singular values are all two."""

    def loss(w):
        u, _, vt = jnp.linalg.svd(w, full_matrices=False)  # <- here
        return jnp.sum((u @ vt) * jnp.arange(9.0).reshape(3, 3))

    def repaired(w):
        x = w / jnp.sqrt(jnp.sum(w**2))
        for _ in range(12):
            x = 1.5 * x - 0.5 * x @ x.T @ x
        return jnp.sum(x * jnp.arange(9.0).reshape(3, 3))

    return call(jax.jit(jax.grad(loss)), 2.0 * jnp.eye(3)).repaired(jax.grad(repaired))


@program(
    kind="inf",
    direction="forward",
    primitive="log",
    cause=("singular|determinant",),
)
def log_determinant_of_a_singular_flow():
    """An invertible layer that has lost a dimension."""

    def log_likelihood(w, x):
        z = x @ w.T
        return -0.5 * jnp.sum(z**2) + jnp.linalg.slogdet(w)[1]  # <- here

    def repaired(w, x):
        return log_likelihood(w + 0.1 * jnp.eye(2), x)

    w = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    return call(jax.value_and_grad(log_likelihood), w, jnp.ones((3, 2))).repaired(
        jax.value_and_grad(repaired)
    )


@program(
    kind="inf",
    direction="forward",
    primitive="log",
    cause=("underflow",),
    never=("singular",),
)
def determinant_underflows():
    """Twelve variances of 1e-4: a fine covariance, a determinant of 1e-48."""

    def entropy(covariance):
        volume = jnp.linalg.det(covariance)
        return 0.5 * jnp.log(volume)  # <- here

    def repaired(covariance):
        return 0.5 * jnp.linalg.slogdet(covariance)[1]

    return call(entropy, 1e-4 * jnp.eye(12)).repaired(repaired)


@program(kind="nan", direction="forward", primitive="sqrt", cause=("negative",))
def mahalanobis_distance_of_an_indefinite_matrix():
    """The solve is fine; the quadratic form is negative."""

    def distance(covariance, x):
        squared = x @ jnp.linalg.solve(covariance, x)
        return jnp.sqrt(squared)  # <- here

    args = jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.array([1.0, -1.0])
    return call(jax.jit(distance), *args).repaired(distance, jnp.eye(2), args[1])


@program(kind="nan", direction="forward", primitive="sqrt", cause=("negative",))
def root_of_an_edited_correlation():
    """Correlations that cannot hold together: one eigenvalue is negative."""

    def root(correlation):
        values, vectors = jnp.linalg.eigh(correlation)
        scales = jnp.sqrt(values)  # <- here
        return vectors * scales

    def repaired(correlation):
        values, vectors = jnp.linalg.eigh(correlation)
        return vectors * jnp.sqrt(jnp.maximum(values, 0.0))

    correlation = jnp.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    return call(jax.jit(root), correlation).repaired(repaired)


@program(
    kind="inf|nan",
    direction="backward",
    cause=("rank|singular|zero",),
    never=("eigenvector",),
)
def gradient_of_qr_with_an_empty_column():
    """An orthonormal basis of a matrix with a column of zeros."""

    def loss(x):
        basis, _ = jnp.linalg.qr(x)  # <- here
        return jnp.sum(basis**3)

    x = jnp.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    return call(jax.grad(loss), x).repaired(jax.grad(loss), x.at[0, 1].set(1.0))
