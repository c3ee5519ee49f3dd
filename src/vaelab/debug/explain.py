"""Why is a result NaN? Run the call again, one operation at a time, and see.

`explain` takes a function and its arguments, like a call. It first makes the call as it
is, compiled. If every output is finite there is nothing to explain. Otherwise it runs
the operations one by one and follows each NaN and Inf from the operation that made it
to the outputs, so that a NaN which is masked on the way is no cause.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax.errors import TraceContextError
from jax.extend import core

from vaelab.debug._diagnosis.writing import Findings, write_report
from vaelab.debug._lineage.chains import stories
from vaelab.debug._lineage.origins import Origins
from vaelab.debug._replay.arrays import kinds, summary
from vaelab.debug._replay.events import CLEAN, Events, Source
from vaelab.debug._replay.interpreter import Replay
from vaelab.debug._trace.call import PureCall
from vaelab.debug._trace.jaxprs import fresh_traces, open_jaxpr, silenced
from vaelab.debug._trace.locate import Frame
from vaelab.debug._trace.modules import module_scopes
from vaelab.debug._trace.patches import Patch, patched
from vaelab.debug._trace.rules import rules_with_lines
from vaelab.debug._verify.verify import verified
from vaelab.debug.report import NonFiniteReport

__all__ = ["explain"]


def explain(
    fn: Callable[..., Any], *args: Any, verify: bool = False, **kwargs: Any
) -> NonFiniteReport | None:
    """Says where the NaNs and Infs in the outputs of `fn(*args, **kwargs)` come from.

    Nothing of the caller's is changed: parameters, optimizer states and the counts of
    random streams stay as they are, donated arrays stay alive, and callbacks that print
    or write are not run; zeros stand in for what `io_callback` would return.

    Args:
        fn: any function of arrays that JAX can trace: plain, `jax.jit`, `nnx.jit`,
            `jax.grad`, an NNX module, a whole train step.
        *args: its arguments: pytrees, NNX modules, optimizers, `nnx.Rngs`.
        verify: whether to replay the call further: in float64, for each row of the
            batch, and with the operand that fails clamped.
        **kwargs: its keyword arguments.

    Returns:
        The report, or None if all outputs of the compiled call, and all state that it
        changes, are finite.

    Raises:
        jax.errors.JAXTypeError: `fn` cannot be traced, for example because it turns
            an array into a Python number.
        flax.errors.TraceContextError: `fn` changes an NNX object that is not among its
            arguments.

    >>> import jax, jax.numpy as jnp
    >>> def loss(x):
    ...     return jnp.sum(jnp.sqrt(x))
    >>> explain(loss, jnp.zeros(2)) is None
    True
    >>> report = explain(jax.grad(loss), jnp.zeros(2))
    >>> report.kind, report.primitive, report.direction, report.source
    ('inf', 'div', 'backward', 'return jnp.sum(jnp.sqrt(x))')
    """
    call = PureCall(fn, args, kwargs)
    with jax.debug_nans(False), jax.debug_infs(False):
        try:
            with fresh_traces(), patched(_patches):
                closed = jax.make_jaxpr(call.flat)(call.leaves)
        except TraceContextError as error:
            error.add_note(
                "explain: fn changes an NNX object that is not among its arguments, "
                "such as a model with dropout or its Rngs; pass it as an argument"
            )
            raise
        closed, skipped = silenced(closed)
        outs = jax.jit(core.jaxpr_as_fun(closed))(*call.leaves)
        bad = [any(kinds(out)) for out in outs]
        if not any(bad):
            return None
        returned = [
            (path, summary(out))
            for path, state, out in zip(
                call.out_paths, call.out_states, outs, strict=True
            )
            if state is None
        ]
        spoilt = {k: out for k, out in enumerate(outs) if bad[k]}
        del outs
        jaxpr, consts = open_jaxpr(closed)
        sources = [_source(i, x, call.paths[i]) for i, x in enumerate(call.leaves)]
        events = Events()
        replay = Replay(events=events)
        top = Frame(jaxpr)
        values, taints = replay.run(top, consts, call.leaves, sources, bad)
        found = []
        for k, taint in enumerate(taints):
            if not bad[k] or _unchanged(taint, call.out_states[k]):
                continue
            if taint:
                taint = events.returned(top, taint, values[k])
            else:
                made = Origins(call.paths).definition(top, jaxpr.outvars[k])
                taint = events.compiled_result(made.frame, made.eqn, spoilt[k])
            found.append((k, call.out_paths[k], taint))
        if not found:
            return None
        suspects, *outputs = map(list, zip(*found, strict=True))
        happened = list(events.found.values())
        findings = Findings(
            call, closed, bad, suspects, happened, stories(*outputs), returned
        )
        report = write_report(findings)
        if skipped:
            cause = f"{report.cause} (io_callback was not run: it counts as zeros.)"
            report = dataclasses.replace(report, cause=cause)
        return verified(report, findings) if verify else report


def _patches() -> Iterator[Patch]:
    yield from module_scopes()
    yield from rules_with_lines()


def _source(leaf: int, value: Any, path: str) -> frozenset[Any]:
    nan, inf = kinds(value)
    if not (nan or inf):
        return CLEAN
    return frozenset({Source("nan" if nan else "inf", path, leaf)})


def _unchanged(taint: frozenset[Any], state: int | None) -> bool:
    """Whether an output is a state of an NNX object that was bad, and was not used."""
    return bool(taint) and all(
        isinstance(item, Source) and state is not None and item.leaf == state
        for item in taint
    )
