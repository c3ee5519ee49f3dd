"""The expression in the user's source that an equation comes from.

JAX keeps the code object and the instruction of each Python frame, and since Python
3.11 an instruction knows its first and last column. So an equation leads to the very
`jnp.sqrt(x)` of a line that has three of them.
"""

import ast
import linecache
import types
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from vaelab.debug._trace.jaxprs import raw_frames
from vaelab.debug._trace.locate import Frame, around, users_first

__all__ = ["Expression", "expression_of"]


@dataclass(frozen=True)
class Expression:
    """An expression, and what is around it.

    Attributes:
        file: its file.
        code: the code object it runs in.
        tree: the syntax tree of the whole file.
        node: the expression's own part of it.
        function: the function's; None at the level of the module.
        codes: the code objects of the user's that were running in this file.
    """

    file: str
    code: types.CodeType
    tree: Any
    node: Any
    function: Any
    codes: tuple[types.CodeType, ...] = ()

    def text(self, node: Any = None) -> str:
        """The source of a node on one line; of the expression itself without one."""
        return ast.unparse(self.node if node is None else node)

    @property
    def lines(self) -> list[str]:
        """The lines of the file."""
        return linecache.getlines(self.file)

    @cached_property
    def statement(self) -> Any:
        """The innermost statement around the expression."""
        return self.statement_of(self.node)

    def statement_of(self, node: Any) -> Any:
        """The innermost statement around a node."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    @cached_property
    def parents(self) -> dict[Any, Any]:
        """The node around each node."""
        return parents(self.tree)

    def definition(self, name: str) -> Any:
        """The expression that a name was last set to before this one, if it is plain.

        Looks in the function, and in those around it.
        """
        found, function = None, self.function
        while found is None and function is not None:
            for node in ast.walk(function):
                if not isinstance(node, ast.Assign) or len(node.targets) != 1:
                    continue
                target = node.targets[0]
                if isinstance(target, ast.Name) and target.id == name:
                    if node.lineno < self.node.lineno:
                        found = node.value
            function = self._outer(function)
        return found

    def _outer(self, function: Any) -> Any:
        node = self.parents.get(function)
        while node is not None and not isinstance(node, _FUNCTIONS):
            node = self.parents.get(node)
        return node


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def expression_of(frame: Frame, eqn: Any) -> Expression | None:
    """The innermost expression of the user's that led to an equation, if known."""
    running = [pair for e in around(frame, eqn) for pair in raw_frames(e)]
    innermost = users_first(running, lambda pair: pair[0].co_filename)
    if innermost is None:
        return None
    code, instruction = innermost
    found = _expression(code, instruction)
    if found is None:
        return None
    file = code.co_filename
    codes = dict.fromkeys(c for c, _ in running if c.co_filename == file)
    return replace(found, codes=tuple(codes))


def _expression(code: types.CodeType, instruction: int) -> Expression | None:
    tree = parsed(code.co_filename)
    positions = list(code.co_positions())
    if tree is None or not 0 <= instruction // 2 < len(positions):
        return None
    node = _by_span(tree).get(positions[instruction // 2])
    if node is None:
        return None
    return Expression(code.co_filename, code, tree, node, _function(tree, code))


@lru_cache(maxsize=32)
def _by_span(tree: Any) -> dict[Any, Any]:
    """The outermost expression of each place in the source."""
    found: dict[Any, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            found.setdefault(_span(node), node)
    return found


@lru_cache(maxsize=32)
def _definitions(tree: Any) -> list[Any]:
    return [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]


def _span(node: Any) -> tuple[int, int, int, int]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _function(tree: Any, code: types.CodeType) -> Any:
    """The definition that a code object was compiled from."""
    for node in _definitions(tree):
        if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            spans = {span for span in code.co_positions() if None not in span}
            if _span(node.body) in spans:
                return node
        elif isinstance(node, _FUNCTIONS[:2]) and node.name == code.co_name:
            lines = [d.lineno for d in node.decorator_list] + [node.lineno]
            if code.co_firstlineno == min(lines):
                return node
    return None


def parsed(file: str) -> Any:
    """The syntax tree of a file, or of a cell of a notebook; None if there is none."""
    return _parsed("".join(linecache.getlines(file)))


@lru_cache(maxsize=32)
def _parsed(source: str) -> Any:
    try:
        return ast.parse(source) if source else None
    except SyntaxError:  # the file was changed since
        return None


@lru_cache(maxsize=32)
def parents(tree: Any) -> dict[Any, Any]:
    """The node around each node of a tree."""
    return {
        child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)
    }
