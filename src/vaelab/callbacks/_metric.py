"""Which value of a metric is better."""

import math
from typing import TYPE_CHECKING, Any

from vaelab._arguments import shown

if TYPE_CHECKING:
    from vaelab.training import Run


def last_score(metric: str, run: "Run") -> float:
    """Returns the last value of a metric, turned so that more is better.

    An ELBO shall be high and everything else low. NaN and Inf are the worst there is.
    """
    value = run.history[metric][-1]
    if not math.isfinite(value):
        return -math.inf
    return value if metric.endswith("elbo") else -value


def checked_metric(metric: Any) -> str:
    """Refuses what is no name."""
    if not isinstance(metric, str):
        raise TypeError(
            f"metric is {shown(metric)}: give a name from the history, such as "
            "'validation_elbo'"
        )
    return metric
