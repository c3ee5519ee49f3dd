"""Access to JAX's intermediate representation, the one part that depends on versions.

Everything here uses `jax.extend.core` and attributes of equations that JAX does not
promise to keep. Known to work from jax 0.7.2 to 0.12; an unknown layout raises
`UnknownJAX` with the version's number.
"""

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core

__all__ = [
    "CALLBACKS",
    "UnknownJAX",
    "bind",
    "call_body",
    "fresh_traces",
    "frames",
    "inner_jaxprs",
    "is_literal",
    "name_stack",
    "open_jaxpr",
    "operations",
    "raw_frames",
    "scan_counts",
    "silenced",
]

CALLBACKS = frozenset({"debug_callback", "debug_print", "io_callback"})

# Equations that run one inner jaxpr once, on the equation's own operands.
_CALLS = frozenset(
    {
        "checkpoint",
        "closed_call",
        "core_call",
        "core_closed_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "jit",
        "pjit",
        "remat",
        "remat2",
    }
)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class UnknownJAX(RuntimeError):
    """This version of JAX lays out its jaxprs in a way that is not known here."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"vaelab.debug does not know {what} of jax {jax.__version__}: it knows jax "
            "0.7.2 to 0.12; please report this"
        )


def open_jaxpr(jaxpr: Any) -> tuple[Any, list[Any]]:
    """Splits a closed jaxpr, or one of 0.12 that is both, into a jaxpr and consts."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    if not hasattr(inner, "eqns"):
        raise UnknownJAX("the jaxprs")
    return inner, list(getattr(jaxpr, "consts", ()) or ())


def is_literal(atom: Any) -> bool:
    """Whether an operand is a constant written into the equation."""
    return isinstance(atom, core.Literal)


def call_body(eqn: Any) -> tuple[Any, list[Any]] | None:
    """The jaxpr and consts that a call such as `jit` runs; None for other equations."""
    if eqn.primitive.name not in _CALLS:
        return None
    for key in _BODIES:
        if key in eqn.params:
            jaxpr, consts = open_jaxpr(eqn.params[key])
            return (jaxpr, consts) if len(jaxpr.invars) == len(eqn.invars) else None
    return None


def inner_jaxprs(eqn: Any) -> list[Any]:
    """The open jaxprs among an equation's parameters."""
    found = []
    for value in eqn.params.values():
        values = value if isinstance(value, (tuple, list)) else [value]
        found += [open_jaxpr(v)[0] for v in values if _is_jaxpr(v)]
    return found


def operations(jaxpr: Any) -> int:
    """How many equations a jaxpr has, those of the jaxprs inside of them included."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [open_jaxpr(body)[0] for body in inner_jaxprs(eqn)]
        total += 1 + sum(map(operations, inner))
    return total


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried."""
    params = eqn.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    if "ft_in" in params:  # from 0.12
        consts, carry, _ = map(len, params["ft_in"].unpack())
        return consts, carry
    raise UnknownJAX("the parameters of scan")


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Runs one equation, outside of the checks of `jax.debug_nans`."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    # A tuple of functions and parameters before 0.12, the parameters alone from there.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    if any(params.get("donated_invars", ())):  # a replay must not delete arrays
        kept = (False,) * len(params["donated_invars"])
        params = dict(params, donated_invars=kept)
    outs = eqn.primitive.bind(*functions, *operands, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def name_stack(eqn: Any) -> list[tuple[bool, str]]:
    """The equation's names, outermost first, and whether each is a transformation."""
    stack = eqn.source_info.name_stack.stack
    return [(type(item).__name__ == "Transform", item.name) for item in stack]


def frames(eqn: Any) -> list[tuple[str, int, str]]:
    """File, line and function of each Python frame of an equation, innermost first.

    Only frames inside of the jaxpr's own trace count: jax 0.7.2 also keeps those of
    whoever traced a cached function first, which may be quite another line.
    """
    trace = eqn.source_info.traceback
    return list(_frames(trace)) if trace is not None else []


def raw_frames(eqn: Any) -> list[tuple[Any, int]]:
    """Code object and instruction of each frame that `frames` names."""
    trace = eqn.source_info.traceback
    if trace is None or not hasattr(trace, "raw_frames"):
        return []
    codes, instructions = trace.raw_frames()  # innermost first
    return list(zip(codes, instructions, strict=True))[: len(frames(eqn))]


@lru_cache(maxsize=4096)
def _frames(trace: Any) -> tuple[tuple[str, int, str], ...]:
    found = []
    for frame, line in traceback.walk_tb(trace.as_python_traceback()):
        code = frame.f_code
        if code.co_name.startswith("trace_to_jaxpr") or (
            code.co_name.startswith("trace_to_subjaxpr")
        ):
            found.clear()
        found.append((code.co_filename, line, code.co_qualname))
    return tuple(reversed(found))


@contextlib.contextmanager
def fresh_traces(key: str = "explain") -> Iterator[None]:
    """Functions traced inside are traced anew, and forgotten outside.

    Args:
        key: traces with another key are others.

    Otherwise JAX would reuse what it traced before, which lacks the names of modules.
    The metadata is part of the key under which JAX remembers traces.
    """
    with set_xla_metadata(vaelab=key):
        yield


def silenced(closed: Any) -> tuple[Any, bool]:
    """A closed jaxpr without callbacks, and without the mark of `fresh_traces`.

    Returns:
        The jaxpr, and whether callbacks with results were among them; zeros stand in
        for those results.
    """
    plain = jax.make_jaxpr(lambda x: x + 1)(0)
    context = open_jaxpr(plain)[0].eqns[0].ctx
    silencer = _Silencer(context)
    return silencer.closed(closed), silencer.skipped


class _Silencer:
    def __init__(self, context: Any) -> None:
        self.context = context
        self.done: dict[int, Any] = {}
        self.skipped = False

    def closed(self, closed: Any) -> Any:
        if id(closed) not in self.done:
            if getattr(closed, "jaxpr", closed) is closed:  # from 0.12
                new = self.jaxpr(closed)
            else:
                new = closed.replace(jaxpr=self.jaxpr(closed.jaxpr))
            self.done[id(closed)] = (new, closed)  # closed: keeps its id taken
        return self.done[id(closed)][0]

    def jaxpr(self, jaxpr: Any) -> Any:
        eqns = [new for eqn in jaxpr.eqns for new in self.eqns(eqn)]
        effects = jaxpr.effects
        if effects:
            effects = set().union(*(eqn.effects for eqn in eqns))
        return jaxpr.replace(eqns=eqns, effects=effects)

    def eqns(self, eqn: Any) -> list[Any]:
        if eqn.primitive.name in CALLBACKS:
            self.skipped |= bool(eqn.outvars)
            return [_zeros(variable) for variable in eqn.outvars]
        return [self.eqn(eqn)]

    def eqn(self, eqn: Any) -> Any:
        changes: dict[str, Any] = {}
        effects: set[Any] = set()
        for key, value in eqn.params.items():
            many = isinstance(value, (tuple, list))
            values = list(value) if many else [value]
            if not any(map(_is_jaxpr, values)):
                continue
            values = [self.value(v) for v in values]
            effects = effects.union(*(v.effects for v in values if _is_jaxpr(v)))
            changes[key] = _like(value, values) if many else values[0]
        context = eqn.ctx
        if _is_ordinary(context):
            context = self.context
        if not changes:
            return eqn.replace(ctx=context)
        params = dict(eqn.params, **changes)
        if not eqn.effects:
            return eqn.replace(params=params, ctx=context)
        return eqn.replace(params=params, ctx=context, effects=effects)

    def value(self, value: Any) -> Any:
        if isinstance(value, core.ClosedJaxpr) and hasattr(value, "consts"):
            return self.closed(value)
        return self.jaxpr(value) if isinstance(value, core.Jaxpr) else value


def _like(old: Any, values: list[Any]) -> Any:
    """A list, a tuple or a named tuple of other values."""
    return old._make(values) if hasattr(old, "_make") else type(old)(values)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))


def _zeros(variable: Any) -> Any:
    """An equation that sets a variable to zeros."""
    shape, dtype = variable.aval.shape, variable.aval.dtype

    zeros = jax.jit(lambda: jnp.zeros(shape, dtype))
    [eqn] = open_jaxpr(jax.make_jaxpr(zeros)())[0].eqns
    return eqn.replace(outvars=[variable])


def _is_ordinary(context: Any) -> bool:
    mesh = getattr(context, "cur_abstract_mesh", None)
    return getattr(context, "compute_type", None) is None and (
        mesh is None or getattr(mesh, "empty", True)
    )
