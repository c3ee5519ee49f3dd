"""Updates that fail: zero gradients, exploded ones, half precision, schedules."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from .._registry import call, program


def update(tx):
    """One step of an optax transformation, compiled."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def global_norm_clipping_by_hand():
    """All gradients vanish, and so does their norm."""

    def clip(grads, max_norm):
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))  # <- zero
        factor = jnp.minimum(norm, max_norm)
        return jax.tree.map(lambda g: g / norm * factor, grads)  # <- here

    def repaired(grads, max_norm):
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        scale = max_norm / jnp.maximum(norm, max_norm)
        return jax.tree.map(lambda g: g * scale, grads)

    grads = {"w": jnp.zeros(3), "b": jnp.zeros(1)}
    return call(jax.jit(clip), grads, 1.0).repaired(repaired)


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    cause=("eps", "float16|half|dtype|precision"),
)
def adam_in_half_precision():
    """Adam's epsilon of 1e-8 is zero in float16, and so is the gradient."""

    tx = optax.adam(1e-3)
    safe = optax.adam(1e-3, eps=1e-4)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)  # <- here
        return optax.apply_updates(params, updates), state

    params = {"embedding": jnp.ones(4, jnp.float16)}
    grads = {"embedding": jnp.array([0.1, 0.0, 0.2, 0.0], jnp.float16)}
    return call(jax.jit(step), params, tx.init(params), grads).repaired(update(safe))


@program(
    kind="inf|nan",
    direction="forward",
    cause=("eps", "float16|half|dtype|precision"),
)
def rmsprop_in_half_precision():
    """RMSProp's epsilon of 1e-8, in float16."""

    tx = optax.chain(optax.scale_by_rms(), optax.scale(-1e-3))
    safe = optax.chain(optax.scale_by_rms(eps=1e-3), optax.scale(-1e-3))

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)  # <- here
        return optax.apply_updates(params, updates), state

    params = jnp.ones(3, jnp.float16)
    grads = jnp.array([0.5, 0.0, 0.0], jnp.float16)
    return call(jax.jit(step), params, tx.init(params), grads).repaired(update(safe))


@program(
    kind="nan",
    direction="forward",
    primitive="div",
    cause=("eps", "float16|half|dtype|precision"),
)
def adabelief_of_a_half_precision_model():
    """An NNX model in float16, trained on inputs that are zero."""

    def step(model, optimizer, x, y):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - y) ** 2))(model)
        optimizer.update(model, grads)  # <- here
        return loss

    def build(eps):
        model = nnx.Linear(3, 2, param_dtype=jnp.float16, rngs=nnx.Rngs(0))
        tx = optax.adabelief(1e-3, eps=eps, eps_root=eps)
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    x, y = jnp.zeros((2, 3), jnp.float16), jnp.zeros((2, 2), jnp.float16)
    return call(nnx.jit(step), *build(1e-16), x, y).repaired(
        nnx.jit(step), *build(1e-3), x, y
    )


@program(
    kind="inf",
    direction="forward",
    cause=("gradient", "explod|large|grew|overflow"),
    never=("double-where",),
)
def exploded_gradient_in_adams_square():
    """The loss is finite, a gradient of 1e26 is not when Adam squares it."""

    def step(model, optimizer, x):
        def loss_fn(m):
            return jnp.mean(jnp.exp(m(x)))

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)  # <- here
        return loss

    def repaired(model, optimizer, x):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(nnx.softplus(m(x))))(model)
        optimizer.update(model, grads)
        return loss

    def build():
        model = nnx.Linear(1, 1, rngs=nnx.Rngs(0), kernel_init=nnx.initializers.ones)
        return model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    x = jnp.array([[60.0], [1.0]])
    return call(nnx.jit(step), *build(), x).repaired(nnx.jit(repaired), *build(), x)


@program(
    kind="inf",
    direction="forward",
    cause=("gradient", "explod|large|grew|overflow"),
)
def exploded_gradient_in_a_recurrent_step():
    """Forty steps back in time multiply the gradient by four each."""

    tx = optax.adam(1e-3)

    def loss(h, w):
        for _ in range(40):
            h = jnp.tanh(4.0 * w * h)
        return jnp.sum(h)

    def step(start, state, w):
        grads = jax.grad(loss)(start, w)
        updates, state = tx.update(grads, state, start)  # <- here
        return optax.apply_updates(start, updates), state

    def repaired(start, state, w):
        grads = jnp.clip(jax.grad(loss)(start, w), -1, 1)
        updates, state = tx.update(grads, state, start)
        return optax.apply_updates(start, updates), state

    start, w = jnp.full(2, 1e-28), jnp.ones(2)
    return call(jax.jit(step), start, tx.init(start), w).repaired(repaired)


@program(
    kind="inf", direction="forward", cause=("zero", "step|count"), never=("overflow",)
)
def inverse_root_schedule_at_step_zero():
    """step ** -0.5 at step 0."""

    def schedule(step):
        return 1e-2 * step**-0.5  # <- here

    def safe(step):
        return 1e-2 * jnp.maximum(step, 1.0) ** -0.5

    tx = optax.adam(lambda step: schedule(step.astype(jnp.float32)))
    repaired = optax.adam(lambda step: safe(step.astype(jnp.float32)))
    params = jnp.ones(2)
    return call(jax.jit(update(tx)), params, tx.init(params), params).repaired(
        update(repaired)
    )


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def weight_normalisation_of_a_zero_vector():
    """w = g v / |v| with v initialised to zero."""

    def layer(params, x):
        v = params["v"]
        w = params["g"] * v / jnp.linalg.norm(v, axis=0)  # <- here
        return x @ w

    def repaired(params, x):
        v = params["v"]
        norm = jnp.sqrt(jnp.sum(v**2, axis=0) + 1e-12)
        return x @ (params["g"] * v / norm)

    def loss(fn):
        return jax.value_and_grad(lambda p, x: jnp.sum(fn(p, x) ** 2))

    params = {"v": jnp.zeros((3, 2)), "g": jnp.ones(2)}
    return call(loss(layer), params, jnp.ones((4, 3))).repaired(loss(repaired))


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def sharpness_aware_step_at_a_minimum():
    """The ascent direction g / |g| of a gradient of zero."""

    def step(w, x, rho):
        def loss(w):
            return jnp.mean((x @ w) ** 2)

        g = jax.grad(loss)(w)
        ascent = rho * g / jnp.sqrt(jnp.sum(g**2))  # <- here
        return w - 0.1 * jax.grad(loss)(w + ascent)

    def repaired(w, x, rho):
        def loss(w):
            return jnp.mean((x @ w) ** 2)

        g = jax.grad(loss)(w)
        ascent = rho * g / jnp.sqrt(jnp.sum(g**2) + 1e-12)
        return w - 0.1 * jax.grad(loss)(w + ascent)

    args = jnp.zeros(2), jnp.ones((3, 2)), 0.05
    return call(jax.jit(step), *args).repaired(repaired)


@program(
    kind="inf",
    direction="backward",
    cause=("overflow|grow|diverg|explod",),
    never=("double-where",),
)
def learning_rate_above_the_stable_one():
    """Each step of the descent is a hundred times the last."""

    def train(w, rate):
        def step(w, _):
            g = jax.grad(lambda w: 50 * jnp.sum(w**2))(w)  # <- here
            w = w - rate * g
            return w, jnp.sum(w)

        return lax.scan(step, w, length=40)

    args = jnp.array([1.0, -2.0]), 1.0
    return call(jax.jit(train), *args).repaired(train, args[0], 0.005)


@program(
    kind="inf",
    direction="forward",
    primitive="mul",
    cause=("overflow", "float16|65504|half"),
)
def loss_scaling_that_is_too_large():
    """A loss of 3 times a scale of 2**15 exceeds float16."""

    def scaled_loss(w, x, scale):
        error = x @ w - 1
        loss = jnp.mean(error**2)
        return loss * scale  # <- here

    args = jnp.full(2, 1.5, jnp.float16), jnp.ones((3, 2), jnp.float16)
    big, small = jnp.float16(2**15), jnp.float16(2**7)
    fn = jax.value_and_grad(scaled_loss)
    return call(jax.jit(fn), *args, big).repaired(fn, *args, small)


@program(kind="nan", direction="forward", primitive="mul", cause=("inf|Inf|−Inf|-Inf",))
def soft_labels_with_a_masked_class():
    """optax's cross entropy multiplies a label of zero by -Inf."""

    def loss(logits, labels, allowed):
        masked = jnp.where(allowed, logits, -jnp.inf)
        losses = optax.softmax_cross_entropy(masked, labels)  # <- here
        return losses.mean()

    def repaired(logits, labels, allowed):
        masked = jnp.where(allowed, logits, -1e9)
        return optax.softmax_cross_entropy(masked, labels).mean()

    args = jnp.ones((2, 3)), jnp.array([[1.0, 0, 0], [0, 1, 0]])
    allowed = jnp.array([True, True, False])
    return call(jax.jit(loss), *args, allowed).repaired(repaired)


@program(kind="nan|inf", direction="forward|backward", cause=("zero",))
def optax_cosine_distance_of_zero():
    """optax.cosine_distance without an epsilon, and an empty embedding."""

    def loss(a, b):
        return optax.cosine_distance(a, b).mean()  # <- here

    def repaired(a, b):
        return optax.cosine_distance(a, b, epsilon=1e-6).mean()

    args = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.ones((2, 2))
    return call(jax.jit(loss), *args).repaired(repaired)
