"""Expressions of the user's, rewritten with the names that stand in them.

A `Sketch` takes an expression apart and writes parts of other ones: what is called with
what, under which names the user imported `jax.numpy`, and numbers that fit the dtype.
"""

import ast
import sys
import types
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from vaelab.debug._trace.source import Expression

__all__ = ["Called", "Repair", "Sketch"]

_METHODS = frozenset(
    "apply_gradients astype cumsum dot get max mean min prod std sum".split()
    + ["take", "update", "var"]
)
_LONG = 24  # an expression of more characters is not written twice


class Repair(NamedTuple):
    """Another way to write some expressions.

    Attributes:
        what: the idea in a few words.
        changes: each node with what to write instead.
        expression: one of the expressions; the others are in the same file.
    """

    what: str
    changes: tuple[tuple[Any, str], ...]
    expression: Expression


class Called(NamedTuple):
    """A call taken apart.

    Attributes:
        name: of the function, without the module it is in; of a method that arrays do
            not have, with a dot before it.
        args: its positional arguments; of a method, what it belongs to comes first.
        keywords: its keyword arguments.
    """

    name: str
    args: list[Any]
    keywords: dict[str, Any]


class Sketch:
    """An expression that failed, as material for others.

    Args:
        expression: the expression.
        dtype: of the failing operation's result.
    """

    def __init__(self, expression: Expression, dtype: str) -> None:
        self.expression = expression
        self.node = expression.node
        self.modules = _in_namespace(expression.file) | _modules(expression.tree)
        real = {"complex64": "float32", "complex128": "float64"}
        self.dtype = real.get(dtype, dtype)
        if "float" not in self.dtype:
            self.dtype = "float32"

    @property
    def jnp(self) -> str:
        """What the user calls `jax.numpy`."""
        return self._alias("jax.numpy")

    @property
    def jax(self) -> str:
        """What the user calls `jax`."""
        return self._alias("jax")

    def _alias(self, module: str) -> str:
        for alias, name in self.modules.items():
            if name == module:
                return alias
        parent, dot, last = module.rpartition(".")
        return f"{self._alias(parent)}.{last}" if dot else module

    @property
    def tiny(self) -> str:
        """The smallest normal number of the dtype."""
        return f"{self.jnp}.finfo({self.jnp}.{self.dtype}).tiny"

    @property
    def eps(self) -> str:
        """The gap above 1 in the dtype."""
        return f"{self.jnp}.finfo({self.jnp}.{self.dtype}).eps"

    @property
    def lowest(self) -> str:
        """A large negative number that may still be added to others."""
        return f"{self.jnp}.finfo({self.jnp}.{self.dtype}).min / 2"

    def text(self, node: Any) -> str:
        """A node as an operand: in parentheses where it needs them."""
        written = ast.unparse(node)
        atoms = (ast.Name, ast.Call, ast.Attribute, ast.Subscript, ast.Constant)
        return written if isinstance(node, atoms) else f"({written})"

    def plain(self, node: Any) -> str:
        """A node where no parentheses are needed."""
        return ast.unparse(node)

    def twice(self, node: Any) -> tuple[str, str]:
        """A node to be written several times: the first time, and later."""
        written = self.text(node)
        if len(written) <= _LONG:
            return written, written
        return f"(safe := {ast.unparse(node)})", "safe"

    def call(self, node: Any = None) -> Called | None:
        """A call taken apart; None for other expressions."""
        node = self.node if node is None else node
        if not isinstance(node, ast.Call):
            return None
        keywords = {k.arg: k.value for k in node.keywords if k.arg is not None}
        function = node.func
        if isinstance(function, ast.Name):
            return Called(function.id, list(node.args), keywords)
        if not isinstance(function, ast.Attribute):
            return None
        root = function.value
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in self.modules:
            return Called(function.attr, list(node.args), keywords)
        dot = "" if function.attr in _METHODS else "."  # of an object unknown here
        return Called(f"{dot}{function.attr}", [function.value, *node.args], keywords)

    def with_argument(self, new: str, k: int = 0, node: Any = None) -> str:
        """The call again, with another positional argument."""
        node = self.node if node is None else node
        called = self.call(node)
        assert called is not None
        offset = len(called.args) - len(node.args)
        if k < offset:
            head = ast.unparse(node.func.value)
            return ast.unparse(node).replace(head, f"({new})", 1)
        args = [ast.unparse(a) for a in node.args]
        args[k - offset] = new
        args += [ast.unparse(keyword) for keyword in node.keywords]
        return f"{ast.unparse(node.func)}({', '.join(args)})"

    def options(self, called: Called, *names: str) -> str:
        """Some of a call's keyword arguments, to be appended to others."""
        chosen = {k: v for k, v in called.keywords.items() if k in names}
        return "".join(f", {k}={ast.unparse(v)}" for k, v in chosen.items())

    def resolved(self, node: Any) -> Any:
        """What a name was set to, if that is known; other nodes as they are."""
        for _ in range(4):
            if not isinstance(node, ast.Name):
                break
            value = self.expression.definition(node.id)
            if value is None:
                break
            node = value
        return node

    @property
    def is_masked(self) -> bool:
        """Whether the expression, or the name it is given, goes into a `where`."""
        node = self.node
        parents = self.expression.parents
        while node in parents and not isinstance(node, ast.stmt):
            node = parents[node]
            called = self.call(node)
            if called is not None and called.name in ("where", "select"):
                return True
        if isinstance(node, ast.Assign) and self.expression.function is not None:
            names = {t.id for t in node.targets if isinstance(t, ast.Name)}
            for other in ast.walk(self.expression.function):
                called = self.call(other)
                if called is not None and called.name in ("where", "select"):
                    used = {n.id for n in ast.walk(other) if isinstance(n, ast.Name)}
                    if names & used:
                        return True
        return False

    def infinities(self) -> list[Any]:
        """Where the function, or those around it, write down an infinity."""
        found = []
        function: Any = self.expression.function
        outer = self.expression.parents
        while outer.get(function) is not None and isinstance(
            outer[function], (ast.FunctionDef, ast.Lambda)
        ):
            function = outer[function]
        for node in ast.walk(function) if function is not None else ():
            if _is_infinity(node):
                found.append(node)
        inner = {id(n) for f in found for n in ast.walk(f) if n is not f}
        return [node for node in found if id(node) not in inner]


def _is_infinity(node: Any) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_infinity(node.operand)
    if isinstance(node, ast.Attribute):
        return node.attr == "inf"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id == "float" and "inf" in ast.unparse(node)
    return False


def _in_namespace(file: str) -> dict[str, str]:
    """The modules that a file's code knows by name; a cell's are those of the notebook.

    A cell of a notebook is a source of its own, and its imports are in another cell.
    """
    known = list(sys.modules.values())
    found = next((m for m in known if getattr(m, "__file__", None) == file), None)
    namespace = vars(found or sys.modules["__main__"])
    return {
        name: value.__name__
        for name, value in list(namespace.items())
        if isinstance(value, types.ModuleType)
    }


@lru_cache(maxsize=32)
def _modules(tree: Any) -> dict[str, str]:
    return dict(_imports(tree))


def _imports(tree: Any) -> Iterator[tuple[str, str]]:
    """The names under which modules (and their parts) are imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, alias.name
                else:
                    yield alias.name.split(".")[0], alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"
