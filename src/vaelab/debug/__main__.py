"""Runs a script, or a module, under `nan_guard`.

    python -m vaelab.debug [options] script.py [arguments of the script]
    python -m vaelab.debug [options] -m package.module [arguments of the module]

The program is not changed and does not notice: it is `__main__`, with its own
arguments, its own folder on the path and its own exit status. When something turns
non-finite, the explanation is printed and the exit status is 1. When nothing does, a
last line on stderr says so.

Processes that the program starts by `multiprocessing` are guarded too, and explain
themselves; if one of them found something, the exit status is 1. The tasks of a pool
raise JAX's own error, unexplained: there, write `with nan_guard():` into the task.
Programs that are started by `subprocess` are not looked into: put `-m vaelab.debug`
into their command line. Other threads are not looked into, either.
"""

import argparse
import importlib.machinery
import importlib.util
import linecache
import os
import sys
import traceback
import types
from collections.abc import Sequence
from typing import Any

from vaelab.debug._blame import outside_of_the_debugger
from vaelab.debug._children import Children, followed
from vaelab.debug._steps import Steps
from vaelab.debug.guard import nan_guard
from vaelab.debug.report import NonFiniteError
from vaelab.debug.spikes import LossSpikeError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program that the command line names.

    Args:
        arguments: the command line, without the program; None takes `sys.argv`.

    Returns:
        0, or 1 if the program failed. `SystemExit` and `KeyboardInterrupt` of the
        program pass through.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.module is not None:
        name, *rest = options.module or parser.error("-m needs the name of a module")
        code, module = _module(name, parser)
    elif options.script is not None:
        name, rest = options.script, options.arguments
        code, module = _script(name, parser)
    else:
        parser.error("there is no program: give a script, or -m and a module")
    sys.argv = [module.__file__ or name, *rest]
    sys.modules["__main__"] = module
    return _run(code, module, name, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vaelab.debug",
        description="Runs a program, and explains the first NaN in it.",
    )
    parser.add_argument(
        "--infs", action="store_true", help="explain the first infinity, too"
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="try the advice before it is given, or give it untried",
    )
    parser.add_argument(
        "--spikes",
        type=_factor,
        metavar="FACTOR",
        help="explain a compiled step whose loss is FACTOR times what it was lately",
    )
    parser.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        help="a module, as `python -m` runs it, and its arguments",
    )
    parser.add_argument("script", nargs="?", help="the script, a file of Python")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="the arguments of the script"
    )
    return parser


def _factor(text: str) -> float:
    factor = float(text)
    if not 1 < factor < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a number above 1, such as 10")
    return factor


def _script(path: str, parser: argparse.ArgumentParser) -> tuple[Any, types.ModuleType]:
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        parser.error(f"cannot read {path}: {error.strerror}")
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(path))
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    return source, module


def _module(name: str, parser: argparse.ArgumentParser) -> tuple[Any, types.ModuleType]:
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # the package itself imports something that is missing
        spec = None
    code = getattr(spec and spec.loader, "get_code", lambda name: None)(name)
    if spec is None or code is None:
        parser.error(f"there is no module {name} to run")
    module = types.ModuleType("__main__")
    module.__file__ = spec.origin
    module.__loader__ = spec.loader
    module.__package__ = spec.parent  # for relative imports
    module.__spec__ = spec
    return code, module


def _run(
    code: Any, module: types.ModuleType, name: str, options: argparse.Namespace
) -> int:
    module.__dict__["__builtins__"] = __builtins__
    path = module.__file__ or name
    linecache.checkcache(path)
    steps = Steps(options.spikes)
    guard = {"infs": options.infs, "verify": options.verify}
    with followed(**guard) as children:
        try:
            if isinstance(code, bytes):
                code = compile(code, path, "exec", dont_inherit=True)
            with nan_guard(**guard), steps:
                exec(code, module.__dict__)  # the user's own program
        except (NonFiniteError, LossSpikeError) as error:
            sys.stdout.flush()
            print(f"\n{name}: {_headline(error)}\n", file=sys.stderr)
            print(error if error.report is None else error.report, file=sys.stderr)
            return 1
        except SystemExit as leaving:
            _last_line(name, options, steps, children)
            if leaving.code in (None, 0):
                return min(children.found, 1)
            raise
        except Exception as error:  # anything else is shown as Python would show it
            sys.stdout.flush()
            shown = outside_of_the_debugger(error.__traceback__)
            traceback.print_exception(type(error), error, shown)
            return 1
        _last_line(name, options, steps, children)
        return min(children.found, 1)


def _headline(error: NonFiniteError | LossSpikeError) -> str:
    leaps = isinstance(error, LossSpikeError)
    what = "the loss leaps" if leaps else "something turned non-finite"
    return what if error.step is None else f"{what} in step {error.step}"


def _last_line(
    name: str, options: argparse.Namespace, steps: Steps, children: Children
) -> None:
    """Says that nothing was found; otherwise silence could mean anything."""
    sys.stdout.flush()
    if children.found:
        words = f"{children.found} of its processes found something non-finite"
    elif options.infs:
        words = "no NaN and no infinity was found"
    else:
        words = "no NaN was found (--infs looks for infinities, too)"
    print(f"{name}: {words}{steps.in_words()}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
