import dataclasses
import re
import sys
import types

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


def test_the_first_lines_say_what_why_and_what_to_do(report):
    lines = str(report).splitlines()
    assert (
        lines[0]
        == f"Inf: exp in the forward pass, test_report.py:{report.line} in softmax"
    )
    assert lines[1] == "    weights = jnp.exp(x)"
    assert lines[2].startswith("cause:  exp overflows: 1000 is above 88.72")
    [advice] = [i for i, line in enumerate(lines) if line.startswith("advice: ")]
    assert lines[advice] == "advice: Write the maximum subtracted, as a softmax does:"
    assert lines[advice + 1].endswith("weights = jnp.exp(x - jnp.max(x))")
    assert lines[advice + 2] == "        (tried: all outputs and gradients are finite)"


def test_the_chain_comes_after_them(report):
    text = str(report)
    assert f"{__file__}:{report.line} in softmax\n    weights = jnp.exp(x)" in text
    assert "exp(1000) = inf, first at index [1]" in text
    assert "operand 0: float32[2] 1 to 1000, from argument x" in text
    assert "then NaN: div in the forward pass" in text
    assert "reaches 1 output: output" in text
    assert len(text.splitlines()) < 30


def test_prose_is_wrapped_and_no_statement_is_told_twice():
    def solve(a, b):
        doubled = 2 * a
        return jnp.linalg.solve(doubled, b)

    report = explain(solve, jnp.zeros((2, 2)), jnp.ones(2))
    lines = str(report).splitlines()
    code = ("def ", "return", "=", "/", "line ")
    prose = [line for line in lines if not line.strip().startswith(code)]
    assert max(map(len, prose)) <= 78
    origins = lines[lines.index(next(x for x in lines if x.startswith("first "))) :]
    assert " ".join(origins).count("doubled = 2 * a") <= 1
    assert "its condition number is" in report.cause


def test_a_cell_of_a_notebook_has_its_number(report, monkeypatch):
    names = {"/tmp/ipykernel_1/2.py": ("Cell", "In[5]")}
    compiler = types.SimpleNamespace(format_code_name=names.get)
    shell = types.SimpleNamespace(compile=compiler)
    fake = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    link = dataclasses.replace(report.chain[0], file="/tmp/ipykernel_1/2.py", line=3)
    assert link.place == "cell 5, line 3 in softmax"
    assert report.chain[0].place == f"test_report.py:{report.line} in softmax"


def test_the_card_for_a_notebook(report):
    html = report._repr_html_()
    assert html.startswith("<div") and html.endswith("</div>")
    assert html.count("<tr>") == html.count("</tr>") >= 8
    assert "<b>first Inf</b>" in html and "<b>then NaN</b>" in html
    assert "<code>weights = jnp.exp(x)</code>" in html
    shown, folded = html.split("<details>")
    for words in ("exp overflows", "jnp.exp(x - jnp.max(x))", "tried: ", "<button"):
        assert words in shown
    assert "operand 0" in folded


def test_the_card_sets_no_colour_that_a_dark_page_would_hide(report):
    html = report._repr_html_()
    colours = set(re.findall(r"(?<!-)(?:color|background):([^;\"]+)", html))
    assert colours <= {"inherit", "rgba(127,127,127,.15)"}
    assert "overflow-wrap:anywhere" in html  # narrow pages


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
