"""What `debug` needs of JAX and Flax beyond what they promise: one canary for each.

A canary that fails says which name vanished or changed its shape, and who needs it.
"""

import importlib
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.extend import core

CANARIES = {}


def canary(name, needed_by):
    """Registers a function that returns whether `name` is as it was."""

    def register(check):
        assert name not in CANARIES
        CANARIES[name] = needed_by, check
        return check

    return register


def equations(fn, *args):
    """The open equations of a program."""
    closed = jax.make_jaxpr(fn)(*args)
    return getattr(closed, "jaxpr", closed).eqns


def equation(name, fn, *args):
    """The first equation of that name in a program."""
    [found, *_] = [e for e in equations(fn, *args) if e.primitive.name == name]
    return found


X = np.ones(3, np.float32)


@jax.custom_vjp
def with_vjp(x):
    return 2 * x


with_vjp.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


@jax.custom_jvp
def with_jvp(x):
    return 2 * x


with_jvp.defjvp(lambda primals, tangents: (2 * primals[0], 2 * tangents[0]))


@canary("jax.extend.core.Jaxpr, ClosedJaxpr, Literal, jaxpr_as_fun", "jaxprs, explain")
def _():
    closed = jax.make_jaxpr(lambda x: x + 1.0)(X)
    [eqn] = getattr(closed, "jaxpr", closed).eqns
    assert isinstance(closed, (core.ClosedJaxpr, core.Jaxpr))
    assert isinstance(eqn.invars[1], core.Literal) and eqn.invars[1].val == 1
    [out] = core.jaxpr_as_fun(closed)(X)
    return out.shape == (3,) and hasattr(closed, "consts")


@canary("jax.core.Tracer and jax.core.eval_jaxpr", "rules, _blame")
def _():
    closed = jax.make_jaxpr(jnp.sin)(X)
    [out] = jax.core.eval_jaxpr(getattr(closed, "jaxpr", closed), [], X)
    seen = []
    jax.jit(lambda x: seen.append(isinstance(x, jax.core.Tracer)) or x)(X)
    return out.shape == (3,) and seen == [True]


@canary("eqn.primitive.get_bind_params and bind", "jaxprs.bind")
def _():
    eqn = equation("integer_pow", lambda x: x**3, X)
    bound = eqn.primitive.get_bind_params(eqn.params)
    params = bound[1] if isinstance(bound, tuple) else bound
    out = eqn.primitive.bind(X, **params)
    return out.shape == (3,) and eqn.primitive.multiple_results is False


@canary("eqn.source_info.traceback.as_python_traceback", "jaxprs.frames")
def _():
    eqn = equation("sin", lambda x: jnp.sin(x), X)
    found = traceback.walk_tb(eqn.source_info.traceback.as_python_traceback())
    return any(frame.f_code.co_filename == __file__ for frame, _ in found)


@canary("frames of a trace are called trace_to_jaxpr...", "jaxprs.frames")
def _():
    seen = []

    def fn(x):
        frame = sys._getframe()
        while frame is not None:
            seen.append(frame.f_code.co_name)
            frame = frame.f_back
        return x

    jax.make_jaxpr(jax.jit(fn))(X)
    return any(n.startswith(("trace_to_jaxpr", "trace_to_subjaxpr")) for n in seen)


@canary("eqn.source_info.name_stack.stack, of Scope and Transform", "jaxprs.name_stack")
def _():
    def fn(x):
        with jax.named_scope("here"):
            return jnp.sum(jnp.sin(x))

    found = {
        (type(item).__name__, item.name)
        for eqn in equations(jax.grad(fn), X)
        for item in eqn.source_info.name_stack.stack
    }
    return {("Scope", "here"), ("Transform", "jvp"), ("Transform", "transpose")} <= (
        found
    )


@canary("rematted_computation in the name stack of remat", "locate.is_recomputed")
def _():
    def names(eqn):
        found = [item.name for item in eqn.source_info.name_stack.stack]
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            for e in getattr(inner, "eqns", ()):
                found += names(e)
        return found

    fn = jax.grad(lambda x: jnp.sum(jax.checkpoint(jnp.sin)(x)))
    found = [name for eqn in equations(fn, X) for name in names(eqn)]
    return any("rematted_computation" in name for name in found)


@canary("eqn.ctx, with compute_type and cur_abstract_mesh", "jaxprs.silenced")
def _():
    eqn = equation("sin", jnp.sin, X)
    new = eqn.replace(ctx=eqn.ctx)
    assert getattr(eqn.ctx, "compute_type", None) is None
    mesh = getattr(eqn.ctx, "cur_abstract_mesh", None)
    assert mesh is None or mesh.empty
    return new.ctx is eqn.ctx and hasattr(eqn.ctx, "manager")


@canary("Jaxpr.replace(eqns=, effects=)", "jaxprs.silenced")
def _():
    closed = jax.make_jaxpr(jnp.sin)(X)
    jaxpr = getattr(closed, "jaxpr", closed)
    return jaxpr.replace(eqns=[], effects=set()).eqns in ([], ())


@canary("set_xla_metadata is a part of the key of JAX's trace cache", "jaxprs")
def _():
    from jax.experimental.xla_metadata import set_xla_metadata

    traces = []
    fn = jax.jit(lambda x: traces.append(1) or x + 1)
    fn(X)
    with set_xla_metadata(vaelab="canary"):
        jax.make_jaxpr(fn)(X)
    return len(traces) == 2


CALLS = {
    "jit": ("jaxpr", jax.jit(jnp.sin)),
    "checkpoint": ("jaxpr", jax.checkpoint(jnp.sin)),
    "custom_jvp_call": ("call_jaxpr", with_jvp),
    "custom_vjp_call": ("call_jaxpr", with_vjp),
}


@canary("the names of calls, and of their bodies", "jaxprs.call_body")
def _():
    old = {"jit": "pjit", "checkpoint": "remat2", "custom_vjp_call": ""}
    for name, (body, fn) in CALLS.items():
        [eqn] = equations(fn, X)
        assert eqn.primitive.name in (name, f"{name}_jaxpr", old.get(name)), eqn
        assert body in eqn.params or "fun_jaxpr" in eqn.params, eqn
    return True


@canary("donated_invars of a jit equation", "jaxprs.bind: or arrays are deleted")
def _():
    [eqn] = equations(jax.jit(lambda x: x + 1, donate_argnums=0), X)
    return eqn.params["donated_invars"] == (True,)


@canary("the parameters of scan", "jaxprs.scan_counts, loops, origins")
def _():
    def fn(x):
        return lax.scan(lambda c, y: (c * 2.0 + y, y), 1.0, x, reverse=True)

    params = equation("scan", fn, X).params
    counts = (
        (params["num_consts"], params["num_carry"])
        if "num_consts" in params
        else tuple(map(len, params["ft_in"].unpack()))[:2]
    )
    assert "jaxpr" in params and params["reverse"] is True and params["length"] == 3
    return counts == (0, 1)


@canary("the parameters of while", "loops, origins")
def _():
    def fn(x):
        return lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, 2 * c[1]), (0, x)
        )

    params = equation("while", fn, X).params
    assert (params["cond_nconsts"], params["body_nconsts"]) == (0, 0)
    return {"cond_jaxpr", "body_jaxpr"} <= params.keys()


@canary("the branches of cond, chosen by its first operand", "interpreter")
def _():
    eqn = equation("cond", lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), X)
    return len(eqn.params["branches"]) == 2 and len(eqn.invars) == 2


@canary("the parameters of shard_map", "shards")
def _():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))
    spec = jax.sharding.PartitionSpec("i")
    fn = jax.shard_map(jnp.sin, mesh=mesh, in_specs=spec, out_specs=spec)
    params = equation("shard_map", fn, X).params
    assert "manual_axes" in params or "newly_manual_axes" in params
    assert params["mesh"].axis_names == ("i",)
    return tuple(params["in_specs"]) == (spec,) and "jaxpr" in params


@canary("custom_vjp.bwd, custom_jvp.jvp, and their __call__", "rules")
def _():
    assert callable(with_vjp.bwd) and callable(with_jvp.jvp)
    assert "__call__" in vars(jax.custom_vjp) and "__call__" in vars(jax.custom_jvp)
    twin = object.__new__(type(with_vjp))
    vars(twin).update(vars(with_vjp) | {"bwd": lambda _, g: (3 * g,)})
    assert float(jax.grad(jax.custom_vjp.__call__, 1)(twin, 1.0)) == 3
    return float(jax.grad(with_vjp)(1.0)) == 2


@canary("names of elementwise primitives", "events, tiles, causes, clamp")
def _():
    functions = {
        "acos": jnp.arccos,
        "acosh": jnp.arccosh,
        "asin": jnp.arcsin,
        "atan2": lambda x: jnp.arctan2(x, x),
        "atanh": jnp.arctanh,
        "digamma": lax.digamma,
        "div": lambda x: x / x,
        "erf_inv": lax.erf_inv,
        "exp": jnp.exp,
        "exp2": jnp.exp2,
        "expm1": jnp.expm1,
        "integer_pow": lambda x: x**3,
        "lgamma": lax.lgamma,
        "log": jnp.log,
        "log1p": jnp.log1p,
        "logistic": jax.nn.sigmoid,
        "pow": lambda x: x**0.3,
        "rsqrt": lax.rsqrt,
        "select_n": lambda x: lax.select(x > 0, x, x),
        "sqrt": jnp.sqrt,
        "tanh": jnp.tanh,
    }
    for name, fn in functions.items():
        todo = list(equations(fn, X))
        names = set()
        while todo:
            eqn = todo.pop()
            names.add(eqn.primitive.name)
            for value in eqn.params.values():
                todo += getattr(getattr(value, "jaxpr", value), "eqns", ())
        assert name in names, f"{name} is now one of {sorted(names)}"
    return equation("integer_pow", lambda x: x**3, X).params["y"] == 3


def frames_of_a_failing(fn, *args):
    """Module, name and locals of the frames below which JAX's check raised."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "tracebackhide")  # as nan_guard does
    with jax.debug_nans(True):
        try:
            fn(*args)
        except FloatingPointError as error:
            jax.config.update("jax_traceback_filtering", before)
            found = traceback.walk_tb(error.__traceback__)
            return [
                (f.f_globals.get("__name__", ""), f.f_code.co_name, f.f_locals)
                for f, _ in found
            ]
    raise AssertionError("jax.debug_nans raised nothing")


@canary("cache_miss with fun, args, kwargs, jit_info in jax.jit", "_blame: nan_guard")
def _():
    frames = frames_of_a_failing(jax.jit(jnp.log), -X)
    found = [local for _, name, local in frames if name == "cache_miss"]
    return all({"fun", "args", "kwargs", "jit_info"} <= set(f) for f in found[:1])


@canary("value_and_grad_f with fun, argnums, has_aux", "_blame: nan_guard")
def _():
    frames = frames_of_a_failing(jax.grad(lambda x: jnp.log(-x)), 1.0)
    [local, *_] = [local for _, name, local in frames if name == "value_and_grad_f"]
    return {"fun", "argnums", "has_aux", "args", "kwargs"} <= set(local)


@canary("vmap_f with fun, in_axes, out_axes, axis_name, axis_size", "_blame: nan_guard")
def _():
    frames = frames_of_a_failing(jax.vmap(lambda x: jnp.log(-x)), X)
    [local, *_] = [local for _, name, local in frames if name == "vmap_f"]
    return {"fun", "in_axes", "out_axes", "axis_name", "axis_size"} <= set(local)


@canary("a frame of flax.nnx with the jitted function in nnx.jit", "_blame: nan_guard")
def _():
    frames = frames_of_a_failing(nnx.jit(lambda x: jnp.log(-x)), X)
    found = [
        name
        for module, name, local in frames
        if module.startswith("flax.nnx")
        and (
            (name == "__call__" and hasattr(local.get("self"), "jitted_fn"))
            or (name == "update_context_manager_wrapper" and "f" in local)
        )
    ]
    return bool(found)


@canary("jax.config.jax_traceback_filtering", "guard")
def _():
    return jax.config.jax_traceback_filtering in ("auto", "off", "tracebackhide")


@canary("jax.enable_x64, in jax.experimental before jax 0.8", "verify")
def _():
    context = getattr(jax, "enable_x64", None)
    if context is None:
        context = importlib.import_module("jax.experimental").enable_x64
    with context(True):
        return jnp.ones(1).dtype == np.float64


@canary("jax.random.key_impl, key_data, wrap_key_data", "crash")
def _():
    key = jax.random.key(3)
    data = jax.random.key_data(key)
    again = jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(key)))
    return again.dtype == key.dtype


@canary("Array.weak_type, is_deleted, sharding.device_set", "crash, _arguments")
def _():
    x = jnp.asarray(2.0)
    assert x.weak_type and not x.is_deleted()
    return len(x.sharding.device_set) == 1


class Net(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(2, 3, rngs=nnx.Rngs(0))


@canary("nnx.merge(..., copy=True), also in nnx.graph", "call, modules")
def _():
    net = Net()
    graphdef, state = nnx.split(net)
    again = nnx.merge(graphdef, state, copy=True)
    assert "merge" in vars(nnx) and "merge" in vars(nnx.graph)
    return again is not net and again.linear.kernel.shape == (2, 3)


@canary("an own attribute of a module survives split and merge", "modules")
def _():
    net = Net()
    object.__setattr__(net, "_vaelab_debug_path", "net")
    again = nnx.merge(*nnx.split(net))
    return vars(again).get("_vaelab_debug_path") == "net"


@canary("nnx.iter_graph yields paths and variables", "_arguments, crash")
def _():
    found = {path: part for path, part in nnx.iter_graph(Net())}
    return isinstance(found["linear", "kernel"], nnx.Variable)


@canary(
    "nnx.Variable.get_raw_value, set_raw_value, before 0.12 raw_value", "_arguments"
)
def _():
    variable = nnx.Param(jnp.ones(2))
    if hasattr(nnx.Variable, "get_raw_value"):
        variable.set_raw_value(jnp.zeros(2))
        return not variable.get_raw_value().any()
    variable.raw_value = jnp.zeros(2)
    return not variable.raw_value.any()


@canary("nnx.Pytree as the base of modules, optimizers and Rngs", "_arguments, modules")
def _():
    bases = nnx.Module, nnx.Optimizer, nnx.Rngs
    return all(issubclass(base, nnx.Pytree) for base in bases)


@pytest.mark.parametrize("name", CANARIES)
def test_what_debug_needs_is_there(name):
    needed_by, check = CANARIES[name]
    problem = f"{name}: vanished or changed its shape; needed by {needed_by}"
    try:
        unchanged = check()
    except Exception as error:  # a vanished name raises whatever it raises
        raise AssertionError(f"{problem} ({error!r})") from error
    assert unchanged, problem


def test_a_dead_canary_is_named():
    """A name that vanished is in the message, with who needs it."""
    CANARIES["jax.gone"] = "nobody", lambda: jax.gone
    try:
        with pytest.raises(
            AssertionError, match="jax.gone: vanished.*needed by nobody"
        ):
            test_what_debug_needs_is_there("jax.gone")
    finally:
        del CANARIES["jax.gone"]
