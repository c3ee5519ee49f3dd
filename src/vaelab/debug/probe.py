"""Printing what an array holds while a compiled program runs.

`print` inside a jitted function shows a tracer. `probe` shows numbers: its shape and
type, the range of its finite values, and how many are NaN or infinite. It hands its
argument through unchanged, so it can be put around any expression. The summary is
computed inside the compiled program and only those few numbers travel to the host.

Probes may stay in the code: `probes(False)`, or the environment variable
`VAELAB_PROBES=0` set before the program starts, turns them off, and a probe that is off
leaves no trace in the compiled program.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["probe", "probes"]

T = TypeVar("T")

_on = os.environ.get("VAELAB_PROBES", "1").strip().lower() not in ("0", "false", "off")


def probes(on: bool) -> None:
    """Turns all probes on or off.

    A probe is read while a function is traced, so a change has to throw away what is
    compiled already: it calls `jax.clear_caches()`, and every function is compiled anew
    at its next call. Asking for the present setting does nothing.

    Args:
        on: whether probes print.

    >>> probes(False)
    >>> jax.make_jaxpr(lambda x: probe("x", x) + 1)(1.0)
    { lambda ; a:f32[]. let b:f32[] = add a 1.0:f32[] in (b,) }
    >>> probes(True)
    """
    global _on
    if not isinstance(on, bool):
        raise TypeError(f"on is {on!r}: give True or False")
    if on != _on:
        _on = on
        jax.clear_caches()


def probe(
    name: str,
    x: T,
    *,
    when: Literal["always", "nonfinite"] = "always",
    every: int = 1,
    grad: bool = False,
) -> T:
    """Returns `x` unchanged, and prints what it holds when the program runs.

    Works inside `jit`, `grad`, `vmap` (one line for each example) and `scan` (one for
    each iteration). Lines of a compiled program may arrive late:
    `jax.effects_barrier()` waits for them.

    Args:
        name: what the line begins with.
        x: an array, or a tree of arrays (one line for each).
        when: `"always"`, or `"nonfinite"` to print only what has a NaN or an infinity.
        every: print the first line, then each `every`-th of those that `when` lets
            through. Every place in a compiled program counts for itself.
        grad: print the gradient of the loss with respect to `x` as well, when it comes
            by in the backward pass. Such a probe does not support forward-mode
            differentiation (`jax.jvp`, `jax.jacfwd`).

    Returns:
        `x` itself.

    Raises:
        TypeError: `name` is no text, as in `probe(x, "x")`.
        ValueError: `when` or `every` is not one of the above.

    >>> import jax, jax.numpy as jnp
    >>> def loss(x):
    ...     return jnp.sum(jnp.sqrt(probe("x", x, grad=True)))
    >>> def run(x):
    ...     jax.jit(jax.grad(loss))(x)
    ...     jax.effects_barrier()
    >>> run(jnp.array([0.0, 4.0]))
    x: float32[2]  min 0  mean 2  max 4  nan 0  inf 0
    x (gradient): float32[2]  min 0.25  mean 0.25  max 0.25  nan 0  inf 1
    """
    if not isinstance(name, str):
        raise TypeError(f"name is a {type(name).__name__}: write probe('name', x)")
    if not (isinstance(when, str) and when in ("always", "nonfinite")):
        raise ValueError(f"when is {when!r}: give 'always' or 'nonfinite'")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every is {every!r}: give a whole number, at least 1")
    if not isinstance(grad, bool):
        raise TypeError(f"grad is {grad!r}: give True or False")
    for leaf in [x] if isinstance(x, Iterator) else jax.tree.leaves(x):
        is_number = isinstance(leaf, float | complex) or (
            isinstance(leaf, int) and -(2**31) <= leaf < 2**31
        )
        if not hasattr(leaf, "dtype") and not is_number:
            raise TypeError(
                f"x holds a {type(leaf).__name__} that is no array of JAX: give an "
                "array, or a tree of arrays"
            )
    if not _on:
        return x

    def one(path: Any, leaf: Any) -> Any:
        title = name + jax.tree_util.keystr(path)
        forward, backward = (
            _Printer(t, when == "nonfinite", every)
            for t in (title, f"{title} (gradient)")
        )
        _emit(forward, leaf)
        differentiable = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        return _with_gradient(backward, leaf) if grad and differentiable else leaf

    return jax.tree_util.tree_map_with_path(one, x)


class _Summary(NamedTuple):
    low: jax.Array
    mean: jax.Array
    high: jax.Array
    nans: jax.Array
    infs: jax.Array


class _Printer:
    """Runs on the host: decides whether to print, and prints."""

    def __init__(self, title: str, only_nonfinite: bool, every: int) -> None:
        self.title = title
        self.only_nonfinite = only_nonfinite
        self.every = every
        self.calls: Iterator[int] = itertools.count()

    def __call__(self, summary: _Summary | None, *, kind: str, size: int) -> None:
        bad = summary is not None and int(summary.nans) + int(summary.infs)
        if self.only_nonfinite and not bad:
            return
        if next(self.calls) % self.every == 0:
            print(f"{self.title}: {kind}{_in_words(summary, size)}", flush=True)


def _in_words(summary: _Summary | None, size: int) -> str:
    if summary is None:
        return ""
    words = []
    if size > int(summary.nans) + int(summary.infs):
        values = {"min": summary.low, "mean": summary.mean, "max": summary.high}
        words += [f"{name} {float(value):.4g}" for name, value in values.items()]
    words += [f"nan {int(summary.nans)}", f"inf {int(summary.infs)}"]
    return "".join("  " + word for word in words)


def _emit(printer: _Printer, x: Any) -> None:
    dtype, shape = jnp.result_type(x), jnp.shape(x)
    size = int(np.prod(shape))
    numeric = jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_
    summary = _summary(jax.lax.stop_gradient(x)) if numeric and size else None
    kind = f"{dtype}[{','.join(map(str, shape))}]"
    report: Callable[..., None] = partial(printer, kind=kind, size=size)
    jax.debug.callback(report, summary)


@jax.jit
def _summary(x: jax.Array) -> _Summary:
    """Summarises the finite values; complex ones by their magnitude."""
    x = jnp.asarray(x)
    nans, infs = jnp.isnan(x).sum(), jnp.isinf(x).sum()
    finite = jnp.isfinite(x)
    if jnp.iscomplexobj(x):
        x = jnp.abs(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    count = jnp.maximum(finite.sum(), 1)
    limit = jnp.finfo(x.dtype).max
    low = jnp.where(finite, x, limit).min()
    high = jnp.where(finite, x, -limit).max()
    mean = jnp.where(finite, x / count, 0).sum()  # divided first: no overflow
    return _Summary(low, mean, high, nans, infs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_gradient(printer: _Printer, x: Any) -> Any:
    return x


def _with_gradient_forward(printer: _Printer, x: Any) -> tuple[Any, None]:
    return x, None


def _with_gradient_backward(printer: _Printer, _: None, gradient: Any) -> tuple[Any]:
    _emit(printer, gradient)
    return (gradient,)


_with_gradient.defvjp(_with_gradient_forward, _with_gradient_backward)
