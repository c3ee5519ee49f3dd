"""Backward failures: the value is finite, its derivative is not."""

import jax
import jax.numpy as jnp

from ._registry import call, program


@program(kind="inf", direction="backward", primitive="div", module=None)
def sqrt_at_zero():
    """The slope of a square root is infinite at zero."""

    def loss(x):
        shifted = 3 * x
        return jnp.sum(jnp.sqrt(shifted))  # <- here

    return call(jax.grad(loss), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="backward", module=None)
def norm_at_zero():
    """The gradient of a distance between two equal points."""

    def distance(x, y):
        difference = x - y
        return jnp.linalg.norm(difference)  # <- here

    return call(jax.value_and_grad(distance), jnp.ones(3), jnp.ones(3))


@program(kind="inf", direction="backward", primitive="div", module=None)
def log_of_underflowed_square():
    """log(std²) where std² underflows to zero: only the gradient is asked for."""

    def kl(std):
        scaled = 1e-10 * std
        return -jnp.sum(jnp.log(scaled**2))  # <- here

    return call(jax.jit(jax.grad(kl)), jnp.array([1.0, 1e-20]))


@program(kind="nan", direction="backward", primitive="div", module=None)
def double_where_log():
    """jnp.where hides log(0) = -Inf, but its gradient is 0 / 0."""

    def entropy(p):
        terms = jnp.where(p > 0, jnp.log(p), 0.0)  # <- here
        return jnp.sum(terms)

    return call(jax.grad(entropy), jnp.array([0.5, 0.0]))


@program(kind="inf", direction="backward", module=None)
def double_where_sqrt():
    """jnp.where selects 0, but 0 · Inf from the other branch is a NaN."""

    def loss(x):
        root = jnp.sqrt(x)  # <- here
        return jnp.sum(jnp.where(x > 0, root, 0.0))

    return call(jax.jit(jax.value_and_grad(loss)), jnp.array([4.0, 0.0]))


@program(kind="inf", direction="backward", module=None)
def arccos_of_one():
    """The angle between a vector and itself."""

    def angle(u, v):
        cosine = jnp.sum(u * v)
        return jnp.arccos(cosine)  # <- here

    return call(jax.grad(angle), jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="backward", module=None)
def fractional_power_at_zero():
    """d x**y / dx = y x**(y - 1) is infinite at x = 0 for y < 1."""

    def loss(x, y):
        powers = x**y  # <- here
        return jnp.sum(powers)

    return call(jax.grad(loss), jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5]))


@program(kind="inf", direction="backward", module=None)
def logsumexp_of_nothing():
    """The gradient of logsumexp where every entry is -Inf."""

    def loss(scores, valid):
        masked = scores + jnp.where(valid, 0.0, -jnp.inf)
        return jax.nn.logsumexp(masked)  # <- here

    return call(jax.grad(loss), jnp.ones(3), jnp.zeros(3, bool))


@program(kind="inf", direction="backward", module=None)
def saturated_sigmoid_gradient():
    """The gradient of log(1 - sigmoid(x)) once the sigmoid has saturated."""

    def loss(logits):
        p = jax.nn.sigmoid(logits)
        return -jnp.mean(jnp.log(1 - p))  # <- here

    return call(jax.jit(jax.grad(loss)), jnp.array([0.0, 100.0]))


@program(kind="inf", direction="backward", module=None)
def second_derivative_of_power():
    """x**1.5 has a first derivative at zero, but no second one."""

    def potential(x, exponent):
        return x**exponent  # <- here

    return call(jax.grad(jax.grad(potential)), jnp.array(0.0), jnp.array(1.5))


@program(kind="inf", direction="backward", module=None)
def jacobian_of_norms():
    """jacrev of row norms with one row of zeros."""

    def norms(x):
        return jnp.sqrt(jnp.sum(x**2, axis=1))  # <- here

    return call(jax.jacrev(norms), jnp.array([[3.0, 4.0], [0.0, 0.0]]))


@program(kind="nan", direction="forward", primitive="sqrt", module=None)
def masked_sqrt_of_negative():
    """The masked sqrt(-1) itself, not its slope, is what spoils the gradient."""

    def loss(x):
        root = jnp.sqrt(x)  # <- here
        return jnp.sum(jnp.where(x > 0, root, 0.0))

    return call(jax.grad(loss), jnp.array([4.0, -1.0]))


@program(kind="inf", direction="forward", primitive="log", module=None)
def log_of_zero_under_value_and_grad():
    """The loss is infinite already; its gradient at the same line is, too."""

    def loss(p):
        return -jnp.sum(jnp.log(p))  # <- here

    return call(jax.value_and_grad(loss), jnp.array([0.5, 0.0]))


@program(kind="nan", direction="forward", primitive="div", module=None)
def forward_nan_under_grad():
    """A NaN of the forward pass that reaches the gradient, and nothing else."""

    def loss(w, x):
        normalised = x / jnp.sum(x)  # <- here
        return jnp.sum(w * normalised)

    return call(jax.jit(jax.grad(loss)), jnp.ones(3), jnp.zeros(3))


@program(kind="inf", direction="backward", primitive="div")
def custom_jvp_rule_divides_by_zero():
    """The user's own derivative rule divides by zero."""

    @jax.custom_jvp
    def root(x):
        return jnp.sqrt(x)

    @root.defjvp
    def _root_jvp(primals, tangents):
        y = root(*primals)
        return y, tangents[0] * (0.5 / y)  # <- here

    return call(jax.grad(lambda x: jnp.sum(root(2 * x))), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="forward", primitive="log")
def custom_jvp_value():
    """The function itself fails, called without any derivative."""

    @jax.custom_jvp
    def safe_log(x):
        return jnp.log(x)  # <- here

    safe_log.defjvps(lambda t, _, x: t / (x + 1))
    return call(jax.jit(lambda x: safe_log(x) + 1), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="backward", primitive="div")
def custom_vjp_rule_divides_by_zero():
    """The user's own backward rule divides by zero."""

    @jax.custom_vjp
    def length(x):
        return jnp.sqrt(jnp.sum(x**2))

    def backward(residuals, g):
        x, y = residuals
        slope = g / y  # <- here
        return (slope * x,)

    length.defvjp(lambda x: (length(x), (x, length(x))), backward)
    return call(jax.value_and_grad(lambda x: length(2 * x)), jnp.zeros(3))


@program(kind="inf", direction="forward", primitive="exp")
def custom_vjp_forward_rule():
    """The forward rule of a custom_vjp overflows."""

    @jax.custom_vjp
    def grow(x):
        return x

    def forward(x):
        return jnp.exp(x), x  # <- here

    grow.defvjp(forward, lambda x, g: (g,))
    return call(jax.jit(jax.value_and_grad(lambda x: 2 * grow(x))), jnp.array(100.0))
