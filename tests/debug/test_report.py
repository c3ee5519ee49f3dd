import dataclasses

import jax
import jax.numpy as jnp
import pytest

from vaelab.debug import explain
from vaelab.debug.report import ArraySummary, Origin


def softmax(x):
    weights = jnp.exp(x)
    return weights / jnp.sum(weights)


@pytest.fixture
def report():
    return explain(jax.jit(softmax), jnp.array([1.0, 1000.0]))


def test_the_block_for_a_terminal(report):
    text = str(report)
    assert text.startswith("first Inf: exp in the forward pass\n")
    assert f"{__file__}:{report.line} in softmax\n    weights = jnp.exp(x)" in text
    assert "exp(1000) = inf, first at index [1]" in text
    assert "operand 0: float32[2] 1 to 1000, from argument x" in text
    assert "then NaN: div in the forward pass" in text
    assert "reaches 1 output: output" in text
    assert f"cause:  {report.cause}" in text
    assert f"advice: {report.advice}" in text
    assert len(text.splitlines()) < 25


def test_the_table_for_a_notebook(report):
    html = report._repr_html_()
    assert html.startswith("<table>") and html.endswith("</table>")
    assert html.count("<tr>") == html.count("</tr>") >= 10
    assert "<b>first Inf</b>" in html and "<b>then NaN</b>" in html
    assert "<code>weights = jnp.exp(x)</code>" in html


def test_html_is_escaped(report):
    changed = dataclasses.replace(report, cause="a < b & c")
    assert "a &lt; b &amp; c" in changed._repr_html_()


def test_reports_cannot_be_changed(report):
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.cause = "?"


def test_a_summary_in_words():
    summary = ArraySummary((2, 3), "float32", min=0.0, max=2.5, zeros=1, nans=2)
    assert str(summary) == "float32[2, 3] 0 to 2.5 (1 zero) (2 nan)"
    assert str(ArraySummary((), "float16", min=3.0, max=3.0)) == "float16[] = 3"
    assert str(ArraySummary((4,), "float32", infs=4)) == "float32[4] (4 inf)"


def test_an_origin_in_words():
    assert str(Origin(argument="batch['x']")) == "argument batch['x']"
    assert str(Origin()) == "a constant"
    line = Origin("a.py", 3, "y = jnp.exp(x)", "encoder", "exp")
    assert str(line) == "line 3 in module encoder: y = jnp.exp(x)"


def test_verification_is_printed():
    report = explain(jnp.log, jnp.array([1.0, 0.0]), verify=True)
    assert "checked: in float64 it fails as well" in str(report)
    assert "checked" in report._repr_html_()
