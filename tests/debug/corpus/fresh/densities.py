"""Log densities, divergences and entropies at the edge of their support."""

import jax
import jax.numpy as jnp
from jax.scipy import special, stats

from .._registry import call, program


@program(kind="inf", direction="forward", primitive="log", cause=("underflow",))
def mixture_density_far_from_every_centre():
    """All components underflow; the gradient reaches more outputs than the loss."""

    def loss(means, log_weights, x):
        squared = (x[:, None] - means) ** 2
        density = jnp.sum(jnp.exp(log_weights - 0.5 * squared), axis=1)
        return -jnp.mean(jnp.log(density))  # <- here

    def repaired(means, log_weights, x):
        squared = (x[:, None] - means) ** 2
        return -jnp.mean(jax.nn.logsumexp(log_weights - 0.5 * squared, axis=1))

    args = jnp.array([-1.0, 1.0]), jnp.log(jnp.array([0.4, 0.6])), jnp.array([0.0, 50])
    return call(jax.value_and_grad(loss, argnums=(0, 1)), *args).repaired(
        jax.value_and_grad(repaired, argnums=(0, 1))
    )


@program(kind="inf", direction="forward", primitive="exp", cause=("overflow",))
def log_softmax_by_hand_overflows():
    """The textbook softmax, then its logarithm, of large logits."""

    def cross_entropy(w, x, label):
        logits = x @ w
        scores = jnp.exp(logits)  # <- here
        return -jnp.log(scores / scores.sum())[label]  # <- then

    def repaired(w, x, label):
        return -jax.nn.log_softmax(x @ w)[label]

    args = jnp.full((2, 3), 60.0), jnp.ones(2), 1
    return call(jax.jit(jax.value_and_grad(cross_entropy)), *args).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="inf", direction="forward", primitive="log", cause=("underflow|zero",))
def log_softmax_by_hand_underflows():
    """The right class has a probability of 1e-87, which is zero in float32."""

    def cross_entropy(logits, label):
        probabilities = jax.nn.softmax(logits)
        return -jnp.log(probabilities[label])  # <- here

    def repaired(logits, label):
        return -jax.nn.log_softmax(logits)[label]

    args = jnp.array([200.0, 0.0, 1.0]), 1
    return call(jax.value_and_grad(cross_entropy), *args).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def exponential_as_a_gamma_at_zero():
    """A shape of one: (1 - 1) · log 0."""

    def log_density(x, shape):
        return (shape - 1) * jnp.log(x) - x - special.gammaln(shape)  # <- here

    def repaired(x, shape):
        return special.xlogy(shape - 1, x) - x - special.gammaln(shape)

    return call(jax.jit(log_density), jnp.array([1.0, 0.0]), 1.0).repaired(repaired)


@program(kind="nan|inf", direction="backward", cause=("zero",))
def gradient_of_beta_density_at_its_edge():
    """A uniform as Beta(1, 1), and an observation of exactly zero."""

    def loss(x):
        return -jnp.sum(stats.beta.logpdf(x, 1.0, 1.0))  # <- here

    def repaired(x):
        return -jnp.sum(stats.beta.logpdf(jnp.clip(x, 1e-6, 1 - 1e-6), 1.0, 1.0))

    return call(jax.grad(loss), jnp.array([0.3, 0.0])).repaired(jax.grad(repaired))


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def sparse_dirichlet_of_a_zero():
    """A concentration below one has an infinite density at a face of the simplex."""

    def log_density(concentration, p):
        norm = (
            special.gammaln(concentration.sum()) - special.gammaln(concentration).sum()
        )
        return norm + jnp.sum((concentration - 1) * jnp.log(p))  # <- here

    def repaired(concentration, p):
        p = jnp.maximum(p, 1e-6)
        return log_density(concentration, p / p.sum())

    args = jnp.full(3, 0.5), jnp.array([0.7, 0.3, 0.0])
    return call(jax.value_and_grad(log_density), *args).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="nan", direction="forward", primitive="sub", never=("overflow",))
def divergence_of_masked_categoricals():
    """Both policies forbid an action: log p - log q is -Inf + Inf there."""

    def kl(p_logits, q_logits, allowed):
        p = jax.nn.log_softmax(jnp.where(allowed, p_logits, -jnp.inf))
        q = jax.nn.log_softmax(jnp.where(allowed, q_logits, -jnp.inf))
        return jnp.sum(jnp.exp(p) * (p - q))  # <- here

    def repaired(p_logits, q_logits, allowed):
        p = jax.nn.log_softmax(jnp.where(allowed, p_logits, -1e9))
        q = jax.nn.log_softmax(jnp.where(allowed, q_logits, -1e9))
        return jnp.sum(jnp.exp(p) * (p - q))

    args = jnp.arange(3.0), jnp.ones(3), jnp.array([True, True, False])
    return call(jax.jit(kl), *args).repaired(repaired)


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def divergence_with_a_zero_probability():
    """0 · log 0 counts as zero on paper, and is a NaN here."""

    def kl(p, q):
        ratio = p / q
        return jnp.sum(p * jnp.log(ratio))  # <- here

    def repaired(p, q):
        return jnp.sum(special.xlogy(p, jnp.where(p > 0, p / q, 1.0)))

    args = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.2, 0.3, 0.5])
    return call(kl, *args).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="log",
    cause=("zero|underflow",),
    never=("sigmoid",),
)
def probit_regression():
    """Φ(-20) is zero in float32."""

    def loss(w, x, y):
        sign = 2 * y - 1
        likelihood = stats.norm.cdf(sign * (x @ w))
        return -jnp.mean(jnp.log(likelihood))  # <- here

    def repaired(w, x, y):
        return -jnp.mean(stats.norm.logcdf((2 * y - 1) * (x @ w)))

    args = jnp.array([20.0]), jnp.array([[1.0], [-1.0]]), jnp.array([1.0, 1.0])
    return call(jax.jit(jax.value_and_grad(loss)), *args).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def poisson_with_a_rate_of_zero():
    """A dead unit predicts a rate of zero, and zero events come."""

    def loss(w, x, counts):
        rate = jax.nn.relu(x @ w)
        return jnp.mean(rate - counts * jnp.log(rate))  # <- here

    def repaired(w, x, counts):
        rate = jax.nn.softplus(x @ w)
        return jnp.mean(rate - counts * jnp.log(rate))

    args = jnp.array([1.0, -2.0]), jnp.ones((2, 2)), jnp.array([0.0, 3.0])
    return call(jax.value_and_grad(loss), *args).repaired(jax.value_and_grad(repaired))


@program(kind="inf", direction="forward", primitive="log1p", cause=("-1|one|zero",))
def binomial_with_certain_success():
    """p = 1 and no failures: 0 · log(1 - 1)."""

    def log_likelihood(p, successes, trials):
        failures = trials - successes
        return successes * jnp.log(p) + failures * jnp.log1p(-p)  # <- here

    def repaired(p, successes, trials):
        failures = trials - successes
        return special.xlogy(successes, p) + special.xlog1py(failures, -p)

    args = jnp.array([0.5, 1.0]), jnp.array([3, 7]), jnp.array([7, 7])
    return call(jax.jit(log_likelihood), *args).repaired(repaired)


@program(kind="inf", direction="forward", cause=("overflow",))
def normaliser_of_a_sharp_von_mises():
    """The Bessel function of a concentration of 200 exceeds float32."""

    def log_density(angle, mean, concentration):
        normaliser = 2 * jnp.pi * special.i0(concentration)  # <- here
        return concentration * jnp.cos(angle - mean) - jnp.log(normaliser)

    def repaired(angle, mean, k):
        log_normaliser = jnp.log(2 * jnp.pi * special.i0e(k)) + k
        return k * jnp.cos(angle - mean) - log_normaliser

    args = jnp.array([0.1, 0.2]), jnp.array(0.0), jnp.array(200.0)
    return call(log_density, *args).repaired(repaired)


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def truncated_normal_in_the_tail():
    """Φ(11) - Φ(10) = 1 - 1."""

    def log_mass(low, high):
        mass = stats.norm.cdf(high) - stats.norm.cdf(low)
        return jnp.log(mass)  # <- here

    def repaired(low, high):
        return jnp.log(stats.norm.sf(low) - stats.norm.sf(high))

    return call(jax.jit(log_mass), jnp.array(10.0), jnp.array(11.0)).repaired(repaired)


@program(kind="inf", direction="forward", cause=("overflow",), never=("zero",))
def heavy_tails_of_a_huge_residual():
    """Student's t of a residual of 1e25: its square does not fit."""

    def loss(prediction, target, df):
        squared = (prediction - target) ** 2  # <- here
        return 0.5 * (df + 1) * jnp.mean(jnp.log1p(squared / df))

    def repaired(prediction, target, df):
        log_squared = 2 * jnp.log(jnp.abs(prediction - target))
        terms = jnp.logaddexp(0.0, log_squared - jnp.log(df))
        return 0.5 * (df + 1) * jnp.mean(terms)

    args = jnp.array([1.0, 1e25]), jnp.array([0.0, 2.0]), 4.0
    return call(jax.value_and_grad(loss), *args).repaired(jax.value_and_grad(repaired))


@program(kind="inf", direction="forward", primitive="div", cause=("zero",))
def log_odds_of_a_saturated_probability():
    """sigmoid(20) is one in float32, and one over zero is infinite."""

    def calibrated(logits, temperature):
        p = jax.nn.sigmoid(logits)
        odds = p / (1 - p)  # <- here
        return jnp.log(odds) / temperature

    def repaired(logits, temperature):
        return logits / temperature

    return call(jax.jit(calibrated), jnp.array([1.0, 20.0]), 2.0).repaired(repaired)


@program(
    kind="inf", direction="forward|backward", primitive="log|div", cause=("zero|one",)
)
def censored_exponential():
    """Survival 1 - F of a late event."""

    def loss(rate, times):
        survival = 1 - (1 - jnp.exp(-rate * times))
        return -jnp.sum(jnp.log(survival))  # <- here

    def repaired(rate, times):
        return jnp.sum(rate * times)

    return call(jax.grad(loss), jnp.array(2.0), jnp.array([0.5, 30.0])).repaired(
        jax.grad(repaired)
    )
