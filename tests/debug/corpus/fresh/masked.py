"""A where, a clip or a minimum hides a bad value, and its gradient comes through."""

import jax
import jax.numpy as jnp
from jax import lax

from .._registry import call, program


@program(kind="nan|inf", direction="forward|backward", cause=("where", "zero"))
def entropy_by_where():
    """p log p with p = 0 set to zero afterwards."""

    def entropy(p):
        terms = p * jnp.log(p)  # <- here
        return -jnp.sum(jnp.where(p > 0, terms, 0.0))

    def repaired(p):
        safe = jnp.where(p > 0, p, 1.0)
        return -jnp.sum(jnp.where(p > 0, p * jnp.log(safe), 0.0))

    return call(jax.value_and_grad(entropy), jnp.array([0.5, 0.5, 0.0])).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="nan|inf", direction="forward|backward", cause=("where", "zero"))
def unit_vectors_by_where():
    """x / |x| where |x| is positive, else zero."""

    def loss(x):
        squared = jnp.sum(x**2, axis=-1, keepdims=True)  # <- zero
        unit = x / squared  # <- here
        return jnp.sum(jnp.where(squared > 0, unit, 0.0) * jnp.arange(3.0))

    def repaired(x):
        squared = jnp.sum(x**2, axis=-1, keepdims=True)
        safe = jnp.where(squared > 0, squared, 1.0)
        return jnp.sum(jnp.where(squared > 0, x / safe, 0.0) * jnp.arange(3.0))

    x = jnp.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    return call(jax.jit(jax.grad(loss)), x).repaired(jax.grad(repaired))


@program(kind="nan|inf", direction="forward|backward", cause=("where", "zero"))
def sinc_by_where():
    """sin x / x, and one at zero."""

    def window(x):
        ratio = jnp.sin(x) / x  # <- here
        return jnp.where(x == 0, 1.0, ratio)

    def repaired(x):
        safe = jnp.where(x == 0, 1.0, x)
        return jnp.where(x == 0, 1.0, jnp.sin(safe) / safe)

    def slope(fn):
        return jax.vmap(jax.grad(fn))

    return call(slope(window), jnp.array([-1.0, 0.0, 1.0])).repaired(slope(repaired))


@program(kind="nan|inf", direction="forward|backward", cause=("where",))
def softplus_inverse_by_where():
    """expm1 overflows where the other branch is taken."""

    def inverse(y):
        small = jnp.log(jnp.expm1(y))  # <- here
        return jnp.sum(jnp.where(y > 20, y, small))

    def repaired(y):
        small = jnp.log(jnp.expm1(jnp.where(y > 20, 1.0, y)))
        return jnp.sum(jnp.where(y > 20, y, small))

    return call(jax.grad(inverse), jnp.array([1.0, 100.0])).repaired(jax.grad(repaired))


@program(kind="nan", direction="forward|backward", cause=("where", "negative"))
def cutoff_function_by_where():
    """The root of a negative number beyond the cutoff radius."""

    def envelope(r, cutoff):
        inside = (1 - r / cutoff) ** 0.5  # <- here
        return jnp.sum(jnp.where(r < cutoff, inside, 0.0))

    def repaired(r, cutoff):
        room = 1 - r / cutoff
        inside = jnp.where(room > 0, room, 1.0) ** 0.5
        return jnp.sum(jnp.where(room > 0, inside, 0.0))

    return call(jax.jit(jax.grad(envelope)), jnp.array([0.5, 2.0]), 1.0).repaired(
        jax.grad(repaired)
    )


@program(
    kind="nan|inf",
    direction="forward|backward",
    cause=("where|select|branch", "zero"),
)
def select_of_both_branches():
    """lax.select computes both of its branches, as where does."""

    def score(x):
        nats = jnp.log(x)  # <- here
        return lax.select(x > 0, nats, 0.0 * x).sum()

    def repaired(x):
        return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0).sum()

    return call(jax.grad(score), jnp.array([1.0, 0.0])).repaired(jax.grad(repaired))


@program(
    kind="nan|inf", direction="forward|backward", cause=("where|nan_to_num", "zero")
)
def nan_to_num_afterwards():
    """The value is repaired after the fact, the gradient is not."""

    def loss(p):
        nats = -jnp.log(p)  # <- here
        return jnp.mean(jnp.nan_to_num(nats, posinf=100.0))

    def repaired(p):
        return jnp.mean(-jnp.log(jnp.maximum(p, 1e-6)))

    return call(jax.jit(jax.grad(loss)), jnp.array([0.5, 0.0])).repaired(
        jax.grad(repaired)
    )


@program(kind="inf", direction="forward|backward", cause=("zero",))
def clipped_reciprocal():
    """A clip behind the division bounds the value only."""

    def loss(sigma):
        precision = 1 / sigma**2  # <- here
        return jnp.sum(jnp.clip(precision, 0.0, 1e4))

    def repaired(sigma):
        return jnp.sum(1 / jnp.maximum(sigma**2, 1e-4))

    return call(jax.grad(loss), jnp.array([1.0, 0.0])).repaired(jax.grad(repaired))


@program(kind="inf", direction="forward", primitive="log", cause=("zero",))
def weights_of_zero_for_padding():
    """The padding's probability is zero and so is its weight: 0 · -Inf."""

    def loss(probabilities, weights):
        nats = -jnp.log(probabilities)  # <- here
        return jnp.sum(weights * nats) / jnp.sum(weights)  # <- then

    def repaired(probabilities, weights):
        safe = jnp.where(weights > 0, probabilities, 1.0)
        return jnp.sum(weights * -jnp.log(safe)) / jnp.sum(weights)

    args = jnp.array([0.3, 0.6, 0.0]), jnp.array([1.0, 1.0, 0.0])
    return call(jax.jit(loss), *args).repaired(repaired)


@program(kind="inf", direction="backward", cause=("root|sqrt", "zero"))
def root_of_a_rectified_value():
    """The maximum's slope of zero, times the root's of infinity."""

    def loss(w, x):
        hidden = jnp.maximum(x @ w, 0.0)
        return jnp.sum(jnp.sqrt(hidden))  # <- here

    def repaired(w, x):
        return jnp.sum(jnp.sqrt(jax.nn.relu(x @ w) + 1e-6))

    args = jnp.array([1.0, -2.0]), jnp.ones((2, 2))
    return call(jax.jit(jax.grad(loss)), *args).repaired(jax.grad(repaired))


@program(kind="inf", direction="forward|backward", cause=("where", "overflow"))
def two_sided_formula():
    """log(1 + exp x) and x are both computed, then one is chosen."""

    def loss(x):
        small = jnp.log(1 + jnp.exp(x))  # <- here
        return jnp.sum(jnp.where(x < 30, small, x))

    def repaired(x):
        return jnp.sum(jax.nn.softplus(x))

    return call(jax.grad(loss), jnp.array([0.0, 90.0])).repaired(jax.grad(repaired))


@program(kind="nan|inf", direction="forward|backward", cause=("where", "zero"))
def tsallis_entropy_near_one():
    """The limit q → 1 is handled by a where, and differentiated with respect to q."""

    def entropy(q, p):
        general = (1 - jnp.sum(p**q)) / (q - 1)  # <- here
        shannon = -jnp.sum(p * jnp.log(p))
        return jnp.where(q == 1, shannon, general)

    def repaired(q, p):
        safe = jnp.where(q == 1, 2.0, q)
        general = (1 - jnp.sum(p**safe)) / (safe - 1)
        return jnp.where(q == 1, -jnp.sum(p * jnp.log(p)), general)

    args = jnp.array(1.0), jnp.array([0.5, 0.5])
    return call(jax.grad(entropy), *args).repaired(jax.grad(repaired))
