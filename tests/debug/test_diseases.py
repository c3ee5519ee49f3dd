"""A disease is one file, and nothing else knows of it."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from vaelab.debug import explain
from vaelab.debug._diagnosis import diseases as folder
from vaelab.debug._diagnosis.disease import Rank

A_DISEASE_OF_ONES_OWN = '''
"""The logarithm of what is exactly three times zero."""

from vaelab.debug._diagnosis.disease import Disease, Rank


def _cause(f, *_):
    if f.primitive == "log" and f.callee == "log":
        return "A disease of one's own.", "Advice of one's own."


def _remedy(sketch, facts, called):
    yield "a remedy of one's own", f"{sketch.jnp}.log1p({sketch.plain(called.args[0])})"


DISEASE = Disease(_cause, Rank.PATTERN, remedies={"log": _remedy})
'''


@pytest.fixture
def searched_anew():
    def forget():
        folder.diseases.cache_clear()
        folder.remedies.cache_clear()

    forget()
    yield
    forget()


def test_a_new_file_is_a_new_disease(tmp_path, monkeypatch, searched_anew):
    (tmp_path / "aaa.py").write_text(A_DISEASE_OF_ONES_OWN)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    report = explain(jax.jit(lambda x: jnp.log(3 * x)), jnp.zeros(2))
    assert report.cause == "A disease of one's own."
    assert "jnp.log1p(3 * x)" in report.advice


@pytest.mark.parametrize("name", folder.diseases())
def test_each_says_what_it_is(name):
    module = importlib.import_module(f"{folder.__name__}.{name}")
    assert module.__doc__.endswith(".")
    assert isinstance(module.DISEASE.rank, Rank)


def test_the_more_special_ones_are_asked_first():
    found = folder.diseases()
    order = list(found)
    assert [d.rank for d in found.values()] == sorted(d.rank for d in found.values())
    for name, disease in found.items():
        for later in disease.before:
            assert found[later].rank == disease.rank
            assert order.index(name) < order.index(later)
