"""Arguments that were non-finite before the first operation."""

import jax
import jax.numpy as jnp
from flax import nnx

from ._registry import call, program


@program(kind="nan", direction="forward", inputs=("image",))
def nan_in_the_data():
    """One pixel of one image is a NaN."""

    def loss(params, batch):
        hidden = batch["image"] @ params["w"]  # <- here
        return jnp.mean(jnp.tanh(hidden))

    batch = {"image": jnp.ones((2, 3)).at[1, 2].set(jnp.nan), "label": jnp.zeros(2)}
    return call(jax.jit(loss), {"w": jnp.ones((3, 2))}, batch)


@program(kind="inf", direction="forward", inputs=("",))
def inf_in_the_data():
    """An infinite measurement that turns NaN when the mean is taken away."""

    def standardise(x):
        centred = x - x.mean()  # <- here
        return centred / x.std()

    return call(standardise, jnp.array([1.0, jnp.inf, 2.0]))


@program(kind="nan", direction="forward", inputs=("weight",))
def nan_parameter():
    """A parameter was a NaN before the step began."""

    def loss(params, x):
        scaled = params["weight"] * x  # <- here
        return jnp.sum(scaled + params["bias"])

    params = {"weight": jnp.array([1.0, jnp.nan]), "bias": jnp.ones(2)}
    return call(jax.jit(jax.value_and_grad(loss)), params, jnp.ones(2))


@program(kind="nan", direction="forward", inputs=("kernel",))
def nan_parameter_of_a_module():
    """The kernel of an NNX layer is a NaN."""

    def loss(model, x):
        return jnp.mean(model(x) ** 2)  # <- here

    broken = nnx.initializers.constant(jnp.nan)
    model = nnx.Linear(3, 2, kernel_init=broken, rngs=nnx.Rngs(0))
    return call(nnx.jit(loss), model, jnp.ones((4, 3)))


@program(kind="nan", direction="forward", inputs=("",))
def nan_in_a_sequence():
    """A scan over data with a NaN in it."""

    def step(total, x):
        return 0.9 * total + x, total  # <- here

    def fn(xs):
        return jax.lax.scan(step, 0.0, xs)[0]

    return call(jax.jit(fn), jnp.array([1.0, 2.0, jnp.nan, 3.0]))


@program(kind="inf", direction="forward", primitive="log", inputs=())
def nan_argument_that_is_not_used():
    """A NaN in an argument that reaches no output is not to blame."""

    def fn(x, debug):
        hidden = jnp.where(x > 0, 0.0, debug)
        return jnp.log(hidden)  # <- here

    return call(jax.jit(fn), jnp.ones(3), jnp.full(3, jnp.nan))
