"""Why is a result NaN? Run the call again, one operation at a time, and see.

`explain` takes a function and its arguments, like a call. It first makes the call as it
is, compiled. If every output is finite there is nothing to explain. Otherwise it runs
the operations one by one and follows each NaN and Inf from the operation that made it
to the outputs, so that a NaN which is masked on the way is no cause.
"""

import contextlib
import dataclasses
import functools
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from flax.errors import TraceContextError
from jax.extend import core

from vaelab.debug._attempt import attempt
from vaelab.debug._diagnosis.writing import write_report
from vaelab.debug._lineage.chains import Story, steered, stories
from vaelab.debug._lineage.findings import Findings
from vaelab.debug._lineage.origins import Origins
from vaelab.debug._replay.arrays import kinds, summary
from vaelab.debug._replay.events import CLEAN, Event, Events, Source, Taint
from vaelab.debug._replay.interpreter import Replay
from vaelab.debug._trace.call import PureCall
from vaelab.debug._trace.jaxprs import fresh_traces, open_jaxpr, silenced
from vaelab.debug._trace.locate import Frame, is_user_file
from vaelab.debug._trace.modules import module_scopes
from vaelab.debug._trace.patches import Patch, patched
from vaelab.debug._trace.rules import rules_with_lines
from vaelab.debug._verify.advice import advised
from vaelab.debug.report import NonFiniteReport

__all__ = ["explain"]


def explain(
    fn: Callable[..., Any], *args: Any, verify: bool = True, **kwargs: Any
) -> NonFiniteReport | None:
    """Says where the NaNs and Infs in the outputs of `fn(*args, **kwargs)` come from.

    Nothing of the caller's is changed: parameters, optimizer states and the counts of
    random streams stay as they are, donated arrays stay alive, and callbacks that print
    or write are not run; zeros stand in for what `io_callback` would return.

    Args:
        fn: any function of arrays that JAX can trace: plain, `jax.jit`, `nnx.jit`,
            `jax.grad`, an NNX module, a whole train step.
        *args: its arguments: pytrees, NNX modules, optimizers, `nnx.Rngs`.
        verify: whether to try the advice before it is given: the line that failed is
            rewritten, forward and backward pass are run again, and the first way to
            write it that keeps everything finite is recommended. Without it the advice
            is general.
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
    if not callable(fn):
        raise TypeError(
            f"fn is a {type(fn).__name__}: give the function itself, and its arguments "
            "after it, as in explain(loss, x)"
        )
    if not isinstance(verify, bool):
        raise TypeError(f"verify is {verify!r}: give True or False")
    call = PureCall(fn, args, kwargs)
    with jax.debug_nans(False), jax.debug_infs(False):
        found = _investigated(call)
        if found is None:
            return None
        report = write_report(found)
        if verify:
            report = advised(report, found)
        elif found.besides:
            advice = f"{report.advice} {found.besides}"
            report = dataclasses.replace(report, advice=advice)
    return dataclasses.replace(report, notes=tuple(dict.fromkeys(found.problems)))


def _investigated(
    call: PureCall, key: str = "explain", *, compiled: bool = True
) -> Findings | None:
    """All that is to be known of a call; None if nothing is wrong with it.

    Args:
        call: the call.
        key: functions that were traced under another key are traced anew.
        compiled: whether what the compiled call returns counts; else what its
            operations do one by one, which are compiled already.
    """
    problems: list[str] = []
    traced = _traced(call, key, problems)
    closed, skipped = attempt(lambda: silenced(traced), (traced, False), problems)
    if skipped:
        problems.append("io_callback was not run: it counts as zeros")
    run = jax.jit(core.jaxpr_as_fun(closed))
    outs = run(*call.leaves) if compiled else _one_by_one(closed, call.leaves)
    bad = [any(kinds(out)) for out in outs]
    if not any(bad):
        return None
    lineage = attempt(lambda: _lineage(call, closed, bad, outs), None, problems)
    if lineage is None:
        lineage = _without_lineage(call, closed, bad, outs)
    if not lineage.suspects:
        return None
    returned = [
        (path, summary(out))
        for path, state, out in zip(call.out_paths, call.out_states, outs, strict=True)
        if state is None
    ]
    paths = [call.out_paths[k] for k in lineage.suspects]
    told = stories(paths, lineage.taints, lineage.events)
    if told[0].root.is_constant:
        found = attempt(
            lambda: _steered(call, closed, told[0], lineage), None, problems
        )
        told = [found, *told[1:]] if found is not None else told
    return Findings(
        call,
        closed,
        outs,
        bad,
        lineage.suspects,
        lineage.events,
        told,
        returned,
        run,
        functools.partial(_investigated, call, compiled=False),
        problems,
    )


def _one_by_one(closed: Any, leaves: list[Any]) -> list[Any]:
    jaxpr, consts = open_jaxpr(closed)
    return Replay().run(Frame(jaxpr), consts, leaves, [CLEAN] * len(leaves))[0]


def _traced(call: PureCall, key: str, problems: list[str]) -> Any:
    """The call as a jaxpr whose equations know the user's lines and modules."""
    try:
        with fresh_traces(key), contextlib.ExitStack() as stack:
            attempt(lambda: stack.enter_context(patched(_patches)), None, problems)
            return jax.make_jaxpr(call.flat)(call.leaves)
    except TraceContextError as error:
        error.add_note(
            "explain: fn changes an NNX object that is not among its arguments, "
            "such as a model with dropout or its Rngs; pass it as an argument"
        )
        raise
    except Exception as error:
        if not _is_our_own(error):
            raise
        problems.append(f"the names of modules and rules are missing: {error!r:.300}")
    with fresh_traces(key):
        return jax.make_jaxpr(call.flat)(call.leaves)


def _is_our_own(error: BaseException) -> bool:
    """Whether an error was raised by the debugger itself."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return not is_user_file(frame.f_code.co_filename) and (
        frame.f_globals.get("__name__", "").startswith("vaelab.debug")
    )


def _steered(
    call: PureCall, closed: Any, story: Story, lineage: "_Lineage"
) -> Story | None:
    """Why a program returns a NaN of its own: a comparison was asked about another."""
    asked = lineage.asked
    if not asked:
        jaxpr, consts = open_jaxpr(closed)
        sources = [_source(i, x, call.paths[i]) for i, x in enumerate(call.leaves)]
        events = Events()
        replay = Replay(events=events, curious=True)
        replay.run(Frame(jaxpr), consts, call.leaves, sources)
        asked = events.steering
        lineage.events.extend(events.found.values())
    return steered(story, asked)


class _Lineage(NamedTuple):
    """The outputs that count, what each descends from, and all that happened."""

    suspects: list[int]
    taints: list[Taint]
    events: list[Event]
    asked: Taint = CLEAN


def _lineage(call: PureCall, closed: Any, bad: list[bool], outs: list[Any]) -> _Lineage:
    """Runs the operations one by one."""
    jaxpr, consts = open_jaxpr(closed)
    sources = [_source(i, x, call.paths[i]) for i, x in enumerate(call.leaves)]
    events = Events()
    top = Frame(jaxpr)
    values, taints = Replay(events=events).run(top, consts, call.leaves, sources, bad)
    found: dict[int, Taint] = {}
    for k, taint in enumerate(taints):
        if not bad[k] or _unchanged(taint, call.out_states[k]):
            continue
        if taint:
            found[k] = events.returned(top, taint, values[k])
        else:
            made = Origins(call.paths).definition(top, jaxpr.outvars[k])
            found[k] = events.compiled_result(made.frame, made.eqn, outs[k])
    happened = list(events.found.values())
    return _Lineage(list(found), list(found.values()), happened, events.steering)


def _without_lineage(
    call: PureCall, closed: Any, bad: list[bool], outs: list[Any]
) -> _Lineage:
    """The next best: only where each non-finite output was computed."""
    jaxpr, _ = open_jaxpr(closed)
    events, top = Events(), Frame(jaxpr)
    found: dict[int, Taint] = {}
    for k in [k for k, is_bad in enumerate(bad) if is_bad]:
        made = Origins(call.paths).definition(top, jaxpr.outvars[k])
        found[k] = events.compiled_result(made.frame, made.eqn, outs[k])
    return _Lineage(list(found), list(found.values()), list(events.found.values()))


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
