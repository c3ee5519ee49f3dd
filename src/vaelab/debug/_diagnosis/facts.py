"""What can be asked about the operation that failed, to find out why."""

import ast
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaelab.debug._diagnosis.sketch import Sketch
from vaelab.debug._lineage.findings import Findings
from vaelab.debug._lineage.origins import Definition
from vaelab.debug._replay.arrays import value_at
from vaelab.debug._replay.events import Event
from vaelab.debug._trace.jaxprs import is_literal
from vaelab.debug._trace.locate import Frame, place_of
from vaelab.debug._trace.source import Expression, expression_of
from vaelab.debug.report import ArraySummary, Link

__all__ = ["Facts", "assigned", "number", "spread"]

SQUARES = frozenset({"square", "integer_pow", "mul"})
_LONGEST_NAME = 40
_PRIMITIVES = {
    "divide": "div",
    "gammaln": "lgamma",
    "power": "pow",
    "reciprocal": "div",
    "true_divide": "div",
}
_OPERATORS: dict[type[ast.operator], tuple[str, ...]] = {
    ast.Add: ("add",),
    ast.Div: ("div",),
    ast.Mod: ("rem",),
    ast.Mult: ("mul",),
    ast.Pow: ("pow", "integer_pow"),
    ast.Sub: ("sub",),
}
_PRODUCTS = frozenset({"cumprod", "reduce_prod"})
_UNDERFLOWING = frozenset(
    {"convert_element_type", "div", "exp", "integer_pow", "mul", "pow"}
)
_SATURATING = frozenset({"logistic", "tanh", "erf", "erfc"})


class Facts:
    """The operation at one link of a chain.

    Args:
        found: what the replay has found.
        link: the link.
        event: its event.
    """

    def __init__(self, found: Findings, link: Link, event: Event) -> None:
        self.found = found
        self.link = link
        self.event = event
        self.primitive = link.primitive
        self.backward = link.direction == "backward"
        self.values = [operand.value for operand in link.operands]
        self.dtype = link.result.dtype

    def value(self, k: int) -> Any:
        """Operand k at the first bad index, or everywhere; NaN if it is not known."""
        value = self.values[k] if k < len(self.values) else None
        if value is not None:
            return value
        operand = self.link.operands[k] if k < len(self.link.operands) else None
        if operand is None or operand.min is None or operand.min != operand.max:
            return np.nan
        return np.nan if operand.nans or operand.infs else operand.min

    @cached_property
    def expression(self) -> Expression | None:
        """The expression in the user's source, if it is known."""
        return expression_of(self.event.frame, self.event.eqn)

    @cached_property
    def sketch(self) -> Sketch | None:
        """The same, taken apart."""
        found = self.expression
        return Sketch(found, self.dtype) if found is not None else None

    @property
    def callee(self) -> str:
        """What the user calls there, such as `norm`; empty for an operator."""
        called = self.sketch.call() if self.sketch is not None else None
        return called.name if called is not None else ""

    def written(self, k: int) -> str:
        """Operand k as the user wrote it; empty if it does not stand in the source."""
        if self.sketch is None:
            return ""
        node, called = self.sketch.node, self.sketch.call()
        parts: list[Any] = []
        if isinstance(node, ast.BinOp):
            if self.primitive in _OPERATORS.get(type(node.op), ()):
                parts = [node.left, node.right]
        elif (
            called is not None
            and _PRIMITIVES.get(called.name, called.name.replace("arc", "a"))
            == self.primitive
        ):
            parts = called.args if len(called.args) == len(self.values) else []
        text = ast.unparse(parts[k]) if k < len(parts) else ""
        return text if len(text) <= _LONGEST_NAME else ""

    def origin_of(self, k: int) -> str:
        """Where operand k comes from, in words."""
        operand = self.link.operands[k] if k < len(self.link.operands) else None
        origin = operand.origin if operand is not None else None
        if origin is None or (origin.file, origin.line) == (
            self.link.file,
            self.link.line,
        ):
            return ""
        return "" if str(origin) == "a constant" else str(origin)

    def named(self, k: int, word: str) -> str:
        """Such as `the divisor scale, from line 3: scale = x.std()`."""
        written, origin = self.written(k), self.origin_of(k)
        name = f"{word} {written}".rstrip()
        return f"{name} (from {origin})" if origin else name

    @property
    def is_hidden(self) -> bool:
        """Whether a `where` of the user's hides the result."""
        return self.sketch is not None and self.sketch.is_masked

    @property
    def in_optimizer(self) -> bool:
        """Whether it happens inside of an optimizer's update."""
        return self.callee in ("update", "apply_gradients", "apply_updates")

    @cached_property
    def near(self) -> list[tuple[Frame, Any]]:
        """The equations that the operands come from, the nearest first."""
        return list(self.found.origins.ancestors(self.event))

    def comes_from(self, *primitives: str, within: int = 12) -> bool:
        """Whether the operands come from such operations, a few steps back."""
        return any(e.primitive.name in primitives for _, e in self.near[:within])

    def maker(self, k: int) -> Definition:
        """How operand k was made."""
        return self.found.origins.definition(self.event.frame, self.event.eqn.invars[k])

    def at_index(self, definition: Definition) -> Any:
        """The element that a definition has at the first bad index, if it has one."""
        array = self.found.values([definition]).get(definition.key)
        if array is None:
            return None
        return value_at(array, self.link.result.index or (), self.link.result.shape)

    def operands_of(self, definition: Definition) -> list[Any]:
        """The elements that went into a definition, None where they are not known."""
        if definition.eqn is None:
            return []
        atoms = definition.eqn.invars
        made = [self.found.origins.definition(definition.frame, a) for a in atoms]
        self.found.values([d for d in made if not d.is_constant])  # one replay for all
        return [
            (np.asarray(a.val).item() if a.aval.shape == () else None)
            if is_literal(a)
            else self.at_index(d)
            for a, d in zip(atoms, made, strict=True)
        ]

    def squared(self, k: int) -> Any:
        """If operand k is a square that has underflowed to zero, what was squared."""
        definition = self.maker(k)
        eqn = definition.eqn
        if eqn is None or eqn.primitive.name not in SQUARES or self.value(k) != 0:
            return None
        if eqn.primitive.name == "integer_pow" and eqn.params["y"] < 2:
            return None
        same = len(eqn.invars) == 1 or eqn.invars[0] is eqn.invars[1]
        values = self.operands_of(definition)
        return values[0] if same and values and values[0] else None

    def underflowed(self, k: int) -> str | None:
        """If operand k is zero though what it was made of is not: how it was made."""
        definition = self.maker(k)
        if definition.eqn is None or self.value(k) != 0:
            return None
        name = definition.eqn.primitive.name
        if name in _PRODUCTS and self._came_from_no_zero(definition):
            return name
        values = self.operands_of(definition)
        if name in _UNDERFLOWING and values:
            if all(v is not None and np.isfinite(v) and v != 0 for v in values):
                return f"{name}({', '.join(map(number, values))})"
        return None

    def _came_from_no_zero(self, definition: Definition) -> bool:
        """Whether nothing that went into a product is zero."""
        atoms = [a for a in definition.eqn.invars if not is_literal(a)]
        made = [self.found.origins.definition(definition.frame, a) for a in atoms]
        arrays = self.found.values([d for d in made if not d.is_constant])
        return bool(arrays) and all(np.all(np.asarray(x)) for x in arrays.values())

    def saturated(self) -> str | None:
        """The saturating function that the operands come from, if there is one."""
        for frame, eqn in self.near[:8]:
            name = eqn.primitive.name
            if name in _SATURATING:
                made = self.found.origins.definition(frame, eqn.outvars[0])
                if self.at_index(made) in (0, 1, -1):
                    return "sigmoid" if name == "logistic" else name
        return None

    @property
    def summed(self) -> str | None:
        """What an operand that is zero is a sum of: `"exp"`, `"pow"`, or None."""
        for k, value in enumerate(self.values):
            for name in ("exp", "pow") if value == 0 else ():
                if self._leads(self.maker(k), ["reduce_sum", name]):
                    return name
        return None

    @property
    def subtracts_maximum(self) -> bool:
        """Whether the second operand is a maximum, and the first one is not."""
        made = [self.maker(k).eqn for k in (0, 1)]
        names = [eqn.primitive.name if eqn is not None else "" for eqn in made]
        maxima = ("reduce_max", "max")
        return names[1] in maxima and names[0] not in maxima

    def _leads(self, definition: Definition, names: list[str], most: int = 6) -> bool:
        """Whether these operations are met, in this order, a few steps back."""
        for _ in range(most):
            eqn = definition.eqn
            if eqn is not None and eqn.primitive.name == names[0]:
                names = names[1:]
            if not names or eqn is None:
                break
            operands = [atom for atom in eqn.invars if not is_literal(atom)]
            if not operands:
                break
            definition = self.found.origins.definition(definition.frame, operands[0])
        return not names

    def on_line(self, *primitives: str) -> str | None:
        """The first of these operations that is on the same line, if there is one."""
        where = (self.link.file, self.link.line)
        frame = self.event.frame
        for eqn in frame.jaxpr.eqns:
            name = eqn.primitive.name
            if name in primitives and place_of(frame, eqn).where == where:
                return name
        return None

    def is_norm(self) -> bool:
        """Whether a root of a sum of squares is among what the operands come from."""
        names = [e.primitive.name for _, e in self.near[:12]]
        if self.primitive in ("sqrt", "rsqrt"):
            names.insert(0, self.primitive)
        if "sqrt" not in names or "reduce_sum" not in names:
            return False
        after = names[names.index("reduce_sum") :]
        return any(name in SQUARES for name in after)

    def is_masked(self) -> bool:
        """Whether the cotangent that comes in was set to zero by a `where`."""
        for k, atom in enumerate(self.event.eqn.invars if self.event.eqn else ()):
            if is_literal(atom) or self.value(k) != 0:
                continue
            steps = [self.maker(k)]
            for _ in range(6):
                definition = steps[-1]
                eqn, frame = definition.eqn, definition.frame
                if eqn is None or not frame.is_backward(eqn):
                    break
                if eqn.primitive.name == "select_n":
                    return True
                operands = [a for a in eqn.invars if not is_literal(a)]
                if not operands:
                    break
                steps.append(self.found.origins.definition(frame, operands[0]))
        return False

    @property
    def entering(self) -> ArraySummary | None:
        """The value from another line that the failing line is about.

        Where something is zero, one that is zero comes first.
        """
        arrays = [
            a
            for a in self.link.line_inputs
            if "float" in a.dtype or "complex" in a.dtype
        ]
        zero = [a for a in arrays if a.zeros] if 0 in self.values else []
        return next(iter([*zero, *arrays]), None)

    def names_of_zeros(self) -> set[str | None]:
        """What enters the line, is zero somewhere and nowhere below: its names."""
        origins = self.found.origins
        definitions = origins.entering(self.event)
        arrays = self.found.values(definitions)
        names: set[str | None] = set()
        for definition in definitions:
            array = np.asarray(arrays.get(definition.key, np.ones(())))
            is_real = jnp.issubdtype(array.dtype, jnp.floating)
            if is_real and array.size and array.min() == 0:
                origin = origins.origin(definition)
                names.add(origin.argument or assigned(origin.source))
        return names - {None}

    @property
    def limit(self) -> float:
        """The largest finite number of the result's dtype."""
        try:
            return float(jnp.finfo(self.dtype).max)
        except ValueError:  # complex, or no number at all
            return float(jnp.finfo(jnp.float32).max)

    @property
    def tiny(self) -> float:
        """The smallest normal number of the result's dtype."""
        try:
            return float(jnp.finfo(self.dtype).tiny)
        except ValueError:  # complex, or no number at all
            return float(jnp.finfo(jnp.float32).tiny)

    @property
    def largest_operand(self) -> float | None:
        """The size of the largest number in the operands; None if some are infinite."""
        operands = self.link.operands
        if any(operand.infs or operand.nans for operand in operands):
            return None
        ends = [x for o in operands for x in (o.min, o.max) if x is not None]
        return max(map(abs, ends), default=None)

    @property
    def is_overflow(self) -> bool:
        """Whether a number became too large, without a zero or Inf in the operands."""
        return (
            self.link.kind == "inf"
            and bool(self.largest_operand)
            and not any(value == 0 for value in self.values)
        )

    @property
    def is_half(self) -> bool:
        """Whether the result has a type of less than 32 bits."""
        return any(t in self.dtype for t in ("float16", "float8", "float4", "float6"))

    @property
    def matrix_scale(self) -> float | None:
        """The largest entry of the operand, by its size."""
        for operand in self.link.operands:
            if operand.min is not None and operand.max is not None:
                return max(abs(operand.min), abs(operand.max)) or None
        return None

    def inputs(self) -> Iterator[tuple[str, Any]]:
        """Path and array of each argument that is no state of an NNX object."""
        call = self.found.call
        yield from zip(
            call.paths[: call.state_start], call.leaves[: call.state_start], strict=True
        )


def assigned(source: str | None) -> str | None:
    """`std` for `std = jnp.exp(log_std)`."""
    name, equals, _ = (source or "").partition(" = ")
    return name.split(":")[0].strip() if equals and name.isidentifier() else None


def number(value: Any) -> str:
    """A number in a sentence."""
    if value is None:
        return "?"
    return f"{value:.4g}" if isinstance(value, (float, complex)) else str(value)


def spread(low: float, high: float) -> str:
    """The range of an array in a sentence, after its subject."""
    if low == high:
        return f"is {number(low)}"
    return f"lies between {number(low)} and {number(high)}"
