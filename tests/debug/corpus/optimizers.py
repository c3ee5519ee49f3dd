"""A finite loss and finite gradients, and an update that is not."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ._registry import call, program


@program(kind="nan", direction="forward", primitive="sqrt", module=None)
def negative_second_moment():
    """Adam's second moment came back from a checkpoint with the wrong sign."""

    tx = optax.adam(1e-3)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    state = (state[0]._replace(nu={"w": -jnp.ones(3)}), *state[1:])

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)  # <- here
        return optax.apply_updates(params, updates), state

    return call(jax.jit(step), params, state, {"w": jnp.ones(3)})


@program(kind="inf", direction="forward", primitive="div", module=None)
def schedule_divides_by_zero():
    """A learning rate of 1 / step, at step 0, in a plain loop's step."""

    def schedule(count):
        return 1e-3 / count  # <- here

    tx = optax.sgd(schedule)

    def step(params, state, x):
        grads = jax.grad(lambda p: jnp.sum(p * x))(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    params = jnp.ones(3)
    return call(jax.jit(step), params, tx.init(params), jnp.ones(3))


@program(kind="nan", direction="forward", primitive="div", module=None)
def adam_without_epsilon():
    """A parameter without gradient, and epsilon=0: 0 / 0 in the update."""

    def step(model, optimizer, x):
        grads = nnx.grad(lambda m: jnp.mean(0 * m(x)))(model)
        optimizer.update(model, grads)  # <- here

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3, eps=0.0), wrt=nnx.Param)
    return call(nnx.jit(step), model, optimizer, jnp.ones((4, 3)))


@program(kind="inf", direction="forward", primitive="div", module=None)
def schedule_in_nnx_optimizer():
    """The schedule of an nnx.Optimizer divides by zero at step 0."""

    def schedule(count):
        return 1e-3 / count  # <- here

    def step(model, optimizer, x):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(x)))(model)
        optimizer.update(model, grads)
        return loss

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(schedule), wrt=nnx.Param)
    return call(nnx.jit(step), model, optimizer, jnp.ones((4, 3)))


@program(kind="inf", direction="backward", module=None)
def gradient_through_adam():
    """Meta-learning differentiates Adam's root of a second moment of zero."""

    tx = optax.adam(1e-3)

    def outer(params, x):
        grads = jax.grad(lambda p: jnp.sum(p * x) ** 2)(params)
        updates, _ = tx.update(grads, tx.init(params), params)  # <- here
        return jnp.sum(optax.apply_updates(params, updates))

    return call(jax.jit(jax.grad(outer)), jnp.ones(2), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="forward", primitive="mul", module=None)
def exploding_update():
    """A learning rate that is far too large for float16 parameters."""

    def step(params, grads):
        update = grads * jnp.float16(1000)  # <- here
        return params - update

    half = jnp.full(3, 100.0, jnp.float16)
    return call(jax.jit(step), half, half)


@program(kind="nan", direction="forward", primitive="div", module=None)
def gradient_normalised_by_its_norm():
    """Normalised gradient descent at a stationary point."""

    def step(w):
        gradient = jax.grad(lambda w: jnp.sum(w**2))(w)
        direction = gradient / jnp.linalg.norm(gradient)  # <- here
        return w - 0.1 * direction

    return call(step, jnp.zeros(3))
