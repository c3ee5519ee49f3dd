"""How a program is registered, and how its marked lines are found."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = [
    "FRESH",
    "PROGRAMS",
    "UNSTATED",
    "Call",
    "Program",
    "agrees",
    "call",
    "program",
    "quiet",
]

# The value of an expectation that a program makes no claim about.
UNSTATED = "unstated"


@dataclass(frozen=True)
class Call:
    """A call to explain: `fn(*args, **kwargs)`, and the same call repaired by hand."""

    fn: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    repair: "Call | None" = None

    def run(self) -> Any:
        """Make the call."""
        return self.fn(*self.args, **self.kwargs)

    def repaired(self, fn: Callable[..., Any], *args: Any) -> "Call":
        """This call, with the repaired one beside it: the same arguments, or others."""
        return replace(self, repair=Call(fn, args or self.args, self.kwargs))


def call(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    """The call `fn(*args, **kwargs)`, not made yet."""
    return Call(fn, args, kwargs)


@dataclass(frozen=True)
class Program:
    """One program and what a user would call the right answer.

    `build` makes a fresh call each time. `line`, `then` and `also` are line numbers of
    `file`, read from the marks. `iteration` counts from 0, outermost loop first; for a
    scan it is the position in `xs`, in whichever order the scan runs. `inputs` are
    words which the report's paths of non-finite arguments must contain, one each.
    `devices` is the number of devices the program needs.

    The fresh programs state more. `cause` holds words that a right cause contains, and
    `never` words that neither cause nor advice may contain. `zero` is the line that
    made the zero by which `line` divides, marked `# <- zero`, and `zero_name` its name
    there. An expectation `"a|b"` is met by a and by b.
    """

    name: str
    theme: str
    build: Callable[[], Call]
    file: str
    line: int | None
    then: tuple[int, ...]
    also: tuple[int, ...]
    kind: str | None
    direction: str | None
    primitive: str
    module: str | None
    iteration: tuple[int, ...] | str
    inputs: tuple[str, ...]
    devices: int
    cause: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    zero: int | None = None
    zero_name: str = ""

    @property
    def quiet(self) -> bool:
        """Whether every output is finite, so that there is nothing to explain."""
        return self.kind is None


PROGRAMS: dict[str, Program] = {}
FRESH: dict[str, Program] = {}


def agrees(seen: Any, expected: Any) -> bool:
    """Whether what was seen is what was expected, or one of `"a|b"`."""
    if expected == UNSTATED or seen == expected:
        return True
    return isinstance(expected, str) and seen in expected.split("|")


def program(
    *,
    kind: str | None,
    direction: str | None,
    primitive: str = UNSTATED,
    module: str | None = UNSTATED,
    iteration: tuple[int, ...] | str = UNSTATED,
    inputs: tuple[str, ...] = (),
    devices: int = 1,
    cause: tuple[str, ...] = (),
    never: tuple[str, ...] = (),
) -> Callable[[Callable[[], Call]], Callable[[], Call]]:
    """Register the decorated function; what is left out is not checked."""

    def register(build: Callable[[], Call]) -> Callable[[], Call]:
        name = build.__name__
        here = _marked(build, "# <- here")
        zero = _marked(build, "# <- zero")
        programs = FRESH if ".fresh." in build.__module__ else PROGRAMS
        if name in PROGRAMS or name in FRESH:
            raise ValueError(f"two programs are called {name!r}; rename one")
        if len(here) != (kind is not None):
            raise ValueError(
                f"program {name!r} marks {len(here)} lines '# <- here'; "
                "a failing program marks one, a quiet one none"
            )
        programs[name] = Program(
            name=name,
            theme=build.__module__.rpartition(".")[2],
            build=build,
            file=str(inspect.getsourcefile(build)),
            line=here[0] if here else None,
            then=_marked(build, "# <- then"),
            also=_marked(build, "# <- also"),
            kind=kind,
            direction=direction,
            primitive=primitive,
            module=module,
            iteration=iteration,
            inputs=inputs,
            devices=devices,
            cause=cause,
            never=never,
            zero=zero[0] if zero else None,
            zero_name=_assigned(build, zero),
        )
        return build

    return register


quiet = program(kind=None, direction=None)


def _marked(build: Callable[[], Call], mark: str) -> tuple[int, ...]:
    """The numbers of the lines of `build` that end with `mark`."""
    lines, first = inspect.getsourcelines(build)
    return tuple(
        i for i, line in enumerate(lines, first) if line.rstrip().endswith(mark)
    )


def _assigned(build: Callable[[], Call], lines: tuple[int, ...]) -> str:
    """The name that is assigned on the first of `lines`, if there is one."""
    text, first = inspect.getsourcelines(build)
    return text[lines[0] - first].partition("=")[0].strip() if lines else ""
