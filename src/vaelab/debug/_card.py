"""A report as a card in a notebook: what, why and what to do; the rest folded away.

Colours are inherited or half transparent, so that the card is legible on a light page
and on a dark one. The only script is in the button that copies the advice.
"""

import textwrap
from html import escape
from typing import Any

__all__ = ["card"]

_CARD = (
    "border:1px solid rgba(127,127,127,.5);border-radius:8px;padding:.6em 1em;"
    "max-width:52em;text-align:left;overflow-wrap:anywhere;color:inherit"
)
_CODE = (
    "background:rgba(127,127,127,.15);color:inherit;padding:.5em .7em;margin:.3em 0;"
    "border-radius:5px;white-space:pre-wrap;overflow-wrap:anywhere;text-align:left"
)
_COPY = "navigator.clipboard.writeText(this.previousElementSibling.innerText)"


def card(
    headline: str,
    place: str,
    report: Any,
    rows: list[tuple[str, str]],
) -> str:
    """The HTML of a report.

    Args:
        headline: what happened.
        place: where.
        report: the report.
        rows: the chain, as pairs of a title and of HTML.
    """
    parts = [f"<div><b>{escape(headline)}</b>, {escape(place)}</div>"]
    if report.source:
        parts.append(_block(report.source))
    parts.append(f"<p><b>cause</b> {escape(report.cause)}</p>")
    words = report.advice
    if report.rewrites:
        words = words.partition("\n")[0]
    parts.append(f"<p><b>advice</b> {escape(words)}</p>")
    for rewrite in report.rewrites:
        button = f'<button onclick="{_COPY}">copy</button>'
        parts.append(
            f"<div>line {rewrite.first_line}{_block(rewrite.new)}{button}</div>"
        )
    if report.tried:
        parts.append(f"<p><i>{escape(report.tried)}</i></p>")
    left = ' style="text-align:left;overflow-wrap:anywhere"'
    cells = (f"<tr><td{left}>{a}</td><td{left}>{b}</td></tr>" for a, b in rows)
    parts.append(
        "<details><summary>what happened, operation by operation</summary>"
        f'<div style="overflow-x:auto"><table>{"".join(cells)}</table></div></details>'
    )
    return f'<div style="{_CARD}">{"".join(parts)}</div>'


def _block(code: str) -> str:
    return f'<pre style="{_CODE}">{escape(textwrap.dedent(code))}</pre>'
