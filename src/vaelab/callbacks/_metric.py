"""Which value of a metric is better."""

import math
from typing import TYPE_CHECKING, Any

from vaelab._arguments import shown

if TYPE_CHECKING:
    from vaelab.training import Run


def last_score(metric: str, run: "Run", mode: str | None = None) -> float:
    """Returns the last value of a metric, turned so that more is better.

    NaN and Inf are the worst there is.
    """
    value = run.history[metric][-1]
    if not math.isfinite(value):
        return -math.inf
    return value if (mode or known_mode(metric)) == "max" else -value


def known_mode(metric: str) -> str | None:
    """Whether a metric shall be high or low; None if its name does not say so."""
    name = metric.removeprefix("validation_")
    if name.endswith("elbo"):
        return "max"
    return "min" if name.endswith(("loss", "reconstruction", "kl")) else None


def checked_mode(mode: Any) -> str | None:
    """Refuses what is no direction."""
    if not (mode is None or isinstance(mode, str) and mode in ("min", "max")):
        raise ValueError(f"mode is {shown(mode)}: give 'min', 'max' or None")
    return mode


def require_mode(metric: str, mode: str | None) -> None:
    """Refuses a metric of one's own whose better values are anyone's guess."""
    if mode is None and known_mode(metric) is None:
        raise ValueError(
            f"metric is {metric!r}, and its name does not say whether it shall be high "
            "or low: give mode='max' or mode='min'"
        )


def checked_metric(metric: Any) -> str:
    """Refuses what is no name."""
    if not isinstance(metric, str):
        raise TypeError(
            f"metric is {shown(metric)}: give a name from the history, such as "
            "'validation_elbo'"
        )
    return metric
