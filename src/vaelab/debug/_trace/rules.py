"""Derivative rules of the user's own, traced so that their lines are known.

JAX calls the rules of `jax.custom_vjp` and `jax.custom_jvp` while it differentiates,
and writes down the line of the *call* for all that they do. A rule that is traced in a
thread of its own keeps its lines, and so does what JAX makes of that trace.
"""

import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.core import Tracer, eval_jaxpr

from vaelab.debug._trace.jaxprs import open_jaxpr
from vaelab.debug._trace.locate import is_user_file
from vaelab.debug._trace.patches import Patch

__all__ = ["rules_with_lines"]


def rules_with_lines() -> Iterator[Patch]:
    """The calls of custom_vjp and custom_jvp functions, to trace their rules anew."""
    yield Patch(jax.custom_vjp, "__call__", functools.partial(_swapping, "bwd"))
    yield Patch(jax.custom_jvp, "__call__", functools.partial(_swapping, "jvp"))


def _swapping(attribute: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def swapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        rule = getattr(self, attribute, None)
        code = getattr(rule, "__code__", None)
        if rule is None or code is None or not is_user_file(code.co_filename):
            return call(self, *args, **kwargs)
        twin = object.__new__(type(self))  # other threads may use the function itself
        vars(twin).update(vars(self) | {attribute: _traced_apart(rule)})
        return call(twin, *args, **kwargs)

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

    # In the same context: what traces here traces there as well.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
