"""NaNs and Infs that are meant, or masked: every output is finite."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from ._registry import call, quiet


@quiet
def causal_attention():
    """Future positions get -Inf before the softmax; each row keeps one entry."""

    def attention(scores):
        causal = jnp.tril(jnp.ones(scores.shape, bool))
        return jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))

    return call(jax.jit(attention), jnp.ones((4, 4)))


@quiet
def gradient_of_causal_attention():
    """The same with its gradient."""

    def loss(scores):
        causal = jnp.tril(jnp.ones(scores.shape, bool))
        return jnp.sum(jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) ** 2)

    return call(jax.jit(jax.value_and_grad(loss)), jnp.ones((4, 4)))


@quiet
def where_masks_log_of_zero():
    """x log x with the log of zero masked, forward only."""

    def entropy(p):
        return -jnp.sum(jnp.where(p > 0, p * jnp.log(p), 0.0))

    return call(entropy, jnp.array([0.5, 0.5, 0.0]))


@quiet
def double_where_done_right():
    """The argument is made safe before the log, so its gradient is finite too."""

    def entropy(p):
        safe = jnp.where(p > 0, p, 1.0)
        return -jnp.sum(jnp.where(p > 0, safe * jnp.log(safe), 0.0))

    return call(jax.jit(jax.grad(entropy)), jnp.array([0.5, 0.5, 0.0]))


@quiet
def nanmean_of_missing_data():
    """A NaN stands for a missing value, and is left out."""
    return call(jnp.nanmean, jnp.array([1.0, jnp.nan, 3.0]))


@quiet
def nan_replaced():
    """nan_to_num and isnan are made for this."""

    def fn(x):
        root = jnp.sqrt(x)
        return jnp.nan_to_num(root), jnp.isnan(root)

    return call(jax.jit(fn), jnp.array([1.0, -1.0]))


@quiet
def running_maximum_from_minus_inf():
    """A maximum starts at -Inf, the identity of max."""

    def fn(x):
        return lax.fori_loop(0, 4, lambda i, m: jnp.maximum(m, x[i]), -jnp.inf)

    return call(jax.jit(fn), jnp.arange(4.0))


@quiet
def best_score_in_a_scan():
    """Viterbi: scores of unreachable states are -Inf until they are reached."""

    def step(best, score):
        return jnp.max(best[:, None] + score, axis=0), None

    def fn(scores):
        start = jnp.array([0.0, -jnp.inf, -jnp.inf])
        return lax.scan(step, start, scores)[0]

    return call(jax.jit(fn), jnp.ones((2, 3, 3)))


@quiet
def minimum_with_bound():
    """+Inf is the identity of min, and the distance of a point to itself."""

    def nearest(points):
        distance = jnp.abs(points[:, None] - points[None, :])
        distance = jnp.where(jnp.eye(len(points), dtype=bool), jnp.inf, distance)
        return jnp.min(distance, axis=1), jnp.argmin(distance, axis=1)

    return call(jax.jit(nearest), jnp.array([1.0, 2.0, 5.0]))


@quiet
def clipped_log():
    """Cross-entropy whose logs are clipped at -100: -Inf becomes -100."""

    def loss(p, y):
        log_p = jnp.maximum(jnp.log(p), -100.0)
        log_q = jnp.maximum(jnp.log1p(-p), -100.0)
        return -jnp.mean(y * log_p + (1 - y) * log_q)

    return call(jax.jit(loss), jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0]))


@quiet
def infinity_that_vanishes():
    """exp(-Inf) and 1 / Inf are zero."""

    def fn(x):
        huge = jnp.exp(x)
        return 1 / huge, jnp.exp(-huge), jnp.tanh(huge)

    return call(fn, jnp.array([1.0, 1000.0]))


@quiet
def branch_that_is_not_taken():
    """Only the other branch of the cond divides by zero."""

    def fn(flag, x):
        return lax.cond(flag, lambda x: x / 0.0, lambda x: 2 * x, x)

    return call(jax.jit(fn), jnp.array(False), jnp.array([0.0, 1.0]))


@quiet
def vmapped_branch_that_is_not_taken():
    """Under vmap both branches run; the failing one is not selected."""

    def one(x):
        return lax.cond(x > 0, lambda x: jnp.log(x), lambda x: 0 * x, x)

    return call(jax.jit(jax.vmap(one)), jnp.array([1.0, -1.0]))


@quiet
def gradient_of_a_vmapped_cond():
    """The gradient of the branch that is not selected is stopped by JAX itself."""

    def one(x):
        return lax.cond(x > 0, lambda x: jnp.sqrt(x), lambda x: 0 * x, x)

    return call(jax.grad(lambda x: jnp.sum(jax.vmap(one)(x))), jnp.array([1.0, 0.0]))


@quiet
def infinity_times_a_boolean_mask():
    """XLA compiles a product with a boolean into a selection: 0 · Inf never happens."""

    def total(scores, mask):
        masked = jnp.where(mask, scores, -jnp.inf)
        return jnp.sum(mask * masked)

    return call(jax.jit(total), jnp.ones(3), jnp.array([True, True, False]))


@quiet
def finished_rows_of_a_vmapped_while():
    """Rows that have finished go on dividing by zero, and are masked."""

    def body(state):
        n, total = state
        return n - 1, total + 1 / n

    def one(n):
        return lax.while_loop(lambda s: s[0] > 0, body, (n, 0.0))[1]

    return call(jax.jit(jax.vmap(one)), jnp.array([0.0, 1.0, 3.0]))


@quiet
def logsumexp_with_masked_entries():
    """Value and gradient of logsumexp with some entries at -Inf."""

    def fn(x):
        return jax.nn.logsumexp(jnp.where(x > 0, x, -jnp.inf))

    return call(jax.value_and_grad(fn), jnp.array([1.0, 2.0, -1.0]))


@quiet
def sampling_with_masked_logits():
    """Categorical samples from logits with -Inf; keys and integers all over."""

    def sample(key, logits):
        masked = jnp.where(jnp.arange(4) < 2, logits, -jnp.inf)
        return jax.random.categorical(key, masked, shape=(8,)), key

    return call(jax.jit(sample), jax.random.key(0), jnp.zeros(4))


@quiet
def top_k_of_padded_scores():
    """Padding of -Inf is sorted to the end and cut off."""

    def fn(scores):
        padded = jnp.concatenate([scores, jnp.full(3, -jnp.inf)])
        return lax.top_k(padded, 2), jnp.sort(padded)[3:]

    return call(jax.jit(fn), jnp.array([3.0, 1.0, 2.0]))


@quiet
def unused_nan_argument():
    """An argument is a NaN and no output depends on it."""

    def fn(x, previous):
        return jnp.where(jnp.isfinite(previous), previous, x)

    return call(jax.jit(fn), jnp.ones(3), jnp.array([jnp.nan, 1.0, jnp.inf]))


@quiet
def softplus_and_friends_far_out():
    """relu, softplus, logaddexp and var, with gradients, at extreme arguments."""

    def fn(x):
        y = jax.nn.softplus(x) + jax.nn.relu(x) + jnp.logaddexp(x, -x)
        return jnp.var(y), jnp.sum(jax.nn.log_sigmoid(x))

    return call(jax.jit(jax.jacrev(fn)), jnp.array([-200.0, 0.0, 200.0]))


@quiet
def skipped_update():
    """optax.apply_if_finite meets a gradient that is not finite, and skips it."""

    tx = optax.apply_if_finite(optax.adam(1e-3), max_consecutive_errors=5)

    def step(w, state):
        grads = jax.grad(lambda w: jnp.sum(jnp.sqrt(w)))(w)
        updates, state = tx.update(grads, state, w)
        return optax.apply_updates(w, updates), state

    return call(jax.jit(step), jnp.array([1.0, 0.0]), tx.init(jnp.ones(2)))


@quiet
def healthy_train_step():
    """An NNX step with dropout, -Inf attention masks and Adam."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            causal = jnp.tril(jnp.ones((3, 3), bool))
            return jax.nn.softmax(jnp.where(causal, self.linear(x), -jnp.inf))

    def step(model, optimizer, x):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(m.dropout(x)) ** 2))(
            model
        )
        optimizer.update(model, grads)
        return loss

    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    return call(nnx.jit(step), model, optimizer, jnp.ones((3, 3)))


@quiet
def masked_custom_vjp():
    """A backward rule of the user's that masks its own division by zero."""

    @jax.custom_vjp
    def length(x):
        return jnp.sqrt(jnp.sum(x**2))

    def backward(residuals, g):
        x, y = residuals
        return (jnp.where(y > 0, g / y, 0.0) * x,)

    length.defvjp(lambda x: (length(x), (x, length(x))), backward)
    return call(jax.jit(jax.grad(length)), jnp.zeros(3))


@quiet
def float16_overflow_that_is_clipped():
    """A cast to float16 overflows, and is clipped at once."""

    def fn(x):
        half = (1000 * x).astype(jnp.float16)
        return jnp.clip(half, -60000, 60000)

    return call(jax.jit(fn), jnp.array([1.0, 100.0]))


@quiet
def outputs_that_are_not_arrays():
    """A boolean, an integer, a key and None: nothing here can be a NaN."""

    def fn(key, x):
        return jnp.any(x > 0), jnp.sum(x > 0), jax.random.split(key), None

    return call(fn, jax.random.key(1), jnp.array([1.0, jnp.inf]))
