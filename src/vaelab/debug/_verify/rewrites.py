"""Repairs as the lines that the user is to write."""

import ast
from typing import Any

import numpy as np

from vaelab.debug._diagnosis.sketch import Repair
from vaelab.debug._trace.source import Expression
from vaelab.debug.report import Rewrite

__all__ = ["rewrites_of"]


def rewrites_of(repairs: list[Repair]) -> tuple[Rewrite, ...]:
    """The statements that the changes are in, before and after."""
    found = []
    for file in dict.fromkeys(repair.expression.file for repair in repairs):
        there = [r for r in repairs if r.expression.file == file]
        expression = there[0].expression
        statements: dict[Any, dict[Any, str]] = {}
        for node, code in [change for r in there for change in r.changes]:
            statements.setdefault(expression.statement_of(node), {})[node] = code
        for inside in statements.values():
            lines = _rewritten(expression, list(inside.items()))
            found.append(Rewrite(expression.file, *lines))
    return tuple(sorted(found, key=lambda r: r.first_line))


def _rewritten(
    expression: Expression, changes: list[tuple[Any, str]]
) -> tuple[int, int, str, str]:
    """The lines that the changes touch, as they are and as they become."""
    first = min(node.lineno for node, _ in changes)
    last = max(node.end_lineno for node, _ in changes)
    lines = expression.lines[first - 1 : last]
    text = "".join(lines)
    starts = np.cumsum([0, *(len(line) for line in lines)])

    def place(line: int, column: int) -> int:
        encoded = lines[line - first].encode()[:column]
        return int(starts[line - first]) + len(encoded.decode())

    spans = sorted(
        (
            (place(n.lineno, n.col_offset), place(n.end_lineno, n.end_col_offset), code)
            for n, code in changes
        ),
        reverse=True,
    )
    new = text
    for start, end, code in spans:
        new = new[:start] + _fitting(code, text, start, end) + new[end:]
    return first, last, text.rstrip("\n"), new.rstrip("\n")


def _fitting(code: str, text: str, start: int, end: int) -> str:
    """A replacement in parentheses, where the expression around might tear it apart."""
    tree = ast.parse(code, mode="eval").body
    atoms = (ast.Call, ast.Name, ast.Attribute, ast.Subscript, ast.Constant)
    before = text[:start].rstrip()
    alone = before.endswith(("=", "(", ",", "return", ":")) and text[end:].lstrip()[
        :1
    ] in ("", ")", ",", "#", "]")
    if isinstance(tree, atoms) or alone or code.startswith("("):
        return code
    return f"({code})"
