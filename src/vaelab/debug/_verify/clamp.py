"""A call run again with operands kept away from where their operations fail."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vaelab.debug._replay.events import Event
from vaelab.debug._trace.jaxprs import (
    bind,
    call_body,
    inner_jaxprs,
    is_literal,
    open_jaxpr,
    scan_counts,
)

__all__ = ["clamped_outputs"]

Clamp = Callable[[list[Any]], list[Any]]


def clamped_outputs(
    closed: Any, leaves: list[Any], events: list[Event]
) -> list[Any] | None:
    """The outputs of a call in which the operations of all events are clamped.

    Args:
        closed: the call's jaxpr.
        leaves: its arguments.
        events: what failed.

    Returns:
        The outputs, or None if there is no clamp for one of the operations.

    Raises:
        NotImplementedError: one of them is somewhere that cannot be rebuilt.
    """
    clamps: dict[int, Clamp] = {}
    for event in events:
        clamp = _CLAMPS.get(event.primitive)
        if event.eqn is None or event.source is not None or clamp is None:
            return None
        clamps[id(event.eqn)] = clamp
    jaxpr, consts = open_jaxpr(closed)

    def run(args: list[Any]) -> list[Any]:
        return _Rebuilt(clamps).run(jaxpr, consts, args)

    return jax.jit(run)(list(leaves))


class _Rebuilt:
    """Runs a jaxpr; what contains a clamped operation is built anew."""

    def __init__(self, clamps: dict[int, Clamp]) -> None:
        self.clamps = clamps

    def run(self, jaxpr: Any, consts: list[Any], args: list[Any]) -> list[Any]:
        env = dict(
            zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)
        )

        def read(atom: Any) -> Any:
            return atom.val if is_literal(atom) else env[atom]

        for eqn in jaxpr.eqns:
            outs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def concerns(self, eqn: Any) -> bool:
        """Whether an equation is clamped, or has one inside that is."""
        if id(eqn) in self.clamps:
            return True
        return any(
            self.concerns(inner) for jaxpr in inner_jaxprs(eqn) for inner in jaxpr.eqns
        )

    def equation(self, eqn: Any, ins: list[Any]) -> list[Any]:
        """Runs one equation."""
        if not self.concerns(eqn):
            return bind(eqn, ins)
        if id(eqn) in self.clamps:
            return bind(eqn, self.clamps[id(eqn)](ins))
        body = call_body(eqn)
        if body is not None:
            return self.run(*body, ins)
        name = eqn.primitive.name
        if name == "cond":
            branches = [self.function(closed) for closed in eqn.params["branches"]]
            return list(lax.switch(ins[0], branches, *ins[1:]))
        if name == "scan":
            return self.scan(eqn, ins)
        if name == "while":
            return self.while_loop(eqn, ins)
        raise NotImplementedError(name)

    def function(self, closed: Any) -> Callable[..., list[Any]]:
        """A jaxpr as a function."""
        jaxpr, consts = open_jaxpr(closed)
        return lambda *args: self.run(jaxpr, consts, list(args))

    def scan(self, eqn: Any, ins: list[Any]) -> list[Any]:
        """A scan, with its body built anew."""
        num_consts, num_carry = scan_counts(eqn)
        split = num_consts + num_carry
        body = self.function(eqn.params["jaxpr"])

        def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
            outs = body(*ins[:num_consts], *carry, *xs)
            return outs[:num_carry], outs[num_carry:]

        length, reverse = eqn.params["length"], eqn.params["reverse"]
        carry = _typed(ins[num_consts:split], eqn.outvars)
        carry, ys = lax.scan(step, carry, ins[split:], length=length, reverse=reverse)
        return [*carry, *ys]

    def while_loop(self, eqn: Any, ins: list[Any]) -> list[Any]:
        """A while loop, with its body built anew."""
        params = eqn.params
        in_cond, in_body = params["cond_nconsts"], params["body_nconsts"]
        split = in_cond + in_body
        cond, body = (
            self.function(params["cond_jaxpr"]),
            self.function(params["body_jaxpr"]),
        )
        return list(
            lax.while_loop(
                lambda carry: cond(*ins[:in_cond], *carry)[0],
                lambda carry: body(*ins[in_cond:split], *carry),
                _typed(ins[split:], eqn.outvars),
            )
        )


def _typed(values: list[Any], variables: list[Any]) -> list[Any]:
    """What a loop carries, with the types that its body returns."""
    return [
        jnp.asarray(value, variable.aval.dtype)
        if jnp.issubdtype(variable.aval.dtype, jnp.number)
        else value
        for value, variable in zip(values, variables, strict=False)
    ]


def _eps(x: Any) -> Any:
    return jnp.asarray(jnp.finfo(jnp.result_type(x)).eps, jnp.result_type(x))


def _above(low: float) -> Clamp:
    return lambda ins: [jnp.maximum(ins[0], low + _eps(ins[0])), *ins[1:]]


def _inside(ins: list[Any]) -> list[Any]:
    edge = 1 - 2 * _eps(ins[0])
    return [jnp.clip(ins[0], -edge, edge)]


def _not_zero(x: Any) -> Any:
    eps = _eps(x)
    return jnp.where(jnp.abs(x) < eps, jnp.where(x < 0, -eps, eps), x)


def _divisor(ins: list[Any]) -> list[Any]:
    return [ins[0], _not_zero(ins[1])]


def _exponent(ins: list[Any]) -> list[Any]:
    limit = jnp.log(jnp.finfo(jnp.result_type(ins[0])).max) * 0.4
    return [jnp.minimum(ins[0], limit.astype(jnp.result_type(ins[0])))]


_CLAMPS: dict[str, Clamp] = {
    "acos": _inside,
    "acosh": _above(1),
    "asin": _inside,
    "atanh": _inside,
    "div": _divisor,
    "exp": _exponent,
    "exp2": _exponent,
    "expm1": _exponent,
    "integer_pow": lambda ins: [_not_zero(ins[0])],
    "log": _above(0),
    "log1p": _above(-1),
    "pow": _above(0),
    "rsqrt": _above(0),
    "sqrt": _above(0),
}
