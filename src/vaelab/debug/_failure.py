"""The errors for the first step of a training run that went wrong."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vaelab.debug._leaps import Leap
from vaelab.debug.explain import explain
from vaelab.debug.report import NonFiniteError
from vaelab.debug.spikes import Call, LossSpikeError, explain_spike


def failure_of_step(
    number: int,
    step: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
) -> NonFiniteError:
    """Explains a step, and returns the error to raise.

    Args:
        number: of the step.
        step: the function.
        args: what it was given, with all state as it was before it.
        kwargs: likewise.
    """
    try:
        report = explain(step, *args, **(kwargs or {}))
        why = str(report) if report else "explain() finds all of its outputs finite"
    except Exception as problem:  # the error must come through, explained or not
        report, why = None, f"explain() failed: {problem!r}"
    message = f"step {number} is the first with something non-finite\n{why}"
    return NonFiniteError(message, report=report, step=number)


def leap_of_step(
    number: int,
    step: Callable[..., Any],
    leap: Leap,
    call: Call,
    before: Call | None,
) -> LossSpikeError:
    """Explains a step whose loss leaps, and returns the error to raise.

    Args:
        number: of the step.
        step: the function.
        leap: its loss.
        call: what it was given, with all state as it was before it.
        before: the same for the step before it, if that is known.
    """
    try:
        report = explain_spike(step, leap, call, before)
        why = str(report)
    except Exception as problem:  # the error must come through, explained or not
        report, why = None, f"there is no explanation: {problem!r}"
    message = f"the loss leaps in step {number}\n{why}"
    return LossSpikeError(message, report=report, step=number)
