"""`explain` on programs that were written before it met them."""

import sys
from collections import Counter
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import corpus.fresh
from corpus._judge import judge

from vaelab.debug import explain

pytestmark = pytest.mark.filterwarnings("ignore")  # the programs are what they are

PROGRAMS = [p for p in corpus.fresh.FRESH.values() if p.devices <= jax.device_count()]
FAILING = [p for p in PROGRAMS if not p.quiet]
QUIET = [p for p in PROGRAMS if p.quiet]


@pytest.fixture(autouse=True)
def _ranks_may_differ():
    """As in most programs of users."""
    with jax.numpy_rank_promotion("allow"):
        yield


def report_on(program):
    call = program.build()
    return explain(call.fn, *call.args, **call.kwargs)


@pytest.mark.slow
@pytest.mark.versions
def test_the_score_on_the_fresh_programs():
    right: Counter[str] = Counter()
    stated: Counter[str] = Counter()
    for program in FAILING:
        try:
            report = report_on(program)
        except NotImplementedError:  # an older JAX cannot differentiate it
            continue
        assert report is not None and report.notes in ((), _SKIPPED), program.name
        verdict = judge(program, report)
        stated.update([*verdict, "everything"])
        right.update(name for name, ok in verdict.items() if ok)
        right["everything"] += all(verdict.values())
    shares = {name: right[name] / stated[name] for name in stated}
    assert min(shares[n] for n in ("line", "kind", "direction")) >= 0.97, shares
    assert min(shares[n] for n in ("primitive", "iteration")) >= 0.95, shares
    assert min(shares[n] for n in ("cause", "everything")) >= 0.9, shares


_SKIPPED = ("io_callback was not run: it counts as zeros",)


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("program", QUIET, ids=lambda program: program.name)
def test_there_is_no_false_alarm(program):
    assert report_on(program) is None


@pytest.mark.parametrize("program", FAILING[::30], ids=lambda program: program.name)
def test_some_of_them(program):
    report = report_on(program)
    assert (report.file, report.line) == (program.file, program.line)
    assert all(judge(program, report).values()), report
