"""The race: each contestant in a process of its own, one at work at a time.

Processes keep the frameworks' thread pools and settings apart. The times of one round
lie close together, so that ratios within a round share the machine's moods.
"""

import contextlib
import dataclasses
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.speed.contestants import CONTESTANTS, Contestant, Trainer
from benchmarks.speed.works import WORKS, Work

LEARNING_EPOCHS = 200
FEWEST_EPOCHS = 5


@dataclasses.dataclass(frozen=True)
class Begin:
    """Makes a new model; the answer is the time until its first epoch is finished."""

    work: Work


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains it for some epochs; the answer is the time and the last one's loss."""

    epochs: int


def serve(pipe: Connection, contestant: Contestant) -> None:
    """Runs in a contestant's process: does what the pipe says until it closes."""
    train: Trainer | None = None
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            match pipe.recv():
                case Begin(work):
                    images = work.images()
                    start = time.perf_counter()
                    try:
                        train = contestant.trainer(work, images)
                        train(1)
                        pipe.send(time.perf_counter() - start)
                    except Exception as error:  # the table says so, the others go on
                        pipe.send(f"{type(error).__name__}: {error}")
                case Train(epochs):
                    assert train is not None
                    start = time.perf_counter()
                    loss = train(epochs)
                    pipe.send((time.perf_counter() - start, loss))


class Worker:
    """A contestant's process, seen from outside."""

    def __init__(self, contestant: Contestant) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, contestant)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, work: Work) -> float:
        """Makes a new model and returns the seconds to its first finished epoch."""
        answer = self._ask(Begin(work))
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def train(self, epochs: int) -> tuple[float, float]:
        """Returns the seconds that some epochs take, and the last one's mean loss."""
        return self._ask(Train(epochs))

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, request: Begin | Train) -> Any:
        self._pipe.send(request)
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"the process ended with exit code {self._process.exitcode}"
            ) from None


def epochs_for(seconds: float, run: Callable[[int], float]) -> int:
    """Returns how many epochs take about so long; `run` must be warm for one.

    They are at least `FEWEST_EPOCHS`, and the first does not count: with it goes what a
    call costs however many epochs it takes.

    Args:
        seconds: how long.
        run: trains for some epochs and returns the seconds that it took.
    """
    shortest = run(1)
    epochs = FEWEST_EPOCHS
    while True:
        run(epochs)  # to some, another number of epochs is another program
        elapsed = max(run(epochs) - shortest, 1e-3 * seconds)
        if elapsed >= 0.7 * seconds:
            return epochs
        epochs = math.ceil(epochs * min(max(seconds / elapsed, 1.5), 30))


def race(
    works: list[str], names: list[str], rounds: int, seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields for each work what came out for each contestant.

    That is `first_epoch_seconds`, `epochs` in a round, `microseconds_per_step` in each
    round and their `median` and `iqr`, `call_milliseconds`, what a warm call costs
    besides its steps, and `to_fit` and `to_scan`, the medians of the ratios within a
    round; or `missing` with a reason.

    The time of a call of one epoch is taken off each round's.
    """
    absent = {name: CONTESTANTS[name].missing for name in names}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in names:
            if not absent[name]:
                workers[name] = Worker(CONTESTANTS[name])
                stack.callback(workers[name].close)
        for key in works:
            out: dict[str, Any] = {
                name: {"missing": f"not installed: {', '.join(packages)}"}
                for name, packages in absent.items()
                if packages
            }
            out.update(_race_on(WORKS[key], workers, rounds, seconds))
            yield key, {name: out[name] for name in names}


def learn(names: list[str], epochs: int = LEARNING_EPOCHS) -> dict[str, Any]:
    """Returns each one's loss in the last of so many epochs on B, from scratch."""
    losses: dict[str, Any] = {}
    for name in names:
        if CONTESTANTS[name].missing:
            continue
        worker = Worker(CONTESTANTS[name])
        with contextlib.closing(worker), contextlib.suppress(RuntimeError):
            worker.begin(WORKS["B"])
            losses[name] = worker.train(epochs - 1)[1]
    return losses


def _race_on(
    work: Work, workers: dict[str, Worker], rounds: int, seconds: float
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    ready: dict[str, Worker] = {}
    for name, worker in workers.items():
        try:
            first = worker.begin(work)
            epochs = epochs_for(seconds, lambda n, worker=worker: worker.train(n)[0])
        except RuntimeError as error:
            out[name] = {"missing": f"failed: {error}"}
        else:
            out[name] = {"first_epoch_seconds": first, "epochs": epochs}
            ready[name] = worker
    times: dict[str, list[float]] = {name: [] for name in ready}
    calls: dict[str, list[float]] = {name: [] for name in ready}
    order = list(ready)
    for i in range(rounds):
        first = i % max(len(order), 1)
        for name in order[first:] + order[:first]:
            epochs = out[name]["epochs"]
            elapsed, _ = ready[name].train(epochs)
            shortest, _ = ready[name].train(1)
            per_epoch = (elapsed - shortest) / (epochs - 1)
            calls[name].append((shortest - per_epoch) * 1e3)
            times[name].append(per_epoch / work.steps_per_epoch * 1e6)
    for name, values in times.items():
        out[name].update(
            microseconds_per_step=values,
            median=statistics.median(values),
            iqr=spread(values),
            call_milliseconds=statistics.median(calls[name]),
        )
        for base in ("fit", "scan"):
            if base in times:
                pairs = zip(values, times[base], strict=True)
                out[name][f"to_{base}"] = statistics.median(a / b for a, b in pairs)
    return out


def spread(values: list[float]) -> float:
    """The interquartile range."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
