"""Parts of sentences that several diseases say."""

from vaelab.debug._diagnosis.facts import Facts, spread

__all__ = ["entering", "example", "lost_epsilon", "reached"]


def example(f: Facts) -> str:
    """Such as `log(0) = -inf`."""
    return f.link.example or f"{f.primitive} gives {f.link.kind}"


def entering(f: Facts) -> str:
    """Where the values of the line come from, and their range."""
    array = f.entering
    if array is None or array.min is None or array.max is None or array.origin is None:
        return ""
    if array.origin.argument is not None:
        where = f"argument {array.origin.argument}"
    elif array.origin.line is not None:
        module = f" in module {array.origin.module}" if array.origin.module else ""
        where = f"line {array.origin.line}{module}"
        if array.origin.source:
            where += f" ({array.origin.source})"
    else:
        return ""
    return f"; what enters the line, from {where}, {spread(array.min, array.max)}"


def lost_epsilon(f: Facts) -> str:
    """Says that a small number on the way has become 0 in half precision."""
    if not f.is_half or f.sketch is None:
        return ""
    if f.in_optimizer:
        return f"; the optimizer's eps, such as 1e-8, is 0 in {f.dtype}"
    text = f.sketch.expression.text()
    if "eps" in text or "1e-" in text:
        return f"; the epsilon in {text} is 0 in {f.dtype}"
    made = f.maker(len(f.values) - 1) if f.event.eqn is not None else None
    if made is not None and made.eqn is not None and made.eqn.primitive.name == "sub":
        return f"; the difference is lost to rounding in {f.dtype}"
    return ""


def reached(f: Facts) -> str:
    """What a zero does to the operation."""
    if f.primitive == "log":
        return "the logarithm of 0 is -inf"
    if f.backward and "log" in (f.link.source or ""):
        return "the gradient of the logarithm divides by it"
    return example(f)
