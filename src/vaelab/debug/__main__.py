"""Runs a script under `nan_guard`.

    python -m vaelab.debug [--infs] script.py [arguments of the script]

The script is not changed and does not notice: it is `__main__`, with its own arguments,
its own folder on the path and its own exit status. When something turns non-finite, the
explanation is printed and the exit status is 1.
"""

import argparse
import importlib.machinery
import linecache
import os
import sys
import traceback
import types
from collections.abc import Sequence

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
    parser.add_argument("script", help="the script, a file of Python")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="the arguments of the script"
    )
    options = parser.parse_args(arguments)
    try:
        with open(options.script, "rb") as file:
            source = file.read()
    except OSError as error:
        parser.error(f"cannot read {options.script}: {error.strerror}")
    sys.argv = [options.script, *options.arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(options.script))
    return _run(source, options.script, infs=options.infs)


def _run(source: bytes, path: str, *, infs: bool) -> int:
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    linecache.checkcache(path)
    try:
        code = compile(source, path, "exec", dont_inherit=True)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
