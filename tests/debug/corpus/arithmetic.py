"""Forward failures of plain arithmetic: one operation outside of its domain."""

import jax
import jax.numpy as jnp

from ._registry import call, program


@program(kind="nan", direction="forward", primitive="div", module=None, iteration=())
def zero_over_zero():
    """A mean over a mask that selects nothing."""

    def masked_mean(x, mask):
        total = jnp.sum(x * mask)
        count = jnp.sum(mask)
        return total / count  # <- here

    return call(masked_mean, jnp.arange(4.0), jnp.zeros(4))


@program(kind="inf", direction="forward", primitive="div", module=None, iteration=())
def one_over_zero():
    """An inverse of a scale that is exactly zero."""

    def precision(std):
        variance = std * std
        return 1.0 / variance  # <- here

    return call(precision, jnp.array([1.0, 0.0, 2.0]))


@program(kind="inf", direction="forward", primitive="log", module=None, iteration=())
def log_of_zero():
    """The cross-entropy of a class that was given probability zero."""

    def cross_entropy(probability):
        nats = -jnp.log(probability)  # <- here
        return nats.mean()

    return call(cross_entropy, jnp.array([0.5, 0.0]))


@program(kind="nan", direction="forward", primitive="log", module=None)
def log_of_negative():
    """A logarithm of values that were centred first."""

    def fn(x):
        centred = x - x.mean()
        return jnp.log(centred).sum()  # <- here

    return call(jax.jit(fn), jnp.array([1.0, 2.0, 3.0]))


@program(kind="nan", direction="forward", primitive="sqrt", module=None)
def sqrt_of_negative():
    """A variance computed as E[x²] - E[x]² from a wrong mean."""

    def std(x, mean):
        variance = jnp.mean(x**2) - mean**2
        return jnp.sqrt(variance)  # <- here

    return call(jax.jit(std), jnp.array([1.0, 2.0]), jnp.array(5.0))


@program(kind="inf", direction="forward", primitive="exp", module=None)
def inf_minus_inf():
    """A difference of two exponentials that have both overflowed."""

    def bump(x):
        high = jnp.exp(x)  # <- here
        low = high / 2
        return high - low  # <- then

    return call(bump, jnp.array([1.0, 200.0]))


@program(kind="inf", direction="forward", primitive="exp", module=None)
def exp_overflow():
    """A variance from an unbounded log-variance."""

    def kl(mean, log_variance):
        variance = jnp.exp(log_variance)  # <- here
        return 0.5 * jnp.sum(mean**2 + variance - log_variance - 1)

    return call(jax.jit(kl), jnp.zeros(3), jnp.array([0.0, 10.0, 200.0]))


@program(kind="inf", direction="forward", primitive="exp", module=None)
def exp_overflow_then_nan():
    """A softmax by hand: exp overflows, and Inf / Inf is a NaN one line later."""

    def softmax(x):
        weights = jnp.exp(x)  # <- here
        return weights / jnp.sum(weights)  # <- then

    return call(jax.jit(softmax), jnp.array([1.0, 2.0, 1000.0]))


@program(kind="inf", direction="forward", primitive="log", module=None)
def saturated_sigmoid_before_log():
    """1 - sigmoid(100) is exactly zero in float32."""

    def loss(logits):
        p = jax.nn.sigmoid(logits)
        return -jnp.mean(jnp.log(1 - p))  # <- here

    return call(loss, jnp.array([0.0, 100.0]))


@program(kind="inf", direction="forward", primitive="div", module=None)
def square_underflow():
    """1e-30 is a fine float32; its square is zero."""

    def weights(std):
        variance = jnp.square(std)
        return 1 / variance  # <- here

    return call(jax.jit(weights), jnp.array([1.0, 1e-30]))


@program(kind="nan", direction="forward", module=None)
def variance_of_one_element():
    """The unbiased variance of a single number divides 0 by 0."""

    def fn(x):
        doubled = 2 * x
        return jnp.var(doubled, ddof=1)  # <- here

    return call(fn, jnp.ones(1))


@program(kind="nan", direction="forward", primitive="pow", module=None)
def negative_base_of_power():
    """A negative number to a fractional power."""

    def gamma_correction(x, gamma):
        shifted = x - 0.5
        return shifted**gamma  # <- here

    return call(jax.jit(gamma_correction), jnp.array([0.1, 0.9]), jnp.array(2.2))


@program(kind="nan", direction="forward", module=None)
def complex_phase_of_zero():
    """The phase factor z / |z| of a complex zero."""

    def phase(z):
        size = jnp.abs(z)
        return z / size  # <- here

    return call(jax.jit(phase), jnp.array([1 + 1j, 0j]))


@program(kind="inf", direction="forward", module=None)
def cumulative_product_overflow():
    """A product of many numbers above one."""

    def growth(rates):
        factors = 1 + rates
        return jnp.cumprod(factors)  # <- here

    return call(jax.jit(growth), jnp.full(8, 1e6))


@program(kind="nan", direction="forward", primitive="div", module=None)
def cumulative_mean_of_nothing():
    """A running mean over the valid entries, the first of which is not valid."""

    def running_mean(x, valid):
        total = jnp.cumsum(x * valid)
        count = jnp.cumsum(valid)
        return total / count  # <- here

    return call(running_mean, jnp.ones(4), jnp.array([0, 1, 1, 1]))


@program(kind="inf", direction="forward", primitive="atanh", module=None)
def arctanh_of_one():
    """The inverse of tanh at a value that tanh rounded to one."""

    def inverse(x):
        squashed = jnp.tanh(x)
        return jnp.arctanh(squashed)  # <- here

    return call(inverse, jnp.array([0.5, 50.0]))


@program(kind="inf", direction="forward", module=None)
def uniform_noise_through_log():
    """Gumbel noise from integers: PRNG key and integer counts among the arguments."""

    def gumbel(key, counts):
        u = jax.random.randint(key, (64,), 0, 3) * counts
        return -jnp.log(u)  # <- here

    return call(jax.jit(gumbel), jax.random.key(0), jnp.ones(64, jnp.int32))
