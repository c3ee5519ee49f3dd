"""A call run again, one equation at a time, with the lineage of all that is not finite.

Calls such as `jit`, `remat`, `custom_jvp` and the taken branch of a `cond` are entered.
Loops run compiled, as a whole, and are stepped through only if they return something
non-finite; see `loops`.
"""

from typing import Any

from vaelab.debug._replay import loops
from vaelab.debug._replay.arrays import kinds
from vaelab.debug._replay.events import CLEAN, Events, Source, Taint
from vaelab.debug._replay.plain import Plain
from vaelab.debug._replay.shards import Shards
from vaelab.debug._trace.jaxprs import call_body, is_literal, open_jaxpr
from vaelab.debug._trace.locate import Frame

__all__ = ["Replay", "Watch"]


class Watch:
    """Values to look at during a replay: variables of certain frames."""

    def __init__(self, wanted: set[tuple[Any, Any]]) -> None:
        self.wanted = wanted
        self.found: dict[tuple[Any, Any], Any] = {}
        self.frames = {key for key, _ in wanted}
        self.prefixes = {key[:n] for key in self.frames for n in range(len(key) + 1)}

    @property
    def done(self) -> bool:
        """Whether all values have been seen."""
        return len(self.found) == len(self.wanted)

    def is_inside(self, key: Any, eqn: Any) -> bool:
        """Whether some of the values are in frames that this equation runs."""
        n = len(key)
        return any(
            len(frame) > n and frame[:n] == key and frame[n][0] == id(eqn)
            for frame in self.frames
        )

    def see(self, key: Any, variables: list[Any], values: list[Any]) -> None:
        """Keeps the values that are wanted."""
        if key in self.frames:
            for variable, value in zip(variables, values, strict=False):
                if (key, variable) in self.wanted:
                    self.found.setdefault((key, variable), value)


class Replay:
    """One run of a call; `events` says what became non-finite where.

    Args:
        world: how single equations run.
        watch: if given, values to look at.
        events: where to collect events; None to follow no lineage.
        curious: whether to step through loops that return nothing bad, too.
    """

    def __init__(
        self,
        world: Plain | Shards | None = None,
        watch: Watch | None = None,
        events: Events | None = None,
        curious: bool = False,
    ) -> None:
        self.world = world or Plain()
        self.watch = watch
        self.events = events
        self.curious = curious

    def within(self, world: Plain | Shards) -> "Replay":
        """A replay of a part, in which equations run in another way."""
        return Replay(world, self.watch, self.events, self.curious)

    def call(self, closed: Any, args: list[Any]) -> list[Any]:
        """Runs a jaxpr without looking inside."""
        if isinstance(self.world, Plain):
            return self.world.call(closed, args)
        jaxpr, consts = open_jaxpr(closed)
        return Replay(self.world).run(Frame(jaxpr), consts, args, [CLEAN] * len(args))[
            0
        ]

    def run(
        self,
        frame: Frame,
        consts: list[Any],
        args: list[Any],
        taints: list[Taint],
        wanted: list[bool] | None = None,
    ) -> tuple[list[Any], list[Taint]]:
        """Runs a frame's jaxpr; returns its outputs and the taint of each.

        Args:
            frame: the jaxpr and what is around it.
            consts: the values of its constants.
            args: the values of its arguments.
            taints: the taint of each argument.
            wanted: which outputs are needed; the others may be None.
        """
        jaxpr = frame.jaxpr
        values = [*consts, *args]
        marks = [self._of_constant(const) for const in consts] + list(taints)
        variables = [*jaxpr.constvars, *jaxpr.invars]
        env = dict(zip(variables, zip(values, marks, strict=True), strict=True))
        key = frame.key
        if self.watch:
            self.watch.see(key, variables, values)

        def read(atom: Any) -> tuple[Any, Taint]:
            if is_literal(atom):
                return atom.val, self._of_constant(atom.val)
            return env[atom]

        steps, last_use = _needed(jaxpr, wanted)
        for k, eqn in steps:
            pairs = [read(atom) for atom in eqn.invars]
            ins, its = [x for x, _ in pairs], [taint for _, taint in pairs]
            live = [v in last_use for v in eqn.outvars]
            outs, marks = self._equation(frame, eqn, ins, its, live)
            for v, out, mark in zip(eqn.outvars, outs, marks, strict=True):
                if v in last_use:
                    env[v] = (out, mark)
            if self.watch:
                self.watch.see(key, eqn.outvars, outs)
                if self.watch.done:
                    break
            for atom in eqn.invars:
                if not is_literal(atom) and last_use.get(atom) == k:
                    env.pop(atom, None)
        results = [
            read(atom) if is_literal(atom) or atom in env else (None, CLEAN)
            for atom in jaxpr.outvars
        ]
        return [value for value, _ in results], [taint for _, taint in results]

    def _of_constant(self, value: Any) -> Taint:
        nan, inf = kinds(value) if self.events else (False, False)
        return frozenset({Source("nan" if nan else "inf")}) if nan or inf else CLEAN

    def _equation(
        self,
        frame: Frame,
        eqn: Any,
        ins: list[Any],
        its: list[Taint],
        live: list[bool],
    ) -> tuple[list[Any], list[Taint]]:
        name = eqn.primitive.name
        body = call_body(eqn)
        if body is not None:
            return self.run(Frame(body[0], frame, eqn), body[1], ins, its, live)
        if name == "cond":
            branch = self.world.branch(ins[0])
            if branch is not None:
                branches = eqn.params["branches"]
                branch = min(max(branch, 0), len(branches) - 1)
                jaxpr, consts = open_jaxpr(branches[branch])
                child = Frame(jaxpr, frame, eqn, "cond", branch=branch)
                return self.run(child, consts, ins[1:], its[1:], live)
        enter = loops.ENTERED.get(name)
        if enter is not None:
            return self._entered(enter, frame, eqn, ins, its)
        outs = self.world.bind(eqn, ins)
        if self.events is None:
            return outs, [CLEAN] * len(outs)
        return outs, self.events.taints(frame, eqn, ins, its, outs, self.world.bind)

    def _entered(
        self, enter: Any, frame: Frame, eqn: Any, ins: list[Any], its: list[Taint]
    ) -> tuple[list[Any], list[Taint]]:
        """Runs a loop or a shard_map, and steps through it if that tells something."""
        if isinstance(self.world, Shards):
            return enter(self, frame, eqn, ins, its)
        outs = self.world.bind(eqn, ins)
        clean = [CLEAN] * len(outs)
        if self.watch is not None and self.watch.is_inside(frame.key, eqn):
            enter(self, frame, eqn, ins, its)
        if self.events is None:
            return outs, clean
        if not self.curious and not any(any(kinds(out)) for out in outs):
            return outs, clean
        _, taints = enter(self, frame, eqn, ins, its)
        return outs, [
            CLEAN
            if not any(kinds(out))
            else taint or self.events.compiled_only(frame, eqn, ins, its, out)
            for taint, out in zip(taints, outs, strict=True)
        ]


def _needed(
    jaxpr: Any, wanted: list[bool] | None
) -> tuple[list[tuple[int, Any]], dict[Any, int]]:
    """The equations that the wanted outputs depend on, and each variable's last use."""
    wanted = wanted or [True] * len(jaxpr.outvars)
    last: dict[Any, int] = {
        v: len(jaxpr.eqns)
        for v, is_wanted in zip(jaxpr.outvars, wanted, strict=True)
        if is_wanted and not is_literal(v)
    }
    steps = []
    for k, eqn in reversed(list(enumerate(jaxpr.eqns))):
        if any(v in last for v in eqn.outvars):
            steps.append((k, eqn))
            for atom in eqn.invars:
                if not is_literal(atom):
                    last.setdefault(atom, k)
    return steps[::-1], last
