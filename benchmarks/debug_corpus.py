"""Which line does each NaN tool name? One table over the corpus of failing programs.

Run `python benchmarks/debug_corpus.py` (CPU, a few minutes); `--all` adds a
table with one row per program, and names restrict the run to those programs.

The programs are those of `tests/debug/corpus`. Each has one marked line, the one at
which it first goes wrong, and each tool is given the same call:

- `jax.debug_nans`: the call inside `with jax.debug_nans(True)`.
- `debug_nans + infs`: `jax.debug_infs` as well.
- `checkify`: `checkify.float_checks`, with `nnx.checkify` inside `nnx.jit` for calls
  that take NNX objects.
- `vaelab explain`: `vaelab.debug.explain`.

A tool that raises is right if the innermost line of the corpus in its traceback, or in
that of any of its causes, is the marked one. "wrong line" is a tool that noticed the
failure and showed another line, often that of a later link of the chain, where an Inf
became a NaN. "error" is a tool that stopped with an error of its own. "false alarm" is
an alarm on a program whose outputs are all finite.

`--fresh` scores `explain` alone, on the programs of `tests/debug/corpus/fresh`, whose
expectations were written before it met them: not only the line, but what the report
says of it. `--reports FILE` writes what was wrong, with cause and advice, program by
program.
"""

import argparse
import contextlib
import io
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Some programs are for four devices. Must be set before jax is imported.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "debug"))

import corpus
import corpus.fresh
import flax
import jax
from corpus._judge import judge
from flax import nnx
from jax.experimental import checkify

CORPUS = str(Path(corpus.__file__).parent)
NNX = (nnx.Module, nnx.Optimizer, nnx.Rngs)


class Finding(NamedTuple):
    """What a tool said of a program; no lines at all means that it said nothing."""

    lines: tuple[tuple[str, int], ...] = ()
    direction: str | None = None
    alarm: bool = False
    error: str | None = None


def from_exception(error: BaseException) -> Finding:
    """The innermost line of the corpus in the tracebacks of an error and its causes."""
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        mine = [f for f in frames if f.filename.startswith(CORPUS)]
        lines += [(f.filename, f.lineno or 0) for f in mine[-1:]]
        cause = cause.__cause__
    return Finding(tuple(lines), None, alarm=True)


def debug_nans(call: corpus.Call, infs: bool = False) -> Finding:
    """The call under jax.debug_nans, and jax.debug_infs if asked for."""
    try:
        with jax.debug_nans(True), jax.debug_infs(infs):
            jax.block_until_ready(jax.tree.leaves(call.run()))
    except FloatingPointError as error:
        return from_exception(error)
    return Finding()


def debug_nans_and_infs(call: corpus.Call) -> Finding:
    """The call under jax.debug_nans and jax.debug_infs."""
    return debug_nans(call, infs=True)


def run_checkify(call: corpus.Call) -> Finding:
    """The call with checkify's float checks."""
    checks = checkify.float_checks

    def fn(*args):
        return call.fn(*args, **call.kwargs)

    if any(isinstance(x, NNX) for x in call.args):
        checked = nnx.jit(nnx.checkify(fn, errors=checks))
    else:
        # The function itself, because static arguments must stay in their places.
        checked = checkify.checkify(fn if call.kwargs else call.fn, errors=checks)
    failure, _ = checked(*call.args)
    try:
        failure.throw()
    except Exception as error:  # checkify's own error type is not public
        return from_exception(error)
    return Finding()


def run_explain(call: corpus.Call) -> Finding:
    """The report of vaelab.debug.explain."""
    from vaelab.debug import explain

    report = explain(call.fn, *call.args, **call.kwargs)
    if report is None:
        return Finding()
    return Finding(((report.file, report.line),), report.direction, alarm=True)


TOOLS: dict[str, Callable[[corpus.Call], Finding]] = {
    "jax.debug_nans": debug_nans,
    "debug_nans + infs": debug_nans_and_infs,
    "checkify": run_checkify,
    "vaelab explain": run_explain,
}


def find(tool: str, program: corpus.Program) -> Finding:
    """What a tool says of a freshly built program."""
    jax.clear_caches()  # what one tool traced must not reach the next one
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # debug_nans prints
            return TOOLS[tool](program.build())
    except Exception as error:  # the tool's own failure is one of the results
        return Finding(error=type(error).__name__)


def verdict(program: corpus.Program, finding: Finding) -> str:
    """The result in a word or two."""
    if finding.error is not None:
        return "error"
    if program.quiet:
        return "false alarm" if finding.alarm else "quiet"
    if not finding.alarm:
        return "missed"
    right = (program.file, program.line) in finding.lines
    return "right" if right else "wrong line"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(programs: list[corpus.Program], found: dict[str, list[Finding]]) -> str:
    """One row per tool."""
    failing, calm = (
        [i for i, p in enumerate(programs) if p.quiet == quiet]
        for quiet in (False, True)
    )
    words = ["right", "wrong line", "missed", "error"]
    rows = []
    for tool, findings in found.items():
        verdicts = [verdict(p, f) for p, f in zip(programs, findings, strict=True)]
        bad = Counter(verdicts[i] for i in failing)
        good = Counter(verdicts[i] for i in calm)
        directions = sum(
            findings[i].direction == programs[i].direction for i in failing
        )
        told = any(f.direction for f in findings)
        row = [str(bad[word]) for word in words]
        row.insert(1, str(directions) if told else "not told")
        rows.append([tool, *row, str(good["false alarm"]), str(good["error"])])
    header = [
        f"tool ({len(failing)} failing, {len(calm)} quiet)",
        "line right",
        "direction right",
        "wrong line",
        "missed",
        "error",
        "false alarms",
        "error on quiet",
    ]
    return table(header, rows)


def details(programs: list[corpus.Program], found: dict[str, list[Finding]]) -> str:
    """One row per program."""
    rows = []
    for i, program in enumerate(programs):
        results = [verdict(program, findings[i]) for findings in found.values()]
        expected = "quiet" if program.quiet else f"{program.kind}, {program.direction}"
        rows.append([program.theme, f"`{program.name}`", expected, *results])
    return table(["theme", "program", "expected", *found], rows)


def explained(program: corpus.Program) -> Any:
    """The report on a freshly built program, None, or the error that came instead."""
    from vaelab.debug import explain

    jax.clear_caches()
    call = program.build()
    try:
        return explain(call.fn, *call.args, **call.kwargs)
    except Exception as error:  # a crash is one of the results
        return error


def fresh_score(programs: list[corpus.Program], reports: list[Any]) -> str:
    """One row per thing that a report says, among the programs that state it."""
    fields = ["line", "direction", "kind", "primitive", "iteration", "module", "cause"]
    right, stated = Counter(), Counter()
    crashes, alarms = 0, 0
    for program, report in zip(programs, reports, strict=True):
        crashed = isinstance(report, Exception)
        crashes += crashed
        if program.quiet:
            alarms += report is not None and not crashed
            continue
        verdict = judge(program, None if crashed else report)
        right.update(name for name, ok in verdict.items() if ok)
        right["everything"] += all(verdict.values())
        stated.update([*verdict, "everything"])
    rows = [[x, f"{right[x]} of {stated[x]}"] for x in [*fields, "everything"]]
    calm = sum(program.quiet for program in programs)
    rows.append(["crashes", f"{crashes} of {len(programs)}"])
    rows.append(["false alarms", f"{alarms} of {calm}"])
    return table(["fresh programs", "right"], rows)


def fresh_reports(programs: list[corpus.Program], reports: list[Any]) -> str:
    """What was wrong with each report, and what it said."""
    blocks = []
    for program, report in zip(programs, reports, strict=True):
        where = f"{program.theme}.{program.name}"
        expected = (
            f"expected: {program.kind} {program.direction} {program.primitive} "
            f"line {program.line} iteration {program.iteration} "
            f"cause {program.cause} never {program.never}"
        )
        if isinstance(report, Exception):
            said = f"CRASH {type(report).__name__}: {report}"
            blocks.append(f"=== {where}: CRASH\n{expected}\n{said}")
        elif program.quiet:
            verdict = "quiet" if report is None else f"FALSE ALARM\n{report}"
            blocks.append(f"=== {where}: {verdict}")
        elif report is None:
            blocks.append(f"=== {where}: MISSED\n{expected}")
        else:
            verdict = judge(program, report)
            wrong = [name for name, ok in verdict.items() if not ok]
            blocks.append(
                f"=== {where}: {'WRONG ' + ', '.join(wrong) if wrong else 'right'}\n"
                f"{expected}\nseen: {report.kind} {report.direction} "
                f"{report.primitive} {Path(report.file or '').name}:{report.line} "
                f"iteration {report.iteration}\n"
                f"source: {report.source}\ncause: {report.cause}\n"
                f"advice: {report.advice}"
            )
    return "\n\n".join(blocks) + "\n"


def run_fresh(names: list[str], reports_file: str | None) -> None:
    """Score `explain` on the fresh programs."""
    programs = [corpus.fresh.FRESH[name] for name in names or corpus.fresh.FRESH]
    reports = [explained(program) for program in programs]
    print(fresh_score(programs, reports))
    if reports_file:
        Path(reports_file).write_text(fresh_reports(programs, reports))


def main() -> None:
    """Run the tools over the corpus and print the tables."""
    parser = argparse.ArgumentParser(description="NaN tools on the debug corpus")
    parser.add_argument("programs", nargs="*", help="names of programs (default: all)")
    parser.add_argument(
        "--all", action="store_true", help="one row per program as well"
    )
    parser.add_argument("--fresh", action="store_true", help="the fresh programs")
    parser.add_argument("--reports", metavar="FILE", help="with --fresh: all reports")
    options = parser.parse_args()
    known = corpus.fresh.FRESH if options.fresh else corpus.PROGRAMS
    unknown = [name for name in options.programs if name not in known]
    if unknown:
        parser.error(f"no program is called {unknown[0]!r}; see tests/debug/corpus")
    warnings.simplefilter("ignore")  # tools warn about options they set themselves
    python = ".".join(map(str, sys.version_info[:2]))
    print(f"Python {python}, jax {jax.__version__}, flax {flax.__version__}\n")
    if options.fresh:
        run_fresh(options.programs, options.reports)
        return
    names = options.programs or list(corpus.PROGRAMS)
    programs = [corpus.PROGRAMS[name] for name in names]
    found = {tool: [find(tool, p) for p in programs] for tool in TOOLS}
    print(summary(programs, found))
    if options.all:
        print("\n" + details(programs, found))


if __name__ == "__main__":
    main()
