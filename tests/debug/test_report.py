import dataclasses
import json
import os
import re
import shutil
import subprocess
from html import escape

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from vaelab.debug import explain
from vaelab.debug._show.text import WIDTH
from vaelab.debug.report import ArraySummary, Bin, Origin, Rewrite


def softmax(x):
    weights = jnp.exp(x)
    return weights / jnp.sum(weights)


CODE = "weights = jnp.exp(x - jnp.max(x))\nreturn weights / jnp.sum(weights)"
TRIED = "all outputs are finite"


@pytest.fixture(scope="module")
def report():
    x = jnp.array([1.0, -1e-3, 0.0, 1000.0])
    found = explain(jax.jit(softmax), x, verify=False)
    assert found is not None
    return found


def replaced(report, **changes):
    return dataclasses.replace(report, **changes)


def test_the_first_lines_say_what_and_where_why_and_what_to_do(report):
    text = str(replaced(report, cause="Too large.", advice="Divide.", tried=TRIED))
    assert text.splitlines()[:6] == [
        f"Inf from exp at test_report.py:{report.line} in softmax, forward pass",
        "cause:  Too large.",
        "advice: Divide.",
        f"tried:  {TRIED}",
        "",
        "first Inf: exp, forward pass",
    ]


def test_the_chain_follows(report):
    text = str(report)
    assert f"{__file__}:{report.line} in softmax\n    weights = jnp.exp(x)" in text
    assert "exp(1000) = inf, first at index [3]" in text
    assert "operand 0: float32[4] -0.001 to 1000 (1 zero), from argument x" in text
    assert "then NaN: div, forward pass\n" in text
    assert text.endswith("reaches 1 output: output")
    assert len(text.splitlines()) < 30


def test_lines_are_78_columns_wide_and_hang(report):
    long = "Some words that say why it is so, at length. " * 5
    link = replaced(report.chain[0], source="y = " + " + ".join(["variable"] * 20))
    changed = replaced(report, cause=long, advice=long, chain=(link,), notes=(long,))
    text = str(changed)
    # A path is never broken: terminals and editors open it.
    lines = [line for line in text.splitlines() if __file__ not in line]
    assert max(map(len, lines)) <= WIDTH == 78
    after = text.partition("advice: ")[2].splitlines()[1:3]
    assert all(re.match(" {8}[^ ]", line) for line in after)
    assert " ".join(text.split()).count(" ".join(long.split())) == 3


def test_code_is_never_broken(report):
    line = "y = jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0) + offset * 2"
    text = str(replaced(report, advice=f"{line}\n{line}"))
    assert f"advice:\n        {line}\n        {line}\n" in text
    assert f"advice: {line}\n" in str(replaced(report, advice=line))
    mixed = str(replaced(report, advice=f"Write instead:\n    {line}"))
    assert f"advice: Write instead:\n        {line}\n" in mixed


def test_a_statement_is_printed_once(report):
    again = replaced(
        report.chain[0],
        operands=report.chain[0].operands * 2,
        line_inputs=(ArraySummary((), "float32", origin=_origin(report)),) * 3,
    )
    text = str(replaced(report, chain=(again, again), others=(again, again)))
    assert text.count("weights = jnp.exp(x)") == 1
    html = replaced(report, chain=(again, again), others=(again,))._repr_html_()
    assert html.count("weights = jnp.exp(x)") == 1


def _origin(report):
    return Origin(report.file, report.line, report.source, None, "exp")


def test_an_array_that_enters_the_line_and_is_an_operand_is_shown_once(report):
    link = replaced(report.chain[0], line_inputs=report.chain[0].operands)
    assert "enters the line:" not in str(replaced(report, chain=(link,)))


def test_the_card(report):
    html = replaced(report, advice=CODE, tried=TRIED)._repr_html_()
    assert html.startswith('<div class="vaelab-report">') and html.endswith("</div>")
    for tag in ("div", "p", "pre", "code", "dl", "li", "details", "button"):
        assert len(re.findall(f"<{tag}[ >]", html)) == html.count(f"</{tag}>")
    before, _, chain = html.partition("<details>")
    assert f"test_report.py:{report.line} in softmax" in before
    assert escape(report.cause) in before and TRIED in before
    assert f"<pre><code>{CODE}</code></pre><button" in before
    assert "first Inf: exp" in chain and "then NaN: div" in chain
    assert "<script" not in html and html.count("onclick") == 1
    classes = re.findall('class="([^"]*)"', html)  # Bootstrap has a `row`, for one
    assert classes and all(name.startswith("vaelab-") for name in classes)


def test_prose_has_no_copy_button(report):
    assert "<button" not in replaced(report, advice="Divide by two.")._repr_html_()


def test_html_is_escaped(report):
    changed = replaced(report, cause="a < b & c", advice="x = a < b", tried="<i>")
    html = changed._repr_html_()
    assert "a &lt; b &amp; c" in html and "x = a &lt; b" in html
    assert "<i>" not in html


PAGES = {
    "plain": ("", ""),
    "Sphinx, light": ('data-theme="light"', ""),
    "Sphinx, dark": ('data-theme="dark"', ""),
    "Colab, dark": ('theme="dark"', ""),
    "Jupyter, light": ("", 'data-jp-theme-light="true"'),
    "Jupyter, dark": ("", 'data-jp-theme-light="false"'),
    "VS Code, dark": ("", 'class="vscode-dark"'),
}
# What themes do to what lies in their pages: sphinx-book-theme lays the output of a
# cell on a light ground, and colours code for a dark one.
THEME = """
html[data-theme=dark] .output {background: #ced6dd; color: #14181e}
html[data-theme=dark] :is(p, code, pre, dt, dd, summary) {color: #f3f4f5}
:is(p, code, pre, dt, dd, summary, li, span, button) {color: #777}
code {background: #222832; border: 1px solid; padding: 9px} dd {margin-left: 2rem}
"""
MEASURE = """
function light(c) { c = c.map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; }
function channels(text) { return text.match(/[\\d.]+/g).map(Number); }
function ground(node) { for (; node; node = node.parentElement) {
    const c = channels(getComputedStyle(node).backgroundColor);
    if (c.length < 4 || c[3] == 1) return c; }
  return [255, 255, 255]; }
function measured(frame) { const page = frame.contentDocument, found = [];
  const card = page.querySelector('.vaelab-report');
  const walk = page.createTreeWalker(card, 4);
  while (walk.nextNode()) { const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || node.tagName == 'STYLE') continue;
    const a = light(channels(getComputedStyle(node).color)), b = light(ground(node));
    found.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)); }
  const root = page.documentElement;
  return {name: frame.title, texts: found.length, contrast: Math.min(...found),
    ground: light(ground(card)), wide: root.scrollWidth - root.clientWidth}; }
onload = () => { const frames = [...document.querySelectorAll('iframe')];
  document.body.innerText = JSON.stringify(frames.map(measured)); };
"""


@pytest.mark.parametrize("system", ["light", "dark"])
def test_every_text_can_be_read_in_a_browser(report, system, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("there is no chromium: nobody has looked at the card")
    long = replaced(report, advice=CODE + f"  # {'long' * 40}", tried=TRIED)
    card = long._repr_html_().replace("<details>", "<details open>")
    frames = []
    for name, (root, body) in PAGES.items():
        page = f"<html {root}><style>{THEME}</style><body {body}>"
        page = escape(f"<!doctype html>{page}<div class=output>{card}</div>")
        frames.append(f'<iframe title="{name}" width=390 srcdoc="{page}"></iframe>')
    path = tmp_path / "page.html"
    path.write_text(f"<script>{MEASURE}</script>{''.join(frames)}")
    scheme = {"dark": 0, "light": 1}[system]
    command = f"--headless --no-sandbox --disable-gpu --user-data-dir={tmp_path}/home"
    command += f" --blink-settings=preferredColorScheme={scheme} --dump-dom"
    done = subprocess.run(
        [browser, *command.split(), path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    found = json.loads(re.search(r"<body>(.*)</body>", done.stdout, re.S)[1])
    assert [page["name"] for page in found] == list(PAGES)
    for page in found:
        assert page["texts"] > 20, page
        assert page["contrast"] >= 4.5, page
        assert page["wide"] <= 0, page  # at 390 pixels
        theme = page["name"].partition(", ")[2] or system
        assert (page["ground"] > 0.5) == (theme == "light"), page


def test_the_picture_of_the_operands(report):
    figure = report.plot()
    [axis] = figure.axes
    reds = [p for p in axis.patches if p.get_facecolor() == RED and p.get_height()]
    assert [p.get_x() for p in reds] == [3.0]  # 1000 is 10 ** 3, and alone is bad
    below = [p for p in axis.patches if p.get_height() < 0]
    assert [p.get_x() for p in below] == [-3.0]  # -0.001
    assert "0" in [tick.get_text() for tick in axis.get_xticklabels()]
    assert "operand 0: float32[4] -0.001 to 1000" in axis.get_title(loc="left")
    given = matplotlib.figure.Figure().subplots(2)
    assert report.plot(axes=given) is given[0].figure


RED = matplotlib.colors.to_rgba("tab:red")


def test_a_picture_needs_arrays_and_axes(report):
    link = replaced(report.chain[0], operands=(), line_inputs=())
    with pytest.raises(ValueError, match="exp has no operands of numbers"):
        replaced(report, chain=(link,)).plot()
    with pytest.raises(ValueError, match="axes has 0 axes: 1 arrays need"):
        report.plot(axes=np.array([]))


def test_elements_are_counted_by_sign_and_size(report):
    assert report.operands[0].bins == (
        Bin(-1, -3.0, 1, 0),
        Bin(0, 0.0, 1, 0),
        Bin(1, 0.0, 1, 0),
        Bin(1, 3.0, 1, 1),
    )


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


def test_lines_to_write_are_code_and_what_came_of_them_follows(report):
    new = Rewrite(report.file, report.line, report.line, "old", "    y = safe(x)\n")
    later = dataclasses.replace(new, first_line=99, new="    z = y\n")
    changed = replaced(
        report,
        advice="Write it so:\n  line 21: y = safe(x)\nAlso scale the data.",
        rewrites=(new,),
        tried="tried: all outputs are finite",
    )
    text = str(changed)
    code = "        y = safe(x)\n        Also scale the data."
    assert f"advice: Write it so:\n{code}\ntried:  all outputs" in text
    assert "<pre><code>y = safe(x)</code></pre><button" in changed._repr_html_()
    text = str(replaced(changed, rewrites=(new, later), notes=("a part is missing",)))
    assert "\n        line 99:\n        z = y\n" in text
    assert text.endswith("note: a part is missing")
