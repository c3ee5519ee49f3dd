"""Divisions by a zero that was made further up, in loops in one iteration only."""

import jax
import jax.numpy as jnp
from jax import lax

from .._registry import call, program


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def standardising_a_constant_feature():
    """A column of ones has no spread."""

    def standardise(x):
        mean = x.mean(axis=0)
        scale = x.std(axis=0)  # <- zero
        return (x - mean) / scale  # <- here

    def repaired(x):
        scale = x.std(axis=0)
        return (x - x.mean(axis=0)) / jnp.where(scale > 0, scale, 1.0)

    x = jnp.array([[1.0, 2.0], [1.0, 4.0], [1.0, 7.0]])
    return call(jax.jit(standardise), x).repaired(repaired)


@program(
    kind="nan|inf",
    direction="forward",
    primitive="div",
    iteration=(0,),
    cause=("zero",),
)
def bias_correction_counted_from_zero():
    """1 - 0.9**0 is zero in the first iteration."""

    def smooth(xs):
        def body(i, state):
            average, out = state
            average = 0.9 * average + 0.1 * xs[i]
            corrected = average / (1 - 0.9**i)  # <- here
            return average, out.at[i].set(corrected)

        return lax.fori_loop(0, xs.size, body, (0.0, jnp.zeros_like(xs)))[1]

    def repaired(xs):
        def body(i, state):
            average, out = state
            average = 0.9 * average + 0.1 * xs[i]
            return average, out.at[i].set(average / (1 - 0.9 ** (i + 1)))

        return lax.fori_loop(0, xs.size, body, (0.0, jnp.zeros_like(xs)))[1]

    return call(jax.jit(smooth), jnp.array([1.0, 2.0, 3.0])).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    iteration=(1,),
    cause=("zero",),
)
def secant_method_that_has_arrived():
    """Both values are zero once the root is found: 0 / 0."""

    def root(a, b):
        def f(x):
            return x**2 - 4

        def step(state, _):
            a, b = state
            slope = (f(b) - f(a)) / (b - a)  # <- here
            return (b, b - f(b) / slope), b

        return lax.scan(step, (a, b), length=4)[0]

    def repaired(a, b):
        def f(x):
            return x**2 - 4

        def step(state, _):
            a, b = state
            done = b == a
            slope = (f(b) - f(a)) / jnp.where(done, 1.0, b - a)
            new = b - f(b) / jnp.where(done, 1.0, slope)
            return (b, jnp.where(done, b, new)), b

        return lax.scan(step, (a, b), length=4)[0]

    return call(root, 1.0, 2.0).repaired(repaired)


@program(
    kind="inf|nan",
    direction="forward",
    primitive="div",
    cause=("zero", "curvature"),
    iteration=(2,),
)
def newton_without_curvature():
    """The iterate lands where the second derivative vanishes."""

    def minimise(x, shifts):
        def step(x, shift):
            slope, curvature = 3 * x**2 - 3, 6 * x
            newton = slope / curvature  # <- here
            return x - shift, newton

        return lax.scan(step, x, shifts)[1]

    def repaired(x, shifts):
        def step(x, shift):
            slope, curvature = 3 * x**2 - 3, 6 * x
            return x - shift, slope / jnp.maximum(jnp.abs(curvature), 0.1)

        return lax.scan(step, x, shifts)[1]

    args = jnp.array(1.0), jnp.array([0.5, 0.5, 0.5, 0.5])
    return call(jax.jit(minimise), *args).repaired(repaired)


@program(
    kind="inf|nan",
    direction="forward",
    primitive="div",
    iteration=(4,),
    cause=("zero",),
)
def annealing_to_temperature_zero():
    """The schedule ends at exactly zero."""

    def anneal(logits, steps):
        def body(i, p):
            temperature = 1 - i / 4  # <- zero
            p = jax.nn.softmax(logits / temperature)  # <- here
            return p

        return lax.fori_loop(0, steps, body, logits)

    def repaired(logits, steps):
        def body(i, p):
            temperature = jnp.maximum(1 - i / 4, 0.01)
            return jax.nn.softmax(logits / temperature)

        return lax.fori_loop(0, steps, body, logits)

    return call(jax.jit(anneal), jnp.array([1.0, 2.0]), 5).repaired(repaired)


@program(kind="inf|nan", direction="forward", primitive="div", cause=("zero",))
def interpolation_with_equal_knots():
    """Two knots at the same place have no slope between them."""

    def slopes(knots, values):
        rise = jnp.diff(values)
        run = jnp.diff(knots)  # <- zero
        return rise / run  # <- here

    def repaired(knots, values):
        run = jnp.diff(knots)
        return jnp.diff(values) / jnp.where(run > 0, run, 1.0)

    args = jnp.array([0.0, 1.0, 1.0, 2.0]), jnp.array([1.0, 2.0, 3.0, 5.0])
    return call(slopes, *args).repaired(repaired)


@program(kind="inf", direction="forward", primitive="div", cause=("zero",))
def barycentric_interpolation_at_a_node():
    """x minus a node is zero at the node."""

    def evaluate(nodes, weights, values, x):
        terms = weights / (x - nodes)  # <- here
        return jnp.sum(terms * values) / jnp.sum(terms)  # <- then

    def repaired(nodes, weights, values, x):
        hit = x == nodes
        terms = weights / jnp.where(hit, 1.0, x - nodes)
        smooth = jnp.sum(terms * values) / jnp.sum(terms)
        return jnp.where(hit.any(), jnp.sum(jnp.where(hit, values, 0.0)), smooth)

    args = jnp.array([-1.0, 0.0, 1.0]), jnp.array([0.5, -1.0, 0.5]), jnp.arange(3.0)
    return call(evaluate, *args, 0.0).repaired(repaired)


@program(
    kind="inf|nan",
    direction="forward",
    primitive="div",
    iteration=(1,),
    cause=("zero",),
)
def elimination_without_pivoting():
    """The second pivot is zero after the first elimination."""

    def eliminate(a):
        def body(k, a):
            pivot = a[k, k]  # <- zero
            below = jnp.arange(len(a)) > k
            factor = jnp.where(below, a[:, k] / pivot, 0.0)  # <- here
            return a - factor[:, None] * a[k]

        return lax.fori_loop(0, len(a) - 1, body, a)

    a = jnp.array([[1.0, 2.0, 1.0], [2.0, 4.0, 3.0], [1.0, 1.0, 1.0]])
    return call(jax.jit(eliminate), a).repaired(eliminate, a[jnp.array([0, 2, 1])])


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    iteration=(2,),
    cause=("zero",),
)
def kalman_filter_that_is_certain():
    """Two perfect measurements in a row: the second gain is 0 / 0."""

    def run(variance, noises, q=0.0):
        def step(p, r):
            p = p + q
            gain = p / (p + r)  # <- here
            return (1 - gain) * p, gain

        return lax.scan(step, variance, noises)

    args = jnp.array(1.0), jnp.array([1.0, 0.0, 0.0, 1.0])
    return call(jax.jit(run), *args).repaired(run, *args, 0.01)


@program(
    kind="nan", direction="forward", primitive="div", iteration=(0,), cause=("zero",)
)
def running_variance_of_one_sample():
    """Welford's n - 1 is zero for the first sample."""

    def variances(xs):
        def step(state, x):
            n, mean, m2 = state
            n = n + 1
            new = mean + (x - mean) / n
            m2 = m2 + (x - mean) * (x - new)
            return (n, new, m2), m2 / (n - 1)  # <- here

        return lax.scan(step, (0, 0.0, 0.0), xs)[1]

    def repaired(xs):
        def step(state, x):
            n, mean, m2 = state
            n = n + 1
            new = mean + (x - mean) / n
            m2 = m2 + (x - mean) * (x - new)
            return (n, new, m2), m2 / jnp.maximum(n - 1, 1)

        return lax.scan(step, (0, 0.0, 0.0), xs)[1]

    return call(variances, jnp.array([1.0, 3.0, 2.0])).repaired(repaired)


@program(kind="nan", direction="forward", primitive="div", cause=("zero", "warm_up"))
def warm_up_of_no_steps():
    """An integer step over an integer warm-up of zero."""

    def learning_rate(step, warm_up):
        fraction = step / warm_up  # <- here
        return 1e-3 * jnp.minimum(fraction, 1.0)

    def repaired(step, warm_up):
        return 1e-3 * jnp.minimum(step / jnp.maximum(warm_up, 1), 1.0)

    return call(jax.jit(learning_rate), 0, 0).repaired(repaired)


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def accuracy_of_an_absent_class():
    """Integer counts, one of them zero."""

    def accuracy_by_class(labels, predictions):
        right = jnp.bincount(jnp.where(labels == predictions, labels, 3), length=4)
        total = jnp.bincount(labels, length=4)  # <- zero
        return right[:3] / total[:3]  # <- here

    def repaired(labels, predictions):
        right = jnp.bincount(jnp.where(labels == predictions, labels, 3), length=4)
        total = jnp.bincount(labels, length=4)
        return right[:3] / jnp.maximum(total[:3], 1)

    args = jnp.array([0, 0, 2]), jnp.array([0, 1, 2])
    return call(jax.jit(accuracy_by_class), *args).repaired(repaired)


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def f_score_without_positives():
    """No true positives: precision and recall are zero, and so is their sum."""

    def f_score(tp, fp, fn):
        precision = tp / (tp + fp)
        recall = tp / (tp + fn)
        return 2 * precision * recall / (precision + recall)  # <- here

    def repaired(tp, fp, fn):
        return 2 * tp / jnp.maximum(2 * tp + fp + fn, 1.0)

    return call(jax.jit(f_score), jnp.array(0.0), 3.0, 2.0).repaired(repaired)


@program(
    kind="nan|inf", direction="forward", primitive="div", cause=("zero", "underflow")
)
def returns_divided_by_a_vanished_discount():
    """0.5**t is zero after 150 steps."""

    def rewards_to_go(rewards, gamma):
        discount = jnp.cumprod(jnp.full(rewards.size, gamma))  # <- zero
        discounted = jnp.cumsum((rewards * discount)[::-1])[::-1]
        return discounted / discount  # <- here

    def repaired(rewards, gamma):
        def step(later, r):
            now = r + gamma * later
            return now, now

        return lax.scan(step, 0.0, rewards, reverse=True)[1]

    return call(jax.jit(rewards_to_go), jnp.ones(200), 0.5).repaired(repaired)


@program(
    kind="inf|nan",
    direction="forward",
    primitive="div",
    iteration=(0,),
    cause=("zero", "underflow|exp"),
)
def sinkhorn_with_little_entropy():
    """exp(-cost / 0.001) is zero for every pair of a point."""

    def plan(cost, a, b, epsilon):
        kernel = jnp.exp(-cost / epsilon)  # <- zero

        def step(state, _):
            u, v = state
            u = a / (kernel @ v)  # <- here
            return (u, b / (kernel.T @ u)), None

        (u, v), _ = lax.scan(step, (jnp.ones(2), jnp.ones(2)), length=5)
        return u[:, None] * kernel * v

    cost = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    half = jnp.full(2, 0.5)
    return call(jax.jit(plan), cost, half, half, 0.001).repaired(
        plan, cost, half, half, 0.5
    )


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    iteration=(1, 1),
    cause=("zero", "count"),
)
def inner_steps_of_an_outer_loop():
    """Counts of tasks and steps; one task has no data in its second step."""

    def run(counts, sums):
        def inner(total, xs):
            count, value = xs
            mean = value / count  # <- here
            return total + mean, mean

        def outer(total, xs):
            return lax.scan(inner, total, xs)

        return lax.scan(outer, 0.0, (counts, sums))

    def repaired(counts, sums):
        def inner(total, xs):
            mean = xs[1] / jnp.maximum(xs[0], 1)
            return total + mean, mean

        return lax.scan(lambda t, xs: lax.scan(inner, t, xs), 0.0, (counts, sums))

    args = jnp.array([[1, 2], [3, 0]]), jnp.array([[1.0, 2.0], [3.0, 0.0]])
    return call(jax.jit(run), *args).repaired(repaired)
