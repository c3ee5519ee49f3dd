"""An error in a part of the explainer leaves the rest of the explanation."""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import pytest

from vaelab.debug import explain
from vaelab.debug._diagnosis import answer, writing
from vaelab.debug._diagnosis.disease import Disease, Rank
from vaelab.debug._lineage import findings
from vaelab.debug._replay.interpreter import Replay
from vaelab.debug._verify import advice

# The package's attribute `explain` is the function.
MODULE = __import__("sys").modules["vaelab.debug.explain"]


def loss(x):
    return jnp.log(x).sum()


def broken(*_, **__):
    raise RuntimeError("broken on purpose")


@pytest.mark.parametrize(
    ("owner", "name", "lost"),
    [
        (MODULE, "silenced", ()),
        (MODULE, "module_scopes", ("module",)),
        (MODULE, "_lineage", ("operands",)),
        (Replay, "run", ("operands",)),
        (findings, "direction_of", ("direction",)),
        (writing, "_line_inputs", ("line_inputs",)),
        (writing, "cause_and_advice", ("cause", "advice")),
        (advice, "outcome", ("rewrites",)),
        (advice, "clamped_outputs", ()),
    ],
)
def test_a_broken_part(owner, name, lost, monkeypatch):
    whole = explain(jax.jit(loss), jnp.zeros(2))
    monkeypatch.setattr(owner, name, broken)
    report = explain(jax.jit(loss), jnp.zeros(2))
    assert report is not None
    for field in ("kind", "line", "source", "outputs"):
        if name not in ("_lineage", "run") or field in ("kind", "outputs"):
            assert getattr(report, field) == getattr(whole, field)
    assert report.cause and report.advice and str(report)
    if name != "clamped_outputs":  # not needed here
        assert "broken on purpose" in " ".join(report.notes)
        assert "note:" in str(report)


def test_a_broken_disease_leaves_the_others(monkeypatch):
    all_of_them = {"broken": Disease(broken, Rank.PATTERN), **answer.diseases()}
    monkeypatch.setattr(answer, "diseases", lambda: all_of_them)
    report = explain(loss, jnp.zeros(2))
    assert "log of exactly 0" in report.cause
    assert "broken on purpose" in " ".join(report.notes)


@pytest.mark.parametrize(
    "solve",
    [
        lambda a, b: jnp.linalg.solve(a, b),
        lambda a, b: jnp.linalg.inv(a) @ b,
        lambda a, b: jsp.linalg.expm(a) @ b,
        lambda a, b: jsp.sparse.linalg.cg(a, b)[0],
    ],
    ids=["solve", "inv", "expm", "cg"],
)
def test_programs_with_solvers(solve):
    a, b = jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.ones(2)
    assert explain(solve, a, b) is None

    def loss(a, b):
        return jnp.log(0 * solve(a, b).sum())

    report = explain(jax.jit(loss), a, b)
    assert (report.primitive, report.notes) == ("log", ())


def test_errors_of_the_users_come_through():
    with pytest.raises(ZeroDivisionError):
        explain(lambda x: 1 / 0, jnp.ones(2))
