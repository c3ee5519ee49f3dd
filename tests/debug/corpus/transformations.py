"""jit, vmap, remat and their combinations; static and donated arguments."""

import jax
import jax.numpy as jnp
from jax import lax

from ._registry import call, program


@program(kind="nan", direction="forward", primitive="div")
def jit_inside_jit():
    """Two compiled functions, one calling the other."""

    @jax.jit
    def normalise(x):
        return x / jnp.sum(x)  # <- here

    @jax.jit
    def fn(x):
        return 1 + normalise(2 * x)

    return call(fn, jnp.zeros(3))


@program(kind="nan", direction="forward", primitive="div")
def vmap_over_rows():
    """One row of a batch sums to zero."""

    def normalise(row):
        return row / jnp.sum(row)  # <- here

    return call(jax.vmap(normalise), jnp.array([[1.0, 1.0], [0.0, 0.0]]))


@program(kind="inf", direction="backward")
def vmap_of_grad():
    """Per-example gradients, one of them at a norm of zero."""

    def loss(x):
        return jnp.linalg.norm(x)  # <- here

    points = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    return call(jax.jit(jax.vmap(jax.grad(loss))), points)


@program(kind="inf", direction="backward")
def grad_of_vmap():
    """The gradient of a mean over a batch."""

    def one(w, x):
        return jnp.sqrt(w * x)  # <- here

    def loss(w, xs):
        return jnp.mean(jax.vmap(one, in_axes=(None, 0))(w, xs))

    return call(jax.grad(loss), jnp.array(2.0), jnp.array([1.0, 0.0]))


@program(kind="nan", direction="forward", primitive="sqrt")
def remat_forward():
    """A checkpointed block that fails in the forward pass."""

    @jax.checkpoint
    def block(x):
        return jnp.sqrt(x - 2)  # <- here

    return call(lambda x: 3 * block(x), jnp.array([1.0, 3.0]))


@program(kind="inf", direction="backward")
def remat_backward():
    """A checkpointed block whose derivative is infinite."""

    @jax.checkpoint
    def block(x):
        return jnp.sin(jnp.sqrt(x))  # <- here

    def loss(x):
        return jnp.sum(block(2 * x))

    return call(jax.jit(jax.value_and_grad(loss)), jnp.array([1.0, 0.0]))


@program(kind="inf", direction="backward", iteration=(2,))
def grad_of_jit_of_scan_of_remat():
    """A checkpointed loop body, as in deep networks."""

    @jax.checkpoint
    def block(h, x):
        return h + jnp.sqrt(x)  # <- here

    @jax.jit
    def loss(xs):
        return lax.scan(lambda h, x: (block(h, x), None), 0.0, xs)[0]

    return call(jax.grad(loss), jnp.array([1.0, 2.0, 0.0]))


@program(kind="inf", direction="backward", primitive="div")
def vmap_of_custom_vjp():
    """A backward rule of the user's, vmapped, inside jit."""

    @jax.custom_vjp
    def length(x):
        return jnp.sqrt(jnp.sum(x**2))

    def backward(x, g):
        slope = g / length(x)  # <- here
        return (slope * x,)

    length.defvjp(lambda x: (length(x), x), backward)
    fn = jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(length)(x))))
    return call(fn, jnp.array([[1.0, 1.0], [0.0, 0.0]]))


@program(kind="inf", direction="backward", primitive="div", iteration=(1,))
def custom_vjp_inside_scan():
    """A backward rule of the user's in the body of a loop."""

    @jax.custom_vjp
    def root(x):
        return jnp.sqrt(x)

    def backward(y, g):
        return (g / (2 * y),)  # <- here

    root.defvjp(lambda x: (root(x), root(x)), backward)

    def loss(xs):
        return lax.scan(lambda t, x: (t + root(x), None), 0.0, xs)[0]

    return call(jax.jit(jax.grad(loss)), jnp.array([1.0, 0.0, 4.0]))


@program(kind="inf", direction="forward", primitive="log")
def vmap_of_while():
    """A loop over a batch, each row with its own number of rounds."""

    def count_down(n):
        def body(s):
            return s[0] - 1, s[1] + jnp.log(s[0] - 1)  # <- here

        return lax.while_loop(lambda s: s[0] > 0, body, (n, 0.0))[1]

    return call(jax.vmap(count_down), jnp.array([1.0, 3.0]))


@program(kind="inf", direction="forward", primitive="div")
def static_argument():
    """A jitted function with a static exponent."""

    def scale(x, power):
        return 1 / x**power  # <- here

    fn = jax.jit(scale, static_argnums=1)
    return call(fn, jnp.array([1.0, 0.0]), 2)


@program(kind="inf", direction="forward", primitive="log")
def static_keyword():
    """A jitted function told by name what to do with the values."""

    def loss(x, *, reduction):
        nats = -jnp.log(x)  # <- here
        return nats.mean() if reduction == "mean" else nats.sum()

    fn = jax.jit(loss, static_argnames="reduction")
    return call(fn, jnp.array([1.0, 0.0]), reduction="mean")


@program(kind="inf", direction="forward", primitive="div")
def donated_argument():
    """A step that donates its state; the user's arrays stay alive."""

    def step(state, x):
        w = state["w"] - 0.1 / x  # <- here
        return {"w": w, "count": state["count"] + 1}

    state = {"w": jnp.ones(3), "count": jnp.array(0)}
    return call(jax.jit(step, donate_argnums=0), state, jnp.array([1.0, 0.0, 2.0]))


@program(kind="inf", direction="forward", primitive="exp")
def keyword_arguments():
    """Arrays passed by name, in a dictionary, next to None and a Python number."""

    def fn(params, *, scale, mask=None):
        return jnp.exp(scale * params["log_scale"])  # <- here

    params = {"log_scale": jnp.array([1.0, 60.0]), "unused": None}
    return call(fn, params, scale=2.0)


@program(kind="inf", direction="backward")
def same_library_function_on_two_lines():
    """JAX traces norm once for both lines; only the second one is at zero."""

    def loss(x, y):
        first = jnp.linalg.norm(x)
        second = jnp.linalg.norm(y)  # <- here
        return first + second

    return call(jax.grad(loss, argnums=(0, 1)), jnp.ones(5), jnp.zeros(5))


@program(kind="nan", direction="forward")
def library_function_traced_before():
    """The same function was traced before, elsewhere, on arrays of the same shape."""
    jnp.var(jnp.ones((1, 6)), axis=0, ddof=1)

    def loss(x):
        centred = x - x.mean()
        return jnp.var(centred, axis=0, ddof=1)  # <- here

    return call(jax.jit(loss), jnp.ones((1, 6)))


@program(kind="inf", direction="forward", primitive="log")
def own_jitted_helper_called_twice():
    """A helper of the user's own is traced once; the line is the one inside of it."""

    @jax.jit
    def nats(p):
        return -jnp.log(p)  # <- here

    def loss(p, q):
        harmless = nats(p)
        return harmless + nats(q)

    return call(loss, jnp.ones(5), jnp.zeros(5))
