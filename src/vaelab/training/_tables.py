"""Results of training as they are shown: the last values, not whole arrays."""

from collections.abc import Mapping

import numpy as np


def summary(kind: str, history: Mapping[str, np.ndarray], facts: str) -> str:
    """Writes a result in one line, such as `FitResult(3 epochs, loss=27.5)`."""
    values = [f"{name}={value}" for name, value in _last(history).items()]
    return f"{kind}({', '.join([facts, *values])})"


def html_table(history: Mapping[str, np.ndarray], facts: str) -> str:
    """Writes a result as a table, a row for each quantity."""
    rows = "".join(
        f"<tr><th>{name}</th><td>{value}</td></tr>"
        for name, value in _last(history).items()
    )
    return f"<table><caption>{facts}</caption>{rows}</table>"


def _last(history: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the values of the last epoch; of many models, their range."""
    last = {name: values[..., -1] for name, values in history.items() if values.size}
    return {name: _short(value) for name, value in last.items()}


def _short(value: np.ndarray) -> str:
    if value.ndim == 0:
        return f"{value:.4g}"
    finite = value[np.isfinite(value)]
    if not finite.size:
        return "nan"
    return f"{finite.min():.4g} to {finite.max():.4g}"
