"""The results as Markdown, and which of the required ratios hold."""

from typing import Any, NamedTuple

from benchmarks.speed.contestants import CONTESTANTS
from benchmarks.speed.works import WORKS


class Requirement(NamedTuple):
    """A ratio that should be small; None if it was not measured."""

    text: str
    limit: float
    ratio: float | None

    @property
    def holds(self) -> bool | None:
        """Whether it is small enough."""
        return None if self.ratio is None else self.ratio <= self.limit


def requirements(results: dict[str, Any]) -> list[Requirement]:
    """Compares what was measured with what is promised."""
    speed = results["speed"]

    def ratio(work: str, name: str) -> float | None:
        """Time of `fit` over that of another."""
        to_fit = speed.get(work, {}).get(name, {}).get("to_fit")
        return to_fit and 1 / to_fit

    def against(name: str, limits: dict[str, float]) -> list[Requirement]:
        title = CONTESTANTS[name].title
        return [
            Requirement(f"{work}: fit to {title}", limit, ratio(work, name))
            for work, limit in limits.items()
            if work in speed and name in speed[work]
        ]

    lines = against("scan", {"A": 0.9, "B": 0.9, "C": 1.0, "D": 1.0})
    lines += against("flax", {"A": 1.0, "B": 1 / 8, "C": 1 / 2, "D": 1 / 2})
    for name, contestant in CONTESTANTS.items():
        if contestant.is_peer and name != "flax":
            lines += against(name, dict.fromkeys(WORKS, 1.0))
    many = (results.get("many") or {}).get("ratio")
    lines.append(Requirement("16 models at once to one by one", 0.5, many))
    guards = results.get("guard") or {}
    return [
        *lines,
        *(
            Requirement(f"{key}: guarded to unguarded fit", 1.03, guard)
            for key, guard in guards.items()
        ),
    ]


def markdown(results: dict[str, Any]) -> str:
    """Returns all tables."""
    parts = [_machine(results["machine"]), _speed(results["speed"])]
    parts += [race_table(results["speed"][key], key) for key in results["speed"]]
    if results.get("losses"):
        parts.append(_losses(results["losses"], results["learning_epochs"]))
    if "startup" in results:
        parts.append(_alone(results))
        parts.append(_scaling(results["scaling"]))
    return "\n\n".join([*parts, required(results)]) + "\n"


def required(results: dict[str, Any]) -> str:
    """Returns the table of required ratios."""
    verdict = {True: "yes", False: "**no**", None: ""}
    rows = [
        [
            line.text,
            f"≤ {line.limit:.3g}",
            "not measured" if line.ratio is None else f"{line.ratio:.3f}",
            verdict[line.holds],
        ]
        for line in requirements(results)
    ]
    return _table(["ratio of times", "required", "measured", "holds"], rows)


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    accelerator = machine["accelerator"]
    device = f", {accelerator}" if accelerator else ""
    load = machine["load"]
    busy = "" if load is None else f", {load:.1f} other processes at work"
    return (
        f"{machine['processor']}, {machine['cores']} cores{device}, "
        f"{machine['system']}{busy}; {versions}."
    )


def _speed(speed: dict[str, Any]) -> str:
    """One table of all works: microseconds per step."""
    names = {name: None for work in speed.values() for name in work}
    rows = [
        [CONTESTANTS[name].title]
        + [_microseconds(work.get(name, {})) for work in speed.values()]
        for name in names
    ]
    return _table(["µs per step", *speed], rows)


def race_table(work: dict[str, Any], key: str) -> str:
    """Returns the table of one work."""
    rows = []
    for name, result in work.items():
        title = CONTESTANTS[name].title
        if "missing" in result:
            rows.append([title, result["missing"], *[""] * 5])
            continue
        rows.append(
            [
                title,
                f"{result['median']:.0f}",
                f"{result['iqr']:.0f}",
                _ratio(result.get("to_fit")),
                _ratio(result.get("to_scan")),
                _milliseconds(result.get("call_milliseconds")),
                f"{result['first_epoch_seconds']:.1f}",
            ]
        )
    header = [
        f"{key}: {WORKS[key].title}",
        "µs per step",
        "IQR",
        "to fit",
        "to scan",
        "a call, ms",
        "first epoch, s",
    ]
    return _table(header, rows)


def _losses(losses: dict[str, float], epochs: int) -> str:
    rows = [[CONTESTANTS[name].title, f"{x:.2f}"] for name, x in losses.items()]
    return _table([f"loss on B in epoch {epochs}", "nats per image"], rows)


def _alone(results: dict[str, Any]) -> str:
    memory, many = results["memory"], results["many"]
    peak = "unknown here"
    if memory is not None:
        peak = (
            f"{memory['peak']:.0f} MiB, {memory['before']:.0f} of it before training, "
            f"{memory['images']:.0f} of that the images"
        )
    rows = [
        ["`import vaelab` to the first epoch on digits", f"{results['startup']:.1f} s"],
        ["peak memory of `fit`, 60,000 images of 28x28", peak],
        [f"16 models at once, {many['epochs']} epochs", f"{many['at_once']:.2f} s"],
        ["the same one by one", f"{many['one_by_one']:.2f} s"],
    ]
    return _table(["also", ""], rows)


def _scaling(scaling: dict[str, float]) -> str:
    rows = [[f"{int(n):,}", f"{rate:,.0f}"] for n, rate in scaling.items()]
    return _table(["784-512-2 on n images", "images per second"], rows)


def _microseconds(result: dict[str, Any]) -> str:
    if "missing" in result:
        return result["missing"].split(":")[0]
    return f"{result['median']:.0f}" if result else ""


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{max(value, 0):.0f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
