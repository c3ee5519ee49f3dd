"""Nothing to average: empty segments, masks and batches; data without spread."""

import jax
import jax.numpy as jnp
from jax import lax

from .._registry import call, program


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def mean_pooling_of_an_empty_graph():
    """A batch of graphs, one without nodes."""

    def pool(nodes, graph, num_graphs):
        total = jax.ops.segment_sum(nodes, graph, num_graphs)
        count = jax.ops.segment_sum(jnp.ones(len(nodes)), graph, num_graphs)  # <- zero
        return total / count[:, None]  # <- here

    def repaired(nodes, graph, num_graphs):
        total = jax.ops.segment_sum(nodes, graph, num_graphs)
        count = jax.ops.segment_sum(jnp.ones(len(nodes)), graph, num_graphs)
        return total / jnp.maximum(count, 1)[:, None]

    jitted = jax.jit(pool, static_argnums=2)
    args = jnp.ones((3, 2)), jnp.array([0, 0, 2]), 3
    return call(jitted, *args).repaired(repaired)


@program(kind="inf", direction="forward", cause=("empty|no element|no entr|nothing",))
def max_pooling_of_an_empty_graph():
    """The largest of nothing is -Inf."""

    def pool(nodes, graph, w):
        largest = jax.ops.segment_max(nodes, graph, 3)  # <- here
        return jnp.tanh(largest) @ w + largest.sum()

    def repaired(nodes, graph, w):
        largest = jax.ops.segment_max(nodes, graph, 3)
        largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
        return jnp.tanh(largest) @ w + largest.sum()

    args = jnp.arange(3.0), jnp.array([0, 0, 2]), jnp.ones(3)
    return call(jax.jit(pool), *args).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    cause=("zero", "empty|no element|nothing|size|count"),
)
def mean_of_an_empty_slice():
    """The validation split of a tiny data set has no rows."""

    def scores(losses, split):
        train, valid = losses[:split], losses[split:]
        return train.mean(), valid.mean()  # <- here

    def repaired(losses, split):
        return losses[:split].mean(), losses[split:].sum() / max(1, 4 - split)

    return call(lambda x: scores(x, 4), jnp.ones(4)).repaired(lambda x: repaired(x, 4))


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def mean_with_a_mask_of_nothing():
    """jnp.mean with a where that selects nothing in one row."""

    def token_loss(losses, mask):
        per_example = jnp.mean(losses, axis=1, where=mask)  # <- here
        return per_example.mean()

    def repaired(losses, mask):
        total = jnp.sum(losses, axis=1, where=mask)
        return jnp.mean(total / jnp.maximum(mask.sum(1), 1))

    mask = jnp.array([[True, True], [False, False]])
    return call(jax.jit(token_loss), jnp.ones((2, 2)), mask).repaired(repaired)


@program(kind="inf", direction="backward", cause=("std|root|sqrt|variance",))
def gradient_of_the_spread_of_equal_values():
    """The standard deviation has no slope where it is zero."""

    def diversity(x):
        return jnp.std(x, axis=0).sum()  # <- here

    def repaired(x):
        return jnp.sqrt(jnp.var(x, axis=0) + 1e-8).sum()

    return call(jax.jit(jax.grad(diversity)), jnp.ones((4, 2))).repaired(
        jax.grad(repaired)
    )


@program(
    kind="nan",
    direction="forward",
    cause=("zero", "ddof|one|correction|degrees|sample"),
)
def unbiased_variance_of_one_sample():
    """n - 1 is zero."""

    def summary(x):
        return x.mean(axis=0), jnp.var(x, axis=0, ddof=1)  # <- here

    def repaired(x):
        return x.mean(axis=0), jnp.var(x, axis=0)

    return call(summary, jnp.array([[1.0, 2.0]])).repaired(repaired)


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def nanmean_of_nothing_but_nans():
    """A sensor that never reported."""

    def daily_means(readings):
        return jnp.nanmean(readings, axis=1)  # <- here

    def repaired(readings):
        seen = ~jnp.isnan(readings)
        total = jnp.sum(jnp.where(seen, readings, 0.0), axis=1)
        return total / jnp.maximum(seen.sum(1), 1)

    readings = jnp.array([[1.0, jnp.nan], [jnp.nan, jnp.nan]])
    return call(jax.jit(daily_means), readings).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    cause=("zero",),
)
def correlation_with_a_constant():
    """One of the two series never moves."""

    def correlation(x, y):
        return jnp.corrcoef(x, y)[0, 1]  # <- here

    def repaired(x, y):
        x, y = x - x.mean(), y - y.mean()
        return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2) + 1e-12)

    args = jnp.array([1.0, 2.0, 3.0]), jnp.ones(3)
    return call(correlation, *args).repaired(repaired)


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def perplexity_of_padding():
    """A batch of nothing but padding has no tokens."""

    def perplexity(logits, labels, pad):
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[
            :, 0
        ]
        real = labels != pad
        return jnp.exp(jnp.sum(nll * real) / jnp.sum(real))  # <- here

    def repaired(logits, labels, pad):
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[
            :, 0
        ]
        real = labels != pad
        return jnp.exp(jnp.sum(nll * real) / jnp.maximum(jnp.sum(real), 1))

    args = jnp.ones((3, 4)), jnp.zeros(3, int), 0
    return call(jax.jit(perplexity), *args).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    primitive="rsqrt",
    cause=("zero", "variance|var|constant"),
)
def batch_norm_by_hand_of_a_dead_unit():
    """A unit that is zero for the whole batch, and no epsilon."""

    def normalise(x, scale, shift):
        mean, variance = x.mean(0), x.var(0)
        inverse = lax.rsqrt(variance)  # <- here
        return scale * (x - mean) * inverse + shift  # <- then

    def repaired(x, scale, shift):
        return scale * (x - x.mean(0)) * lax.rsqrt(x.var(0) + 1e-5) + shift

    x = jnp.array([[1.0, 0.0], [3.0, 0.0]])
    return call(jax.jit(normalise), x, jnp.ones(2), jnp.zeros(2)).repaired(repaired)


@program(kind="nan|inf", direction="forward", primitive="div", cause=("zero",))
def robust_scaling_of_a_mostly_constant_feature():
    """More than half of the values agree: the median deviation is zero."""

    def robust(x):
        centre = jnp.median(x)
        deviation = jnp.median(jnp.abs(x - centre))  # <- zero
        return (x - centre) / deviation  # <- here

    def repaired(x):
        centre = jnp.median(x)
        deviation = jnp.median(jnp.abs(x - centre))
        return (x - centre) / jnp.maximum(deviation, 1e-6)

    return call(jax.jit(robust), jnp.array([1.0, 1.0, 1.0, 5.0])).repaired(repaired)


@program(
    kind="inf",
    direction="forward",
    cause=("empty|mask|no element|no entr|nothing",),
)
def log_sum_exp_of_nothing():
    """All classes of a row are masked; the result itself is returned."""

    def normaliser(scores, valid):
        return jax.nn.logsumexp(scores, axis=1, where=valid)  # <- here

    def repaired(scores, valid):
        valid = valid | ~valid.any(axis=1, keepdims=True)
        return jax.nn.logsumexp(scores, axis=1, where=valid)

    valid = jnp.array([[True, True], [False, False]])
    return call(normaliser, jnp.ones((2, 2)), valid).repaired(repaired)


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def attention_with_multiplied_mask():
    """The mask multiplies the exponentials; the last query sees no key."""

    def attend(q, k, v, mask):
        scores = q @ k.T
        weights = jnp.exp(scores - scores.max(-1, keepdims=True)) * mask
        weights = weights / weights.sum(-1, keepdims=True)  # <- here
        return weights @ v

    def repaired(q, k, v, mask):
        scores = q @ k.T
        weights = jnp.exp(scores - scores.max(-1, keepdims=True)) * mask
        return weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6) @ v

    x = jnp.arange(6.0).reshape(3, 2) / 6
    mask = jnp.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])
    return call(jax.jit(attend), x, x, x, mask).repaired(repaired)
