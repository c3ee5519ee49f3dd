"""The failing operation is in a library; the line to show is the user's."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.scipy import stats
from jax.scipy.linalg import sqrtm

from .._registry import call, program


@program(
    kind="inf|nan", direction="forward", primitive="div|log", cause=("zero", "scale")
)
def normal_density_without_width():
    """A scale of zero from a relu."""

    def loss(raw, x):
        scale = jax.nn.relu(raw)
        return -stats.norm.logpdf(x, 0.0, scale).sum()  # <- here

    def repaired(raw, x):
        return -stats.norm.logpdf(x, 0.0, jax.nn.softplus(raw)).sum()

    args = jnp.array([1.0, -1.0]), jnp.array([0.5, 0.5])
    return call(jax.jit(loss), *args).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    primitive="cholesky",
    cause=("positive definite|positive-definite|singular",),
)
def multivariate_normal_with_a_singular_covariance():
    """Two variables that are one."""

    def loss(x, mean, covariance):
        return -stats.multivariate_normal.logpdf(x, mean, covariance)  # <- here

    def repaired(x, mean, covariance):
        covariance = covariance + 1e-2 * jnp.eye(2)
        return -stats.multivariate_normal.logpdf(x, mean, covariance)

    args = jnp.ones(2), jnp.zeros(2), jnp.array([[1.0, 2.0], [2.0, 1.0]])
    return call(jax.jit(loss), *args).repaired(
        repaired, args[0], args[1], jnp.array([[1.0, 0.5], [0.5, 1.0]])
    )


@program(kind="nan|inf", direction="forward", cause=("pole|zero",), never=("overflow",))
def gamma_prior_of_a_zero():
    """jax.scipy's gamma density with a shape of zero."""

    def log_density(x, shape):
        dead = jax.nn.relu(shape - 2)
        return stats.gamma.logpdf(x, dead).sum()  # <- here

    def repaired(x, shape):
        return stats.gamma.logpdf(x, jax.nn.softplus(shape - 2)).sum()

    args = jnp.array([0.5, 1.0]), jnp.array([1.0, 1.5])
    return call(jax.jit(log_density), *args).repaired(repaired)


@program(
    kind="inf|nan",
    direction="forward",
    cause=("zero", "std|deviation|variance|constant|norm|scal"),
)
def standardise_without_epsilon():
    """jax.nn.standardize with epsilon=0 on a constant row."""

    def features(x):
        return jax.nn.standardize(x, axis=-1, epsilon=0.0)  # <- here

    def repaired(x):
        return jax.nn.standardize(x, axis=-1)

    x = jnp.array([[1.0, 2.0], [0.0, 0.0]])
    return call(jax.jit(features), x).repaired(repaired)


@program(kind="nan", direction="forward", cause=("inf|Inf",))
def relative_entropy_of_logits():
    """optax's KL divergence of a class that both distributions exclude."""

    def loss(log_p, log_q):
        return optax.kl_divergence(log_p, jnp.exp(log_q)).mean()  # <- here

    def distill(student, teacher, allowed):
        student = jax.nn.log_softmax(jnp.where(allowed, student, -jnp.inf))
        teacher = jax.nn.log_softmax(jnp.where(allowed, teacher, -jnp.inf))
        return loss(student, teacher)

    def repaired(student, teacher, allowed):
        student = jax.nn.log_softmax(jnp.where(allowed, student, -1e9))
        teacher = jax.nn.log_softmax(jnp.where(allowed, teacher, -1e9))
        return loss(student, teacher)

    args = jnp.ones(3), jnp.arange(3.0), jnp.array([True, True, False])
    return call(jax.jit(distill), *args).repaired(repaired)


@program(
    kind="inf|nan",
    direction="backward",
    cause=("root|sqrt|norm", "zero"),
)
def gradient_penalty_of_a_flat_critic():
    """WGAN's penalty: the norm of an input gradient that vanishes, differentiated."""

    class Critic(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(2, 4, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(
                4, 1, rngs=nnx.Rngs(1), kernel_init=nnx.initializers.zeros
            )

        def __call__(self, x):
            return self.head(jnp.tanh(self.linear(x)))

    def input_gradients(model, x):
        graphdef, state = nnx.split(model)

        def one(x):
            return nnx.merge(graphdef, state)(x)[0]

        return jax.vmap(jax.grad(one))(x)

    def penalty(model, x):
        norm = jnp.linalg.norm(input_gradients(model, x), axis=-1)  # <- here
        return jnp.mean((norm - 1) ** 2)

    def repaired(model, x):
        squared = jnp.sum(input_gradients(model, x) ** 2, axis=-1)
        return jnp.mean((jnp.sqrt(squared + 1e-8) - 1) ** 2)

    x = jnp.array([[1.0, 2.0], [0.5, -1.0]])
    return call(nnx.jit(nnx.grad(penalty)), Critic(), x).repaired(
        nnx.grad(repaired), Critic(), x
    )


@program(
    kind="nan|inf",
    direction="forward",
    primitive="div",
    cause=("zero", "sum|total|weight"),
)
def weighted_average_of_nothing():
    """jnp.average with weights that are all zero."""

    def centre(points, weights):
        return jnp.average(points, axis=0, weights=weights)  # <- here

    def repaired(points, weights):
        return weights @ points / jnp.maximum(weights.sum(), 1e-6)

    args = jnp.arange(6.0).reshape(3, 2), jnp.zeros(3)
    return call(jax.jit(centre), *args).repaired(repaired)


@program(kind="inf|nan", direction="backward", cause=("zero", "root|sqrt|std|variance"))
def group_norm_gradient_with_a_wrong_order():
    """A library's standard deviation, then an epsilon: too late for the gradient."""

    def normalise(x, w):
        h = x * w
        spread = h.std(axis=-1, keepdims=True)  # <- here
        return (h - h.mean(-1, keepdims=True)) / (spread + 1e-5)

    def repaired(x, w):
        h = x * w
        spread = jnp.sqrt(h.var(axis=-1, keepdims=True) + 1e-10)
        return (h - h.mean(-1, keepdims=True)) / spread

    def loss(fn):
        return jax.grad(lambda w, x: jnp.sum(fn(x, w) ** 3))

    args = jnp.array(1.5), jnp.array([[1.0, 2.0], [3.0, 3.0]])
    return call(loss(normalise), *args).repaired(loss(repaired))


@program(kind="inf|nan", direction="forward", cause=("log|zero|entropy|root|negative",))
def power_spectrum_in_decibels():
    """The logarithm of a spectrum with an empty bin."""

    def decibels(signal):
        power = jnp.abs(jnp.fft.rfft(signal)) ** 2
        return 10 * jnp.log10(power)  # <- here

    def repaired(signal):
        power = jnp.abs(jnp.fft.rfft(signal)) ** 2
        return 10 * jnp.log10(jnp.maximum(power, 1e-10))

    return call(jax.jit(decibels), jnp.ones(8)).repaired(repaired)


@program(
    kind="nan|inf", direction="backward", cause=("zero", "abs|magnitude|root|sqrt")
)
def gradient_of_a_spectral_magnitude():
    """|z|'s gradient at z = 0 by hand, through the real and imaginary parts."""

    def loss(signal):
        spectrum = jnp.fft.rfft(signal)
        magnitude = jnp.sqrt(spectrum.real**2 + spectrum.imag**2)  # <- here
        return jnp.sum(magnitude)

    def repaired(signal):
        spectrum = jnp.fft.rfft(signal)
        return jnp.sum(jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9))

    return call(jax.jit(jax.grad(loss)), jnp.zeros(8)).repaired(jax.grad(repaired))


@program(
    kind="nan",
    direction="forward",
    cause=("singular|zero|defective|root",),
)
def matrix_square_root_of_a_nilpotent_matrix():
    """sqrtm of a matrix that has no square root."""

    def frechet(a, b):
        root = sqrtm(a @ b)  # <- here
        return jnp.trace(root).real

    def repaired(a, b):
        root = sqrtm(a @ b + 1e-2 * jnp.eye(2))
        return jnp.trace(root).real

    args = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.eye(2)
    return call(frechet, *args).repaired(repaired)


@program(kind="inf", direction="forward", cause=("overflow",), never=("divisor",))
def activation_of_a_raw_feature():
    """jax.nn.elu is fine; the exponential of its output is not."""

    def rate(w, x):
        hidden = jax.nn.elu(x @ w)
        return jax.vmap(jnp.exp)(hidden).sum()  # <- here

    args = jnp.ones(2), jnp.array([[1.0, 2.0], [100.0, 20.0]])
    return call(jax.jit(rate), *args).repaired(rate, args[0], args[1] / 100)
