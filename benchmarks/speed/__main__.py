"""Runs the benchmark, prints its tables and writes them down."""

import argparse
import json
import os
import pathlib
import statistics
from typing import Any

import benchmarks.speed
from benchmarks.speed import alone, machine, race, tables
from benchmarks.speed.contestants import CONTESTANTS
from benchmarks.speed.works import WORKS


def main() -> None:
    """Reads the options and does what they say."""
    options = _options()
    # The contestants' processes share an accelerator's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    results: dict[str, Any] = {
        "machine": alone.in_fresh_process(machine.describe),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "speed": {},
    }
    for key, result in race.race(
        options.works, options.contestants, options.rounds, options.seconds
    ):
        results["speed"][key] = result
        print(f"{tables.race_table(result, key)}\n", flush=True)
        _write(options.json, results)  # whoever stops it early keeps what there is
    if "B" in options.works:
        print("learning from scratch ...", flush=True)
        results["learning_epochs"] = race.LEARNING_EPOCHS
        results["losses"] = race.learn(options.contestants)
    if options.alone:
        print("startup, memory, many models, scaling ...", flush=True)
        results.update(_alone(options.seconds, options.rounds))
    results["requirements"] = [
        {**line._asdict(), "holds": line.holds} for line in tables.requirements(results)
    ]
    text = tables.markdown(results)
    print(f"\n{text}")
    _write(options.json, results)
    if options.markdown:
        _write(options.markdown, text)


def _alone(seconds: float, rounds: int) -> dict[str, Any]:
    fresh = alone.in_fresh_process
    return {
        "startup": statistics.median(fresh(alone.startup) for _ in range(3)),
        "memory": fresh(alone.memory),
        "many": fresh(alone.many, rounds),
        "guard": {
            key: fresh(alone.guard, key, seconds, rounds) for key in alone.GUARDED
        },
        "scaling": {
            str(n): fresh(alone.scaling, n, seconds, rounds) for n in alone.SCALING
        },
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=(benchmarks.speed.__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("--works", type=_some_of(WORKS), default=list(WORKS))
    add("--contestants", type=_some_of(CONTESTANTS), default=list(CONTESTANTS))
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=1.0, help="of each contestant in each round")
    add(
        "--alone",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure startup, memory, fit_many and scaling",
    )
    add("--json", type=pathlib.Path, default=pathlib.Path("build/bench.json"))
    add("--markdown", type=pathlib.Path, help="a file for the tables")
    return parser.parse_args()


def _some_of(known: dict[str, Any]) -> Any:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is unknown: choose from {', '.join(known)}"
                )
        return chosen

    return names


def _write(path: pathlib.Path, content: str | dict[str, Any]) -> None:
    if isinstance(content, dict):
        content = json.dumps(content, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


if __name__ == "__main__":
    main()
