"""A report as a card for a notebook.

Its colours are its own, for text and ground alike, so that it can be read on whatever
page it lies. Light or dark goes by the page where the page says so, as Jupyter, Colab,
VS Code and the themes of Sphinx do, and else by what the reader's system prefers. The
only script copies the advice.
"""

from html import escape
from typing import TYPE_CHECKING

from vaelab.debug._places import place_in_words
from vaelab.debug._show import words

if TYPE_CHECKING:
    from vaelab.debug.report import Link, NonFiniteReport
    from vaelab.debug.spikes import Growth, SpikeReport

__all__ = ["report_as_html", "spike_as_html"]


def report_as_html(report: "NonFiniteReport") -> str:
    """Place, cause, advice and whether it was tried; the chain folds out."""
    statements = words.Statements(report.file)
    head = f"<strong>{words.kind(report)}</strong> from "
    head += f"<code>{escape(report.primitive)}</code> at {escape(words.place(report))}"
    rows = [
        f"<p>{head}, {escape(words.circumstances(report))}</p>",
        _statement(report, statements),
        _row("cause", f"<p>{escape(report.cause)}</p>"),
        _row("advice", "".join(_advice(*part) for part in words.parts(report))),
    ]
    if report.tried:
        rows.append(_row("tried", f"<p>{escape(words.tried(report))}</p>"))
    links = [
        _link(link, "first" if i == 0 else "then", statements)
        for i, link in enumerate(report.chain)
    ]
    events = f"{len(links)} event" + "s" * (len(links) != 1)
    summary = f"the chain: {events}, reaching {words.counted(report.outputs)}"
    rows.append(
        f"<details><summary>{summary}</summary><ol>{''.join(links)}</ol>"
        f"{''.join(_rest(report, statements))}</details>"
    )
    return _card(rows)


def spike_as_html(report: "SpikeReport") -> str:
    """Where the leap begins, cause and advice; what amplifies folds out."""
    rows = [f"<p><strong>{escape(words.headline_of_spike(report))}</strong></p>"]
    top = report.largest
    statements = words.Statements(top.file if top else None)
    if top is not None:
        rows.append(_statement(top, statements))
    rows.append(_row("cause", f"<p>{escape(words.cause_of_spike(report))}</p>"))
    if report.advice:
        rows.append(_row("advice", f"<p>{escape(report.advice)}</p>"))
    if report.tried:
        rows.append(_row("tried", f"<p>{escape(words.tried(report))}</p>"))
    if report.chain:
        growths = "".join(_growth(growth, statements) for growth in report.chain)
        summary = "what amplifies, on the way to the loss"
        rows.append(
            f"<details><summary>{summary}</summary><ol>{growths}</ol></details>"
        )
    return _card(rows)


def _growth(growth: "Growth", statements: words.Statements) -> str:
    times = f"{growth.primitive}, {growth.amplification:.3g} times"
    module = f", module {growth.module}" if growth.module else ""
    place = escape(f"{words.place(growth)}{module}")
    shown = f"<p><strong>{escape(times)}</strong>, {place}</p>"
    return f"<li>{shown}{_statement(growth, statements)}</li>"


def _card(rows: list[str]) -> str:
    return f'<div class="vaelab-report"><style>{_STYLE}</style>{"".join(rows)}</div>'


def _row(label: str, content: str) -> str:
    label = f'<span class="vaelab-label">{label}</span>'
    return f'<div class="vaelab-row">{label}{content}</div>'


def _advice(what: str, text: str) -> str:
    if what == "prose":
        return f"<p>{escape(text)}</p>"
    return (
        f'<div class="vaelab-copied"><pre><code>{escape(text)}</code></pre>'
        f'<button type="button" onclick="{_COPY}">copy</button></div>'
    )


_COPY = (
    "navigator.clipboard.writeText(this.previousElementSibling.textContent)"
    ".then(() => this.textContent = 'copied')"
)


def _link(link: "Link", order: str, statements: words.Statements) -> str:
    event = f"{order} {words.kind(link)}: {link.primitive}"
    found = [f"<p><strong>{escape(event)}</strong>, {escape(words.place(link))}, "]
    found.append(f"{escape(words.circumstances(link))}</p>")
    found.append(_statement(link, statements))
    if link.example:
        index = list(link.result.index or ())
        example = f"<code>{escape(link.example)}</code>, first at index {index}"
        found.append(f"<p>{example}</p>")
    found.append("<dl>")
    for name, array in words.arrays(link):
        text = f"{array}{words.there(array)}{statements.origin(array.origin)}"
        found.append(f"<dt>{name}</dt><dd>{escape(text)}</dd>")
    return f"<li>{''.join(found)}</dl></li>"


def _statement(
    link: "Link | NonFiniteReport | Growth", statements: words.Statements
) -> str:
    """The user's line and the library's line inside of it, unless shown before."""
    shown = ""
    if link.source and statements.first(link.file, link.line):
        shown += f"<pre><code>{escape(link.source)}</code></pre>"
    inside = link.inside
    if inside is not None and inside.source and inside.file is not None:
        if statements.first(inside.file, inside.line):
            place = escape(place_in_words(inside.file, inside.line))
            code = f"<pre><code>{escape(inside.source)}</code></pre>"
            shown += f"<p>inside {place}</p>{code}"
    return shown


def _rest(report: "NonFiniteReport", statements: words.Statements) -> list[str]:
    found = []
    if report.inputs:
        inputs = escape(words.listed(report.inputs))
        found.append(f"<p>non-finite before the call: {inputs}</p>")
    found.append(f"<p>reaches {escape(words.listed(report.outputs))}</p>")
    for link in report.others:
        found.append(f"<p>also {escape(words.headline(link))}</p>")
        found.append(_statement(link, statements))
    return found + [f"<p>note: {escape(note)}</p>" for note in report.notes]


def _both(light: str, dark: str, name: str = "color") -> str:
    """A colour for either page; browsers before 2024 take the light one."""
    return f"{name}:{light};{name}:light-dark({light},{dark})"


_TEXT, _QUIET = _both("#1f2328", "#e6edf3"), _both("#4b535d", "#b1bac4")
_GROUND = _both("#ffffff", "#161b22", "background-color")
_INSET = _both("#eef1f4", "#262c36", "background-color")
_EDGE = _both("#c2c8d0", "#444c56", "border-color")
_BAR = _both("#c62828", "#ff7b72", "border-left-color")
_BAD = _both("#a81d1d", "#ff9a92")
# Twice, to outdo what the themes of documentation say of code and paragraphs.
_CARD = ".vaelab-report.vaelab-report"

_STYLE = f"""
.text_html:has(>{_CARD}){{background:none!important;padding:0!important}}
{_CARD}{{color-scheme:light dark;box-sizing:border-box;max-width:52rem;
 margin:.5em 0;padding:.7em 1em;border:1px solid;{_EDGE};border-radius:6px;
 border-left-width:4px;{_BAR};{_GROUND};{_TEXT};
 font:14px/1.5 system-ui,sans-serif;text-align:left;overflow-wrap:anywhere}}
[data-theme=light] {_CARD},[theme=light] {_CARD},[data-jp-theme-light=true] {_CARD},
.vscode-light {_CARD}{{color-scheme:light}}
[data-theme=dark] {_CARD},[theme=dark] {_CARD},[data-jp-theme-light=false] {_CARD},
.vscode-dark {_CARD}{{color-scheme:dark}}
{_CARD} :is(p,pre,ol,li,dl,dt,dd,details,summary,div){{margin:0;padding:0;border:0;
 background:none;color:inherit;font-size:inherit;line-height:inherit;box-shadow:none}}
{_CARD} :is(p,pre,details,.vaelab-row,.vaelab-copied,li){{margin:.35em 0}}
{_CARD} strong{{{_BAD}}}
{_CARD} code{{font:13px/1.45 ui-monospace,monospace;color:inherit;background:none;
 border:0;padding:0;white-space:inherit}}
{_CARD} pre{{{_INSET};padding:.45em .7em;border-radius:4px;white-space:pre-wrap;
 overflow:visible}}
{_CARD} .vaelab-row{{display:grid;grid-template-columns:4em minmax(0,1fr);
 column-gap:.6em}}
{_CARD} .vaelab-row>*{{grid-column:2}}
{_CARD} .vaelab-row>.vaelab-label{{grid-column:1;grid-row:1;margin:.35em 0;{_QUIET}}}
{_CARD} .vaelab-copied{{display:flex;align-items:flex-start;gap:.5em}}
{_CARD} .vaelab-copied>pre{{flex:1;min-width:0;margin:0;user-select:all}}
{_CARD} button{{font:inherit;cursor:pointer;padding:.2em .7em;border:1px solid;{_EDGE};
 border-radius:4px;{_INSET};{_TEXT}}}
{_CARD} summary{{cursor:pointer;{_QUIET}}}
{_CARD} ol{{padding-left:1.4em}}
{_CARD} dl{{display:grid;grid-template-columns:max-content minmax(0,1fr);
 column-gap:.8em}}
{_CARD} dt{{{_QUIET};font-weight:normal}}
@media (max-width:480px){{{_CARD} .vaelab-row,{_CARD} dl{{grid-template-columns:1fr}}
 {_CARD} .vaelab-row>*{{grid-column:1}}
 {_CARD} .vaelab-row>.vaelab-label{{grid-row:auto;margin-bottom:0}}
 {_CARD} dd{{padding-left:1em}}}}
"""
