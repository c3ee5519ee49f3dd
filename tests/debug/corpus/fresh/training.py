"""Models and train steps: Flax NNX, Flax Linen, and plain JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from .._registry import call, program


def nnx_step(loss_fn):
    """A compiled train step of a model and its optimizer."""

    @nnx.jit
    def step(model, optimizer, *batch):
        loss, grads = nnx.value_and_grad(loss_fn)(model, *batch)
        optimizer.update(model, grads)
        return loss

    return step


def with_optimizer(model):
    """The model and a plain optimizer of it."""
    return model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)


@program(
    kind="inf", direction="forward", primitive="log", module="coupling", cause=("zero",)
)
def flow_with_a_relu_scale():
    """The scale of an affine coupling may become zero, and its log-determinant -Inf."""

    class Coupling(nnx.Module):
        def __init__(self, positive, rngs):
            self.net = nnx.Linear(1, 2, rngs=rngs, kernel_init=nnx.initializers.ones)
            self.positive = positive

        def __call__(self, x):
            raw, shift = jnp.split(self.net(x[:, :1]), 2, axis=1)
            scale = self.positive(raw)
            log_det = jnp.log(scale)  # <- here
            return jnp.concatenate([x[:, :1], scale * x[:, 1:] + shift], 1), log_det

    class Flow(nnx.Module):
        def __init__(self, positive):
            self.coupling = Coupling(positive, nnx.Rngs(0))

        def __call__(self, x):
            z, log_det = self.coupling(x)
            return 0.5 * jnp.sum(z**2, axis=1) - log_det[:, 0]

    def loss(model, x):
        return jnp.mean(model(x))

    x = jnp.array([[1.0, 2.0], [-1.0, 0.5]])
    return call(nnx_step(loss), *with_optimizer(Flow(nnx.relu)), x).repaired(
        nnx_step(loss), *with_optimizer(Flow(nnx.softplus)), x
    )


@program(
    kind="nan",
    direction="forward",
    module="attention",
    cause=("mask|every|all|row",),
    never=("overflow",),
)
def attention_module_with_a_padded_example():
    """All keys of the second example are padding."""

    class Attention(nnx.Module):
        def __init__(self, hidden):
            rngs = nnx.Rngs(0)
            self.query = nnx.Linear(2, 2, rngs=rngs)
            self.key = nnx.Linear(2, 2, rngs=rngs)
            self.hidden = hidden

        def __call__(self, x, mask):
            scores = jnp.einsum("bqd,bkd->bqk", self.query(x), self.key(x))
            scores = jnp.where(mask[:, None, :], scores, self.hidden)
            return jax.nn.softmax(scores, axis=-1) @ x  # <- here

    class Model(nnx.Module):
        def __init__(self, hidden):
            self.attention = Attention(hidden)
            self.head = nnx.Linear(2, 1, rngs=nnx.Rngs(1))

        def __call__(self, x, mask):
            return self.head(self.attention(x, mask))

    def loss(model, x, mask):
        return jnp.mean(model(x, mask) ** 2)

    mask = jnp.array([[True, True, False], [False, False, False]])
    x = jnp.ones((2, 3, 2))
    return call(nnx_step(loss), *with_optimizer(Model(-jnp.inf)), x, mask).repaired(
        nnx_step(loss), *with_optimizer(Model(-1e9)), x, mask
    )


@program(
    kind="inf|nan",
    direction="forward",
    cause=("zero", "variance|var|epsilon|constant"),
)
def batch_norm_without_epsilon():
    """The library's layer with epsilon=0, and a constant feature."""

    class Model(nnx.Module):
        def __init__(self, epsilon):
            rngs = nnx.Rngs(0)
            self.norm = nnx.BatchNorm(2, epsilon=epsilon, rngs=rngs)
            self.head = nnx.Linear(2, 1, rngs=rngs)

        def __call__(self, x):
            normalised = self.norm(x)  # <- here
            return self.head(normalised)

    def loss(model, x):
        return jnp.mean(model(x) ** 2)

    x = jnp.array([[1.0, 0.0], [3.0, 0.0]])
    return call(nnx_step(loss), *with_optimizer(Model(0.0)), x).repaired(
        nnx_step(loss), *with_optimizer(Model(1e-5)), x
    )


@program(
    kind="inf|nan",
    direction="forward",
    cause=("zero", "variance|var|epsilon|constant"),
)
def linen_layer_norm_without_epsilon():
    """A Linen model on a blank image."""

    def build(epsilon):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.LayerNorm(epsilon=epsilon)(x)  # <- here
                return nn.Dense(1)(x)

        return Model()

    def loss(model):
        return jax.jit(
            jax.value_and_grad(lambda p, x: jnp.mean(model.apply(p, x) ** 2))
        )

    x = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    params = build(1e-5).init(jax.random.key(0), x)
    return call(loss(build(0.0)), params, x).repaired(loss(build(1e-5)))


@program(kind="inf", direction="forward", primitive="log", cause=("zero|underflow",))
def linen_classifier_with_log_of_softmax():
    """Inputs in bytes saturate the softmax."""

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8, kernel_init=nn.initializers.ones)(x))
            return nn.Dense(3, kernel_init=nn.initializers.normal(1.0))(x)

    model = Classifier()

    def loss(params, x, labels):
        probabilities = nn.softmax(model.apply(params, x))
        picked = jnp.take_along_axis(probabilities, labels[:, None], axis=1)
        return -jnp.log(picked).mean()  # <- here

    def repaired(params, x, labels):
        logits = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    x = jnp.full((3, 4), 200.0)
    params = model.init(jax.random.key(0), x)
    args = params, x, jnp.arange(3)
    return call(jax.jit(jax.value_and_grad(loss)), *args).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="inf", direction="forward", primitive="log", cause=("underflow|zero",))
def mixture_density_network():
    """The target is fifty standard deviations from every component."""

    class Network(nnx.Module):
        def __init__(self):
            self.trunk = nnx.Linear(1, 6, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jnp.split(self.trunk(x), 3, axis=1)

    def loss(model, x, y):
        logits, mean, log_scale = model(x)
        z = (y - mean) / jnp.exp(log_scale)
        parts = jax.nn.softmax(logits) * jnp.exp(-0.5 * z**2 - log_scale)
        return -jnp.log(parts.sum(axis=1)).mean()  # <- here

    def repaired(model, x, y):
        logits, mean, log_scale = model(x)
        z = (y - mean) / jnp.exp(log_scale)
        parts = jax.nn.log_softmax(logits) - 0.5 * z**2 - log_scale
        return -jax.nn.logsumexp(parts, axis=1).mean()

    x, y = jnp.ones((2, 1)), jnp.array([[0.0], [200.0]])
    return call(nnx_step(loss), *with_optimizer(Network()), x, y).repaired(
        nnx_step(repaired), *with_optimizer(Network()), x, y
    )


@program(kind="inf", direction="forward", primitive="log", cause=("zero|one",))
def discriminator_that_is_certain():
    """log(1 - D) where D has rounded to one."""

    def loss(model, real, fake):
        score_real = nnx.sigmoid(model(real))
        score_fake = nnx.sigmoid(model(fake))
        miss = jnp.log(1 - score_fake)  # <- here
        return -jnp.mean(jnp.log(score_real)) - jnp.mean(miss)

    def repaired(model, real, fake):
        return jnp.mean(nnx.softplus(-model(real))) + jnp.mean(
            nnx.softplus(model(fake))
        )

    def build():
        ones = nnx.initializers.ones
        return with_optimizer(nnx.Linear(2, 1, rngs=nnx.Rngs(0), kernel_init=ones))

    args = jnp.ones((2, 2)), jnp.full((2, 2), 20.0)
    return call(nnx_step(loss), *build(), *args).repaired(
        nnx_step(repaired), *build(), *args
    )


@program(
    kind="inf|nan",
    direction="forward",
    primitive="div",
    cause=("zero", "temperature|divisor|denominator"),
)
def contrastive_loss_with_a_learned_temperature():
    """The temperature is a parameter, and has been trained to zero."""

    def loss(params, a, b):
        logits = a @ b.T / params["temperature"]  # <- here
        labels = jnp.arange(len(a))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def repaired(params, a, b):
        floor = jnp.maximum(params["temperature"], 0.01)
        return loss({"temperature": floor}, a, b)

    args = {"temperature": jnp.array(0.0)}, jnp.eye(3) + 0.1, jnp.eye(3) + 0.2
    return call(jax.jit(jax.value_and_grad(loss)), *args).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def code_book_with_an_unused_code():
    """The mean of the vectors assigned to a code that nobody chose."""

    def update(codes, x):
        distance = jnp.sum((x[:, None] - codes) ** 2, axis=-1)
        chosen = jax.nn.one_hot(jnp.argmin(distance, axis=1), len(codes))
        return chosen.T @ x / chosen.sum(0)[:, None]  # <- here

    def repaired(codes, x):
        distance = jnp.sum((x[:, None] - codes) ** 2, axis=-1)
        chosen = jax.nn.one_hot(jnp.argmin(distance, axis=1), len(codes))
        count = chosen.sum(0)[:, None]
        return jnp.where(count > 0, chosen.T @ x / jnp.maximum(count, 1), codes)

    args = jnp.array([[0.0, 0.0], [9.0, 9.0]]), jnp.ones((3, 2))
    return call(jax.jit(update), *args).repaired(repaired)


@program(kind="nan", direction="forward", cause=("zero",))
def entropy_bonus_of_masked_actions():
    """p log p of a forbidden action: 0 · -Inf."""

    def entropy(logits, allowed):
        p = jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf))
        log_p = jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf))
        return -jnp.sum(p * log_p, axis=-1).mean()  # <- here

    def repaired(logits, allowed):
        p = jax.nn.softmax(jnp.where(allowed, logits, -1e9))
        log_p = jax.nn.log_softmax(jnp.where(allowed, logits, -1e9))
        return -jnp.sum(p * log_p, axis=-1).mean()

    args = jnp.ones((2, 3)), jnp.array([True, True, False])
    return call(jax.jit(jax.value_and_grad(entropy)), *args).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="nan", direction="forward", primitive="div", cause=("zero", "rate"))
def dropout_of_everything():
    """A rate of one keeps nothing and divides by nothing."""

    def dropout(x, rate, key):
        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        return x * keep / (1 - rate)  # <- here

    def repaired(x, rate, key):
        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        return x * keep / jnp.where(rate < 1, 1 - rate, 1.0)

    args = jnp.ones(4), jnp.array(1.0), jax.random.key(0)
    return call(jax.jit(dropout), *args).repaired(repaired)


@program(kind="inf|nan", direction="backward", cause=("inf|Inf|empty",))
def hidden_markov_model_with_an_unreachable_state():
    """A column of -Inf: logsumexp's value is -Inf and its gradient a NaN."""

    def log_likelihood(log_rates, log_transition, observations):
        def step(alpha, y):
            reach = alpha[:, None] + log_transition
            alpha = jax.nn.logsumexp(reach, axis=0)  # <- here
            return alpha + y * log_rates, None

        start = jnp.zeros(2)
        alpha, _ = lax.scan(step, start + log_rates, observations)
        return jax.nn.logsumexp(alpha)

    transition = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    args = jnp.array([0.1, 0.2]), jnp.log(transition), jnp.array([1.0, 2.0])
    safe = jnp.log(jnp.maximum(transition, 1e-30))
    fn = jax.value_and_grad(log_likelihood, argnums=(0, 1))
    return call(jax.jit(fn), *args).repaired(fn, args[0], safe, args[2])


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def noise_estimate_at_diffusion_time_zero():
    """At t = 0 nothing was added, and sqrt(1 - ᾱ) is zero."""

    def noise(x_t, x_0, t, betas):
        alpha_bar = jnp.cumprod(1 - betas)[t]
        sigma = jnp.sqrt(1 - alpha_bar)  # <- zero
        return (x_t - jnp.sqrt(alpha_bar) * x_0) / sigma  # <- here

    def repaired(x_t, x_0, t, betas):
        alpha_bar = jnp.cumprod(1 - betas)[t]
        sigma = jnp.maximum(jnp.sqrt(1 - alpha_bar), 1e-4)
        return (x_t - jnp.sqrt(alpha_bar) * x_0) / sigma

    args = jnp.ones(3), jnp.ones(3), 0, jnp.array([0.0, 0.1, 0.2])
    return call(jax.jit(noise), *args).repaired(repaired)


@program(kind="inf", direction="forward", primitive="exp", cause=("overflow",))
def reparametrised_posterior_of_raw_data():
    """A log-scale of 200 from an input that was not normalised."""

    class Encoder(nnx.Module):
        def __init__(self):
            ones = nnx.initializers.ones
            self.linear = nnx.Linear(2, 4, rngs=nnx.Rngs(0), kernel_init=ones)

        def __call__(self, x):
            mean, log_scale = jnp.split(self.linear(x), 2, axis=1)
            scale = jnp.exp(log_scale)  # <- here
            return mean, scale

    def loss(model, x):
        mean, scale = model(x)
        return jnp.mean(mean**2 + scale**2 - 2 * jnp.log(scale))

    x = jnp.array([[1.0, 0.0], [100.0, 100.0]])
    return call(nnx_step(loss), *with_optimizer(Encoder()), x).repaired(
        nnx_step(loss), *with_optimizer(Encoder()), x / 100
    )
