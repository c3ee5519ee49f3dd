"""Poles, true overflow, and underflow: the range of a float32."""

import jax
import jax.numpy as jnp
from jax.scipy import special, stats

from .._registry import call, program


@program(
    kind="inf",
    direction="forward",
    primitive="lgamma",
    cause=("pole|zero",),
    never=("overflow", "large"),
)
def log_gamma_of_an_empty_count():
    """A Pólya urn that holds none of a colour."""

    def log_beta(counts):
        terms = special.gammaln(counts)  # <- here
        return terms.sum() - special.gammaln(counts.sum())

    def repaired(counts):
        return log_beta(counts + 0.5)

    return call(jax.jit(log_beta), jnp.array([2.0, 0.0, 1.0])).repaired(repaired)


@program(
    kind="nan|inf",
    direction="forward",
    primitive="digamma",
    cause=("pole|zero",),
    never=("overflow",),
)
def digamma_of_a_dead_concentration():
    """The expected log of a Dirichlet with a concentration of zero."""

    def expected_log(features):
        concentration = jax.nn.relu(features)
        return special.digamma(concentration) - special.digamma(  # <- here
            concentration.sum()
        )

    def repaired(features):
        concentration = jax.nn.softplus(features) + 1e-3
        return special.digamma(concentration) - special.digamma(concentration.sum())

    return call(expected_log, jnp.array([1.0, -1.0, 2.0])).repaired(repaired)


@program(
    kind="nan|inf",
    direction="forward",
    cause=("pole|zero",),
    never=("overflow",),
)
def beta_function_of_zero():
    """betaln(0, b) is a pole of the beta function."""

    def evidence(successes, failures):
        posterior = special.betaln(successes, failures)  # <- here
        return posterior - special.betaln(1.0, 1.0)

    def repaired(successes, failures):
        return special.betaln(successes + 1, failures + 1)

    args = jnp.array([3.0, 0.0]), jnp.array([2.0, 5.0])
    return call(jax.jit(evidence), *args).repaired(repaired)


@program(
    kind="inf", direction="forward", cause=("overflow",), never=("pole", "divisor")
)
def factorial_of_forty():
    """40! has 48 digits, float32 has room for 38."""

    def orderings(x, n):
        count = special.factorial(n)  # <- here
        return x * count

    def repaired(x, n):
        return jnp.log(x) + special.gammaln(n + 1)

    args = jnp.array(2.0), jnp.array([10.0, 40.0])
    return call(orderings, *args).repaired(repaired)


@program(kind="inf", direction="forward", cause=("overflow",), never=("pole",))
def binomial_coefficient_by_gammas():
    """n! / (k! (n - k)!) of n = 50: Inf / Inf."""

    def choose(n, k):
        numerator = special.gamma(n + 1)  # <- here
        return numerator / (special.gamma(k + 1) * special.gamma(n - k + 1))

    def repaired(n, k):
        return jnp.exp(
            special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
        )

    return call(jax.jit(choose), jnp.array(50.0), jnp.array(3.0)).repaired(repaired)


@program(kind="inf", direction="forward", primitive="pow", cause=("overflow",))
def compound_interest_of_a_daily_rate():
    """A rate in per cent taken as a fraction, for a year of days."""

    def balance(principal, rate, days):
        growth = (1 + rate) ** days  # <- here
        return principal * growth

    args = jnp.array(100.0), jnp.array([0.01, 3.0]), 365.0
    return call(balance, *args).repaired(balance, args[0], args[1] / 100, 365.0)


@program(kind="inf", direction="forward", primitive="cumsum", cause=("overflow",))
def running_total_overflows():
    """Four numbers that fit, and a running total that does not."""

    def normalised(x):
        total = jnp.cumsum(x)  # <- here
        return total / total[-1]

    def repaired(x):
        total = jnp.cumsum(1e-30 * x)
        return total / total[-1]

    return call(jax.jit(normalised), jnp.full(4, 1.5e38)).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    cause=("overflow",),
    never=("zero",),
)
def squared_error_in_bytes():
    """A disc size in bytes, squared twice."""

    def kurtosis(x):
        centred = x - x.mean()
        fourth = jnp.mean(centred**4)  # <- here
        return fourth / jnp.mean(centred**2) ** 2

    def repaired(x):
        centred = (x - x.mean()) / x.std()
        return jnp.mean(centred**4)

    return call(jax.jit(kurtosis), jnp.array([1e10, 5e10, 9e10])).repaired(repaired)


@program(kind="inf", direction="forward", primitive="cosh", cause=("overflow",))
def log_cosh_loss():
    """cosh(100) exceeds float32 although its logarithm is about 99."""

    def loss(prediction, target):
        error = prediction - target
        return jnp.mean(jnp.log(jnp.cosh(error)))  # <- here

    def repaired(prediction, target):
        error = prediction - target
        return jnp.mean(jnp.logaddexp(error, -error) - jnp.log(2.0))

    args = jnp.array([0.5, 100.0]), jnp.zeros(2)
    return call(jax.value_and_grad(loss), *args).repaired(jax.value_and_grad(repaired))


@program(
    kind="inf|nan",
    direction="forward",
    primitive="div",
    cause=("zero", "temperature|divisor|denominator"),
    never=("overflow",),
)
def boltzmann_weights_at_zero_kelvin():
    """-E / T with T = 0."""

    def occupation(energies, temperature):
        weights = jnp.exp(-energies / temperature)  # <- here
        return weights / weights.sum()

    def repaired(energies, temperature):
        return jax.nn.softmax(-energies / jnp.maximum(temperature, 1e-3))

    args = jnp.array([1.0, 2.0, 3.0]), jnp.array(0.0)
    return call(jax.jit(occupation), *args).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    cause=("zero", "underflow|exp"),
)
def importance_weights_underflow():
    """Every weight is exp(-200) or less: their sum is zero."""

    def posterior_mean(log_weights, particles):
        weights = jnp.exp(log_weights)
        weights = weights / weights.sum()  # <- here
        return weights @ particles

    def repaired(log_weights, particles):
        return jax.nn.softmax(log_weights) @ particles

    args = jnp.array([-200.0, -210.0, -205.0]), jnp.arange(3.0)
    return call(posterior_mean, *args).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    cause=("zero", "underflow"),
)
def sharpening_with_a_low_temperature():
    """p ** (1 / T) is zero for every class at T = 0.01."""

    def sharpen(p, temperature):
        sharp = p ** (1 / temperature)
        return sharp / sharp.sum(-1, keepdims=True)  # <- here

    def repaired(p, temperature):
        return jax.nn.softmax(jnp.log(p) / temperature)

    p = jnp.array([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3]])
    return call(jax.jit(sharpen), p, 0.01).repaired(repaired)


@program(kind="inf", direction="forward", primitive="log", cause=("underflow|zero",))
def likelihood_as_a_product():
    """Two hundred probabilities of a half multiply to zero."""

    def loss(p, outcomes):
        likelihood = jnp.prod(jnp.where(outcomes, p, 1 - p))
        return -jnp.log(likelihood)  # <- here

    def repaired(p, outcomes):
        return -jnp.sum(jnp.log(jnp.where(outcomes, p, 1 - p)))

    return call(jax.jit(loss), jnp.array(0.5), jnp.arange(200) % 2 == 0).repaired(
        repaired
    )


@program(kind="inf", direction="forward", primitive="exp", cause=("overflow",))
def sigmoid_by_hand():
    """The value is fine, 1 / Inf, and the gradient is 0 · Inf."""

    def loss(x):
        grown = jnp.exp(-x)  # <- here
        return jnp.sum(1 / (1 + grown))

    def repaired(x):
        return jnp.sum(jax.nn.sigmoid(x))

    return call(jax.grad(loss), jnp.array([1.0, -100.0])).repaired(jax.grad(repaired))


@program(kind="inf", direction="forward", primitive="reduce_prod", cause=("overflow",))
def geometric_mean_by_a_product():
    """The product overflows before the root is taken."""

    def geometric_mean(x):
        product = jnp.prod(x)  # <- here
        return product ** (1 / x.size)

    def repaired(x):
        return jnp.exp(jnp.mean(jnp.log(x)))

    return call(geometric_mean, jnp.full(5, 1e9)).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    cause=("one|zero|boundary|end of",),
    never=("large",),
)
def gaussian_quantile_of_one():
    """A uniform draw that is exactly one."""

    def transform(u):
        return stats.norm.ppf(u) * 2 + 1  # <- here

    def repaired(u):
        return stats.norm.ppf(jnp.clip(u, 1e-6, 1 - 1e-6)) * 2 + 1

    return call(jax.jit(transform), jnp.array([0.2, 1.0])).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="atanh",
    cause=("one|1",),
    never=("overflow",),
)
def log_probability_of_a_squashed_action():
    """tanh(12) is one in float32, and arctanh of one is infinite."""

    def log_prob(action, mean, std):
        raw = jnp.arctanh(action)  # <- here
        return stats.norm.logpdf(raw, mean, std).sum()

    def repaired(action, mean, std):
        return log_prob(jnp.clip(action, -1 + 1e-6, 1 - 1e-6), mean, std)

    action = jnp.tanh(jnp.array([0.3, 12.0]))
    return call(jax.value_and_grad(log_prob), action, 0.0, 1.0).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="inf", direction="forward", primitive="exp", cause=("overflow",))
def importance_ratio_of_an_old_policy():
    """exp of a log-ratio of 120; the minimum with the clipped one comes later."""

    def ppo_loss(new, old, advantage):
        ratio = jnp.exp(new - old)  # <- here
        clipped = jnp.clip(ratio, 0.8, 1.2)
        return -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))

    def repaired(new, old, advantage):
        ratio = jnp.exp(jnp.clip(new - old, -20, 20))
        clipped = jnp.clip(ratio, 0.8, 1.2)
        return -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))

    args = jnp.array([-1.0, -2.0]), jnp.array([-1.0, -122.0]), jnp.array([1.0, -1.0])
    return call(jax.jit(jax.value_and_grad(ppo_loss)), *args).repaired(
        jax.value_and_grad(repaired)
    )
