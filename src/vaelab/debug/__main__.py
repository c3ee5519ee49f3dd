"""Runs a script, or a module, under `nan_guard`.

    python -m vaelab.debug [--infs] script.py [arguments of the script]
    python -m vaelab.debug [--infs] -m package.module [arguments of the module]

It is not changed and does not notice: it is `__main__`, with its own arguments, its own
folder on the path and its own exit status. When something turns non-finite, the
explanation is printed and the exit status is 1; if nothing did, a last line says so.
Processes that it starts are not looked at.
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
from typing import Any, NamedTuple

from vaelab.debug._blame import outside_of_the_debugger
from vaelab.debug.guard import nan_guard
from vaelab.debug.report import NonFiniteError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the script that the command line names.

    Args:
        arguments: the command line, without the program; None takes `sys.argv`.

    Returns:
        0, or 1 if the script failed. `SystemExit` and `KeyboardInterrupt` of the script
        pass through.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vaelab.debug",
        description="Runs a script, and explains the first NaN in it.",
    )
    parser.add_argument(
        "--infs", action="store_true", help="explain the first infinity, too"
    )
    parser.add_argument(
        "-m",
        dest="module",
        metavar="MODULE",
        nargs=argparse.REMAINDER,
        help="a module instead of a script, and its arguments, as for python -m",
    )
    parser.add_argument("script", nargs="?", help="the script, a file of Python")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="the arguments of the script"
    )
    options = parser.parse_args(arguments)
    if options.module:
        name, *rest = options.module
        sys.path[0] = os.getcwd()
        program = _module(name, parser)
    elif options.script is not None and options.module is None:
        rest = options.arguments
        sys.path[0] = os.path.dirname(os.path.abspath(options.script))
        program = _script(options.script, parser)
    else:
        parser.error("give a script, or -m and a module")
    sys.argv = [program.path, *rest]
    return _run(program, infs=options.infs)


class _Program(NamedTuple):
    """What is run as `__main__`."""

    path: str
    source: bytes
    spec: Any = None


def _script(path: str, parser: argparse.ArgumentParser) -> _Program:
    try:
        with open(path, "rb") as file:
            return _Program(path, file.read())
    except OSError as error:
        parser.error(f"cannot read {path}: {error.strerror}")


def _module(name: str, parser: argparse.ArgumentParser) -> _Program:
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        parser.error(f"cannot import {name}: {error}")
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        parser.error(f"there is no module {name} that could be run")
    return _script(spec.origin, parser)._replace(spec=spec)


def _run(program: _Program, *, infs: bool) -> int:
    path = program.path
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    module.__dict__["__builtins__"] = __builtins__
    if program.spec is not None:  # so that relative imports work
        module.__spec__ = program.spec
        module.__package__ = program.spec.parent
    sys.modules["__main__"] = module
    linecache.checkcache(path)
    try:
        code = compile(program.source, path, "exec", dont_inherit=True)
        with nan_guard(infs=infs):
            exec(code, module.__dict__)  # the user's own script
    except NonFiniteError as error:
        sys.stdout.flush()
        step = "" if error.step is None else f" in step {error.step}"
        print(f"\n{path}: something turned non-finite{step}\n", file=sys.stderr)
        print(error if error.report is None else error.report, file=sys.stderr)
        return 1
    except Exception as error:  # anything else is shown as Python would show it
        sys.stdout.flush()
        shown = outside_of_the_debugger(error.__traceback__)
        traceback.print_exception(type(error), error, shown)
        return 1
    sys.stdout.flush()
    what = "NaN or infinity" if infs else "NaN"
    print(f"vaelab.debug: {path} ended, and no {what} was found", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
