"""Flax NNX models: which module of the model, and which argument's state."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ._registry import call, program


class Block(nnx.Module):
    """A linear layer followed by a function of the program's choice."""

    def __init__(self, features, function, rngs):
        self.linear = nnx.Linear(3, features, rngs=rngs)
        self.function = function

    def __call__(self, x):
        return self.function(self.linear(x))


class Model(nnx.Module):
    """An encoder and a decoder, both blocks."""

    def __init__(self, encoder=jnp.tanh, decoder=jnp.tanh):
        rngs = nnx.Rngs(0)
        self.encoder = Block(3, encoder, rngs)
        self.decoder = Block(2, decoder, rngs)

    def __call__(self, x):
        return self.decoder(self.encoder(x))


def train_step(model, optimizer, x):
    """One step of gradient descent on the mean of the model's outputs."""
    loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(x)))(model)
    optimizer.update(model, grads)
    return loss


def assign(variable, value):
    """Set a Variable's value, on the oldest and the newest flax alike."""
    if hasattr(nnx.Variable, "set_value"):
        variable.set_value(value)
    else:
        variable.value = value


def optimizer_of(model, tx=None):
    """An optimizer of the model's parameters."""
    return nnx.Optimizer(model, tx or optax.sgd(0.1), wrt=nnx.Param)


@program(kind="inf", direction="forward", primitive="log", module="decoder")
def module_forward():
    """A logarithm of zero in the decoder."""

    def activation(h):
        positive = jax.nn.relu(h)
        return jnp.log(0 * positive)  # <- here

    return call(Model(decoder=activation), jnp.ones((4, 3)))


@program(kind="inf", direction="forward", primitive="exp", module="encoder")
def module_forward_in_nnx_jit():
    """An overflow in the encoder that the decoder turns into a NaN."""

    def activation(h):
        scale = jnp.exp(1000 + h)  # <- here
        return scale

    fn = nnx.jit(lambda model, x: model(x))
    return call(fn, Model(encoder=activation), jnp.ones((4, 3)))


@program(kind="inf", direction="backward", module="encoder")
def module_backward():
    """The root of a gate that is shut: a train step whose loss is finite."""

    def activation(h):
        gated = 0 * h**2
        return jnp.sqrt(gated)  # <- here

    model = Model(encoder=activation)
    return call(nnx.jit(train_step), model, optimizer_of(model), jnp.ones((4, 3)))


@program(kind="inf", direction="backward", module="decoder")
def module_backward_without_jit():
    """The same in the decoder, in a step that is not compiled, under Adam."""

    def activation(h):
        gated = 0 * h**2
        return jnp.sqrt(gated)  # <- here

    model = Model(decoder=activation)
    return call(
        train_step, model, optimizer_of(model, optax.adam(1e-3)), jnp.ones((4, 3))
    )


@program(kind="inf", direction="backward", module="encoder")
def standard_deviation_underflows():
    """A VAE's log(std²), differentiated where std² has underflowed."""

    class Encoder(nnx.Module):
        def __init__(self, rngs):
            self.log_std = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            std = jnp.exp(self.log_std(x) - 60)
            return -jnp.log(std**2)  # <- here

    model = Model()
    model.encoder = Encoder(nnx.Rngs(0))
    fn = nnx.jit(nnx.grad(lambda m, x: m.encoder(x).sum()))
    return call(fn, model, jnp.ones((4, 3)))


@program(kind="inf", direction="forward", primitive="rsqrt", module="norm")
def layer_norm_of_constant():
    """Layer normalisation with epsilon=0 of features that are all zero."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(3, epsilon=0.0, rngs=rngs)

        def __call__(self, x):
            return jnp.tanh(self.norm(x))  # <- here

    return call(nnx.jit(lambda m, x: m(x)), Net(nnx.Rngs(0)), jnp.zeros((4, 3)))


@program(kind="inf", direction="forward", primitive="log", module=None)
def loss_outside_of_the_model():
    """The model is fine, its loss is not."""

    def loss(model, x, y):
        p = jax.nn.relu(model(x) - 100)
        return -jnp.mean(y * jnp.log(p))  # <- here

    return call(nnx.jit(loss), Model(), jnp.ones((4, 3)), jnp.ones((4, 2)))


@program(kind="inf", direction="backward", module=None)
def loss_gradient_outside_of_the_model():
    """An auxiliary value, nnx.value_and_grad, and a distance of zero."""

    def loss(model, x):
        y = model(x)
        distance = jnp.linalg.norm(y - y[:1], axis=1)  # <- here
        return jnp.mean(distance), {"mean": jnp.mean(y)}

    fn = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
    return call(fn, Model(), jnp.ones((4, 3)))


@program(kind="inf", direction="forward", primitive="log", module="decoder")
def dropout_before_log():
    """Dropout sets entries to exactly zero; its stream counts must not move."""

    class Head(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            kept = self.dropout(jnp.abs(x) + 1)
            return jnp.log(kept)  # <- here

    model = Model()
    model.decoder = Head(nnx.Rngs(1))
    return call(nnx.jit(lambda m, x: m(x)), model, jnp.ones((8, 3)))


@program(kind="nan", direction="forward", primitive="sqrt", module=None)
def rngs_as_an_argument():
    """Noise from nnx.Rngs, an argument whose counts must not move."""

    def noise(rngs, x):
        u = jax.random.uniform(rngs.noise(), x.shape)
        return jnp.sqrt(u - 1)  # <- here

    return call(nnx.jit(noise), nnx.Rngs(0, noise=1), jnp.ones(3))


@program(kind="inf", direction="forward", primitive="exp", module="encoder")
def running_statistics():
    """A Variable of the user's own is updated with an overflow."""

    class Stats(nnx.Variable):
        pass

    class Encoder(nnx.Module):
        def __init__(self):
            self.largest = Stats(jnp.zeros(()))

        def __call__(self, x):
            assign(self.largest, jnp.max(jnp.exp(100 * x)))  # <- here
            return x

    model = Model()
    model.encoder = Encoder()
    return call(nnx.jit(lambda m, x: m(x)), model, jnp.ones((4, 3)))


@program(kind="inf", direction="backward", module="encoder")
def nnx_remat():
    """A checkpointed forward pass of a model."""

    def activation(h):
        gated = 0 * h**2
        return jnp.sqrt(gated)  # <- here

    def loss(model, x):
        return jnp.mean(nnx.remat(lambda m, x: m(x))(model, x))

    return call(nnx.jit(nnx.grad(loss)), Model(encoder=activation), jnp.ones((4, 3)))


@program(kind="nan", direction="forward", primitive="div", module="encoder")
def nnx_vmap():
    """A model mapped over the rows of a batch; one row sums to zero."""

    class Encoder(nnx.Module):
        def __call__(self, x):
            return x / jnp.sum(x)  # <- here

    model = Model()
    model.encoder = Encoder()
    fn = nnx.jit(nnx.vmap(lambda m, x: m(x), in_axes=(None, 0)))
    return call(fn, model, jnp.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))


@program(kind="inf", direction="forward", primitive="exp", module="encoder")
def pure_function_of_split_state():
    """nnx.split outside, nnx.merge inside of a jitted function."""

    def activation(h):
        return jnp.exp(1000 + h)  # <- here

    graphdef, state = nnx.split(Model(encoder=activation))

    def fn(state, x):
        return nnx.merge(graphdef, state).encoder(x)

    return call(jax.jit(fn), state, jnp.ones((4, 3)))
