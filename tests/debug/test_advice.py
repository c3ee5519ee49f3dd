"""Who does what `explain` says has a program that is finite: tried on both corpora.

The lines of the advice are pasted into the source of the program, as they were printed,
and the changed source is run, without `explain`.
"""

import sys
import types
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import corpus
import corpus.fresh
from test_corpus import NNX, all_finite

from vaelab.debug import explain

pytestmark = pytest.mark.filterwarnings("ignore")  # the programs are what they are

PROGRAMS = [
    p
    for p in [*corpus.PROGRAMS.values(), *corpus.fresh.FRESH.values()]
    if not p.quiet and p.devices <= jax.device_count()
]


def pasted(program, rewrites):
    """The program's module with the advice written into it."""
    lines = Path(program.file).read_text(encoding="utf-8").splitlines()
    for rewrite in sorted(rewrites, key=lambda r: -r.first_line):
        old = lines[rewrite.first_line - 1 : rewrite.last_line]
        assert (rewrite.file, "\n".join(old)) == (program.file, rewrite.old)
        lines[rewrite.first_line - 1 : rewrite.last_line] = rewrite.new.splitlines()
    name = program.build.__module__
    registry = sys.modules[corpus.Program.__module__]
    registry.PROGRAMS.clear()  # the fixture's own
    registry.FRESH.clear()
    module = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    exec(compile("\n".join(lines), program.file, "exec"), vars(module))
    return module


@pytest.fixture(autouse=True)
def _ranks_may_differ():
    """As in most programs of users."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def unregistered(monkeypatch):
    """The corpus lets a program be defined again."""
    registry = sys.modules[corpus.Program.__module__]
    monkeypatch.setattr(registry, "PROGRAMS", {})
    monkeypatch.setattr(registry, "FRESH", {})


def outcome(program):
    """`"finite"`, `"not finite"`, or None where the advice is no line of source."""
    call = program.build()
    try:
        report = explain(call.fn, *call.args, **call.kwargs)
    except NotImplementedError:  # an older JAX cannot differentiate it
        return None
    if not report.rewrites:
        assert not report.tried.startswith("tried:")
        return None
    text = " ".join(str(report).split())
    for rewrite in report.rewrites:
        assert " ".join(rewrite.new.split()) in text
    call = vars(pasted(program, report.rewrites))[program.build.__name__]()
    out = call.run()
    updated = [x for x in call.args if isinstance(x, NNX)]
    return "finite" if all_finite((out, updated)) else "not finite"


@pytest.mark.slow
@pytest.mark.versions
def test_advice_that_is_followed_literally_helps(unregistered):
    """Of all programs: most have lines to paste, and nearly all of these hold."""
    results = {program.name: outcome(program) for program in PROGRAMS}
    given = {name: result for name, result in results.items() if result is not None}
    wrong = [name for name, result in given.items() if result != "finite"]
    assert len(given) >= 0.7 * len(results), len(given) / len(results)
    assert len(wrong) <= 0.05 * len(given), wrong


@pytest.mark.parametrize("program", PROGRAMS[::40], ids=lambda program: program.name)
def test_some_of_it(program, unregistered):
    assert outcome(program) in ("finite", None)
