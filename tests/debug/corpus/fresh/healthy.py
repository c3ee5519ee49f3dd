"""Programs whose outputs are finite: infinities and NaNs that are meant, or handled."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.scipy import special, stats
from jax.scipy.linalg import expm
from jax.scipy.sparse.linalg import cg

from .._registry import call, quiet


@quiet
def linear_solve():
    """A regular system, its gradient too."""

    def loss(a, b):
        return jnp.sum(jnp.linalg.solve(a, b) ** 2)

    return call(jax.jit(jax.grad(loss)), jnp.eye(2) + 0.1, jnp.ones(2))


@quiet
def matrix_exponential_and_inverse():
    """expm branches on the norm, and unused branches may hold anything."""

    def fn(a):
        return expm(a) @ jnp.linalg.inv(a + jnp.eye(2))

    return call(jax.jit(fn), jnp.array([[0.1, 0.2], [0.3, 0.1]]))


@quiet
def conjugate_gradients():
    """A solve that converges before its last iteration."""

    def fn(a, b):
        return cg(lambda v: a @ v, b, maxiter=20)[0]

    return call(jax.jit(fn), 2 * jnp.eye(3), jnp.ones(3))


@quiet
def eigenvalues_of_the_identity():
    """Equal eigenvalues trouble the vectors' gradient, not the values'."""

    def loss(a):
        return jnp.sum(jnp.linalg.eigvalsh(a) ** 2)

    return call(jax.grad(loss), jnp.eye(3))


@quiet
def sliding_window_attention():
    """Every query sees at least itself."""

    def attend(q, k, v, window):
        gap = jnp.arange(4)[:, None] - jnp.arange(4)[None, :]
        bias = jnp.where((gap >= 0) & (gap < window), 0.0, -jnp.inf)
        return jax.nn.softmax(q @ k.T + bias) @ v

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v, 2) ** 2)

    x = jnp.arange(8.0).reshape(4, 2) / 8
    return call(jax.jit(jax.value_and_grad(loss)), x, x, x)


@quiet
def forward_mode_of_a_single_where():
    """In forward mode the tangent of the branch not taken is dropped."""

    def fn(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0)

    x = jnp.array([4.0, 0.0])
    return call(lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),)), x)


@quiet
def loss_that_skips_nans():
    """Missing targets are NaN and are left out of the sum before any gradient."""

    def loss(w, x, y):
        known = ~jnp.isnan(y)
        error = jnp.where(known, x @ w - jnp.where(known, y, 0.0), 0.0)
        return jnp.sum(error**2) / jnp.maximum(known.sum(), 1)

    args = jnp.ones(2), jnp.ones((3, 2)), jnp.array([1.0, jnp.nan, 2.0])
    return call(jax.jit(jax.value_and_grad(loss)), *args)


@quiet
def nan_aware_statistics():
    """nanmean, nanstd, nanmax and nanmedian of data with holes."""

    def summary(x):
        return jnp.nanmean(x), jnp.nanstd(x), jnp.nanmax(x), jnp.nanmedian(x)

    return call(jax.jit(summary), jnp.array([1.0, jnp.nan, 3.0, 4.0]))


@quiet
def running_extremes_of_a_stream():
    """Best and worst start at plus and minus infinity."""

    def fn(xs):
        def step(state, x):
            low, high = state
            return (jnp.minimum(low, x), jnp.maximum(high, x)), None

        return lax.scan(step, (jnp.inf, -jnp.inf), xs)[0]

    return call(jax.jit(fn), jnp.array([3.0, 1.0, 2.0]))


@quiet
def shortest_paths():
    """Absent edges have infinite length; every node is reached."""

    def bellman_ford(length):
        def relax(_, distance):
            return jnp.minimum(distance, jnp.min(distance[:, None] + length, axis=0))

        start = jnp.full(len(length), jnp.inf).at[0].set(0.0)
        return lax.fori_loop(0, len(length), relax, start)

    inf = jnp.inf
    length = jnp.array([[0.0, 1.0, inf], [inf, 0.0, 2.0], [inf, inf, 0.0]])
    return call(jax.jit(bellman_ford), length)


@quiet
def proposals_of_nan_are_rejected():
    """A Metropolis step into forbidden ground is never accepted."""

    def log_density(x):
        return -x + 0.5 * jnp.log(x)

    def chain(x, proposals, uniforms):
        def step(x, xs):
            proposal, u = xs
            accept = jnp.log(u) < log_density(proposal) - log_density(x)
            return jnp.where(accept, proposal, x), x

        return lax.scan(step, x, (proposals, uniforms))

    args = 1.0, jnp.array([0.5, -1.0, 2.0]), jnp.array([0.5, 0.5, 0.5])
    return call(jax.jit(chain), *args)


@quiet
def backtracking_out_of_the_forbidden():
    """A line search that tests for finiteness halves its step until all is well."""

    def loss(x):
        return x - jnp.log(x)

    def search(x, step):
        def bad(t):
            new = loss(x - t)
            return ~jnp.isfinite(new) | (new > loss(x))

        t = lax.while_loop(bad, lambda t: t / 2, step)
        return x - t, loss(x - t)

    return call(jax.jit(search), 2.0, 8.0)


@quiet
def apply_if_finite():
    """optax refuses the update and keeps the parameters."""

    tx = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=5)

    def step(w, state, x):
        grads = jax.grad(lambda w: jnp.sum(jnp.sqrt(w * x)))(w)
        updates, state = tx.update(grads, state, w)
        return optax.apply_updates(w, updates)

    w = jnp.ones(2)
    return call(jax.jit(step), w, tx.init(w), jnp.array([1.0, 0.0]))


@quiet
def noam_schedule_at_step_zero():
    """step ** -0.5 is infinite at zero, and the minimum takes the other one."""

    def schedule(step, warm_up):
        return jnp.minimum(step**-0.5, step * warm_up**-1.5)

    return call(jax.jit(schedule), jnp.array(0.0), 100.0)


@quiet
def clipping_of_zero_gradients_by_optax():
    """optax's own clipping divides where the norm is large only."""

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))

    def step(w, state):
        updates, state = tx.update(jnp.zeros_like(w), state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.ones(3)
    return call(jax.jit(step), w, tx.init(w))


@quiet
def xlogy_at_zero():
    """The library's own double where."""

    def entropy(p):
        return -jnp.sum(special.xlogy(p, p)) + jnp.sum(special.entr(p))

    return call(jax.jit(entropy), jnp.array([0.5, 0.5, 0.0]))


@quiet
def densities_outside_their_support():
    """A log density of -Inf, exponentiated: a density of zero."""

    def likelihood(x):
        uniform = jnp.exp(stats.uniform.logpdf(x))
        gamma = jnp.exp(stats.expon.logpdf(x))
        return uniform + gamma

    return call(jax.jit(likelihood), jnp.array([-1.0, 0.5, 2.0]))


@quiet
def logsumexp_with_an_absent_component():
    """A component of weight zero has a log weight of -Inf, and no gradient."""

    def loss(means, weights, x):
        log_weights = jnp.log(weights)
        return -jax.nn.logsumexp(log_weights - 0.5 * (x - means) ** 2)

    args = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]), 0.3
    return call(jax.jit(jax.value_and_grad(loss)), *args)


@quiet
def safe_values_before_and_after():
    """Safe values go in before, and come out after."""

    def loss(x):
        positive = x > 0
        safe = jnp.where(positive, x, 1.0)
        terms = jnp.where(positive, safe * jnp.log(safe) + jnp.sqrt(safe), 0.0)
        return jnp.sum(terms / jnp.where(positive, safe, 1.0))

    return call(jax.jit(jax.grad(loss)), jnp.array([2.0, 0.0, -1.0]))


@quiet
def linen_masked_self_attention():
    """A Linen attention layer with a causal mask, in float16."""

    layer = nn.MultiHeadDotProductAttention(num_heads=2, dtype=jnp.float16)
    x = jnp.ones((1, 3, 4))
    mask = nn.make_causal_mask(jnp.ones((1, 3)))
    params = layer.init(jax.random.key(0), x, mask=mask)

    def fn(params, x):
        return layer.apply(params, x, mask=mask).sum()

    return call(jax.jit(jax.grad(fn)), params, x)


@quiet
def nnx_attention_with_padding():
    """An NNX attention layer of which one example has no keys at all."""

    layer = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))

    def loss(layer, x, mask):
        return jnp.mean(layer(x, mask=mask) ** 2)

    mask = jnp.array([[[[True, False]]], [[[False, False]]]])
    mask = jnp.broadcast_to(mask, (2, 1, 2, 2))
    return call(nnx.jit(nnx.grad(loss)), layer, jnp.ones((2, 2, 4)), mask)


@quiet
def non_maximum_suppression():
    """Suppressed boxes get a score of -Inf and are sorted to the end."""

    def best(scores, overlap):
        def body(i, state):
            alive, kept = state
            choice = jnp.argmax(alive)
            kept = kept.at[i].set(scores[choice])
            return jnp.where(overlap[choice] > 0.5, -jnp.inf, alive), kept

        return lax.fori_loop(0, 2, body, (scores, jnp.zeros(2)))[1]

    overlap = jnp.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return call(jax.jit(best), jnp.array([0.9, 0.8, 0.7]), overlap)


@quiet
def top_k_sampling():
    """All but the best logits become -Inf before the draw."""

    def sample(key, logits):
        threshold = lax.top_k(logits, 2)[0][-1]
        kept = jnp.where(logits < threshold, -jnp.inf, logits)
        return jax.random.categorical(key, kept), jax.nn.softmax(kept)

    return call(jax.jit(sample), jax.random.key(0), jnp.arange(4.0))


@quiet
def beam_search_with_unused_beams():
    """All beams but the first start at -Inf."""

    def step(scores, log_p):
        extended = (scores[:, None] + log_p).ravel()
        return lax.top_k(extended, 2)

    args = jnp.array([0.0, -jnp.inf]), jnp.log(jnp.array([[0.7, 0.3], [0.5, 0.5]]))
    return call(jax.jit(step), *args)


@quiet
def unreached_branch_of_a_cond():
    """The division by zero is in the branch that is not taken."""

    def fn(x, n):
        return lax.cond(n > 0, lambda: x / n, lambda: jnp.zeros_like(x)).sum()

    return call(jax.jit(jax.grad(fn)), jnp.ones(3), jnp.array(0.0))


@quiet
def probe_for_overflow():
    """The scaled loss overflows; the step notices and keeps the parameters."""

    def step(w, x, scale):
        grads = jax.grad(lambda w: jnp.sum((w * x) ** 2) * scale)(w)
        ok = jnp.all(jnp.isfinite(grads))
        new = jnp.where(ok, w - 0.1 * grads / scale, w)
        return new, jnp.where(ok, scale * 2, scale / 2)

    w = jnp.full(2, 100.0, jnp.float16)
    return call(jax.jit(step), w, w, jnp.float16(1024))


@quiet
def group_means_by_where():
    """An empty group's gradient is a NaN that no example belongs to."""

    def loss(w, x, groups):
        totals = jax.ops.segment_sum(w[groups] * x, groups, 3)
        counts = jax.ops.segment_sum(jnp.ones_like(x), groups, 3)
        return jnp.sum(jnp.where(counts > 0, totals / counts, 0.0) ** 2)

    args = jnp.ones(3), jnp.array([1.0, 2.0, 3.0]), jnp.array([0, 0, 2])
    return call(jax.grad(loss), *args)


@quiet
def root_of_a_relu():
    """relu's own derivative rule selects instead of multiplying."""

    def loss(w, x):
        return jnp.sum(jnp.sqrt(jax.nn.relu(x @ w)))

    return call(jax.jit(jax.grad(loss)), jnp.array([1.0, -2.0]), jnp.ones((2, 2)))


@quiet
def vmapped_gradients_of_a_cond():
    """The dead branch's gradient is infinite, and not selected."""

    def score(x):
        return lax.cond(x > 0, jnp.log, lambda x: 0.0 * x, x)

    return call(jax.vmap(jax.grad(score)), jnp.array([1.0, 0.0]))


@quiet
def normalised_update_of_a_converged_model():
    """optax's division by an update's norm minds a norm of zero."""

    tx = optax.chain(optax.normalize_by_update_norm(), optax.scale(-0.1))

    def step(w, state, x):
        grads = jax.grad(lambda w: jnp.sum((x * w) ** 2))(w)
        updates, state = tx.update(grads, state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.zeros(3)
    return call(jax.jit(step), w, tx.init(w), jnp.ones(3))
