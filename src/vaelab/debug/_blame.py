"""Which call made JAX's checks raise: read from the frames of the traceback.

The checks of `jax.debug_nans` do not say which function with which arguments they were
looking at, but the frames of the traceback hold both. Nothing here imports from JAX's
or Flax's insides; where a frame looks otherwise than expected, it is passed over.
"""

import dataclasses
import linecache
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.core import Tracer

from vaelab.debug import _arguments as arguments
from vaelab.debug._places import is_machinery, is_user_file, names_a_place
from vaelab.debug.report import NonFiniteReport, Origin

__all__ = [
    "Suspect",
    "has_tracer",
    "is_from_jax",
    "outside_of_the_debugger",
    "suspects",
    "user_traceback",
]


@dataclass(frozen=True)
class Suspect:
    """A call that was under way when the check raised.

    Attributes:
        function: what can be called again.
        args: its arguments.
        kwargs: its keyword arguments.
        caller: the user's file, line and function that made the call.
        inside: the line of a library that the caller led to, if there is one.
        direction: "backward" if the call is one operation of a backward pass.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    caller: tuple[str, int, str] | None
    direction: str | None = None
    inside: Origin | None = None

    @property
    def name(self) -> str:
        """What to call the function in a message."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def is_gone(self) -> bool:
        """Whether its arguments were deleted as a donation."""
        return arguments.deleted((self.args, dict(self.kwargs)))

    def located(self, report: NonFiniteReport) -> NonFiniteReport:
        """Puts the call's line where the replay saw only itself being called.

        The lines of a report come from the stack at the time of the replay. An
        operation that is called directly has no line of the user's below the replay.
        """
        if self.caller is None:
            return report
        running = {(f.f_code.co_filename, f.f_lineno) for f in _stack()}
        chain = tuple(self._moved(link, running) for link in report.chain)
        others = tuple(self._moved(link, running) for link in report.others)
        report = self._moved(report, running)
        return dataclasses.replace(report, chain=chain, others=others)

    def _moved(self, link: Any, running: set[Any]) -> Any:
        if link.file is not None and (link.file, link.line) not in running:
            return link
        assert self.caller is not None
        file, line, function = self.caller
        return dataclasses.replace(
            link,
            file=file,
            line=line,
            function=function,
            source=linecache.getline(file, line).strip(),
            inside=self.inside,
            direction=self.direction or link.direction,
        )


def suspects(traceback: types.TracebackType) -> Iterator[Suspect]:
    """Yields the calls that were under way, the outermost first."""
    caller, backward, inside, found_user = None, None, None, False
    for frame, line in _frames(traceback):
        code = frame.f_code
        file = code.co_filename
        if is_user_file(file) or not (found_user or is_machinery(file)):
            name = getattr(code, "co_qualname", code.co_name).replace("<locals>.", "")
            caller, inside = (file, line, name), None
            found_user |= is_user_file(file)
            continue
        if names_a_place(file):
            inside = Origin(file, line, linecache.getline(file, line).strip() or None)
        if code.co_name in _BACKWARD:
            backward = "backward"
        found = _call_of(frame)
        if found is not None:
            function, args, kwargs = found
            if not has_tracer((args, kwargs)):
                yield Suspect(function, args, kwargs, caller, backward, inside)


def is_from_jax(traceback: types.TracebackType) -> bool:
    """Whether the innermost frame is one of JAX's."""
    *_, (frame, _) = _frames(traceback)
    return frame.f_globals.get("__name__", "").split(".")[0] == "jax"


def user_traceback(traceback: types.TracebackType) -> types.TracebackType:
    """Leaves out the frames of libraries, as JAX does, unless there are no others."""
    kept = None
    for frame, line, last in reversed(list(_entries(traceback))):
        if not is_machinery(frame.f_code.co_filename):
            kept = types.TracebackType(kept, frame, last, line)
    return kept or traceback


def outside_of_the_debugger(
    traceback: types.TracebackType | None,
) -> types.TracebackType | None:
    """Leaves out the debugger's own frames at the beginning."""
    while traceback is not None and os.path.dirname(
        os.path.abspath(traceback.tb_frame.f_code.co_filename)
    ) == os.path.dirname(os.path.abspath(__file__)):
        traceback = traceback.tb_next
    return traceback


_BACKWARD = ("backward_pass", "backward_pass3", "_vjp_pullback_wrapper", "vjp_call")


def _call_of(frame: types.FrameType) -> tuple[Any, tuple[Any, ...], Any] | None:
    """Returns function, arguments and keyword arguments of a frame, if it has them."""
    module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
    if not module.startswith(("jax.", "flax.nnx.")):
        return None
    local = frame.f_locals
    args, kwargs = local.get("args"), local.get("kwargs", {})
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        return None
    build = _BUILDERS.get((module.split(".")[0], name))
    try:
        function = build(local) if build else None
    except KeyError:  # a version of JAX or Flax with other names
        return None
    return None if function is None else (function, args, kwargs)


def _jitted(local: Mapping[str, Any]) -> Any:
    fun = local["fun"]
    if type(fun).__name__ == "JitFn":  # the inner half of an nnx.jit
        return None
    info = local.get("jit_info")
    static = {
        name: value
        for name in ("static_argnums", "static_argnames")
        if (value := getattr(info, name, None))
    }
    return jax.jit(fun, **static)


def _differentiated(local: Mapping[str, Any]) -> Any:
    if type(local["fun"]).__name__ == "GradFn":  # the inner half of an nnx.grad
        return None
    return jax.value_and_grad(
        local["fun"], argnums=local["argnums"], has_aux=local["has_aux"]
    )


def _mapped(local: Mapping[str, Any]) -> Any:
    names = ("in_axes", "out_axes", "axis_name", "axis_size")
    options = {name: local[name] for name in names if name in local}
    return jax.vmap(local["fun"], **options)


def _nnx_jitted(local: Mapping[str, Any]) -> Any:
    function = local["self"]
    return function if hasattr(function, "jitted_fn") else None


_BUILDERS: dict[tuple[str, str], Callable[[Mapping[str, Any]], Any]] = {
    ("jax", "cache_miss"): _jitted,
    ("jax", "_nan_check_posthook"): lambda local: local["fun"],
    ("jax", "value_and_grad_f"): _differentiated,
    ("jax", "vmap_f"): _mapped,
    ("flax", "__call__"): _nnx_jitted,
    ("flax", "update_context_manager_wrapper"): lambda local: local["self"](local["f"]),
}


def has_tracer(tree: Any) -> bool:
    """Whether a call with these arguments is made within a trace."""
    leaves, _ = arguments.flatten(tree)
    nodes = [leaf for leaf in leaves if arguments.is_nnx(leaf)]
    leaves += [arguments.read(variable) for variable in arguments.variables(nodes)]
    return any(isinstance(leaf, Tracer) for leaf in leaves)


def _entries(
    traceback: types.TracebackType | None,
) -> Iterator[tuple[types.FrameType, int, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno, traceback.tb_lasti
        traceback = traceback.tb_next


def _frames(traceback: types.TracebackType) -> Iterator[tuple[types.FrameType, int]]:
    for frame, line, _ in _entries(traceback):
        yield frame, line


def _stack() -> Iterator[types.FrameType]:
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
