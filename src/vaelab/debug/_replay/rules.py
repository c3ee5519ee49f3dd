"""Derivative rules of the user's own, traced so that their lines are known.

JAX calls the rules of `jax.custom_vjp` and `jax.custom_jvp` while it differentiates,
and writes down the line of the *call* for all that they do. A rule that is traced in a
thread of its own keeps its lines, and so does what JAX makes of that trace.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.core import Tracer, eval_jaxpr

from vaelab.debug._replay.jaxprs import open_jaxpr
from vaelab.debug._replay.locate import is_user_file

__all__ = ["rules_with_lines"]


@contextlib.contextmanager
def rules_with_lines() -> Iterator[None]:
    """Inside, calls of custom_vjp and custom_jvp functions trace their rules anew."""
    old_vjp, old_jvp = jax.custom_vjp.__call__, jax.custom_jvp.__call__
    jax.custom_vjp.__call__ = _swapping(old_vjp, "bwd")
    jax.custom_jvp.__call__ = _swapping(old_jvp, "jvp")
    try:
        yield
    finally:
        jax.custom_vjp.__call__ = old_vjp
        jax.custom_jvp.__call__ = old_jvp


def _swapping(call: Callable[..., Any], attribute: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def swapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        rule = getattr(self, attribute, None)
        code = getattr(rule, "__code__", None)
        if rule is None or code is None or not is_user_file(code.co_filename):
            return call(self, *args, **kwargs)
        setattr(self, attribute, _traced_apart(rule))
        try:
            return call(self, *args, **kwargs)
        finally:
            setattr(self, attribute, rule)

    return swapped


def _traced_apart(rule: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(rule)
    def apart(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        places = [i for i, x in enumerate(leaves) if isinstance(x, Tracer)]
        tracers = [leaves[i] for i in places]

        def of_arrays(*arrays: Any) -> Any:
            filled = list(leaves)
            for i, array in zip(places, arrays, strict=True):
                filled[i] = array
            return rule(*jax.tree.unflatten(tree, filled))

        try:
            shapes = [
                jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type)
                for x in tracers
            ]
            traced, out = _in_a_thread(
                lambda: jax.make_jaxpr(of_arrays, return_shape=True)(*shapes)
            )
        except Exception:  # e.g. the rule uses a mesh: its lines stay unknown, no more
            return rule(*args)
        jaxpr, consts = open_jaxpr(traced)
        results = eval_jaxpr(jaxpr, consts, *tracers)
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return apart


def _in_a_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again below, in the calling thread
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
