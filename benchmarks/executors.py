#!/usr/bin/env python3
"""Measure what each executor costs and gives: the figures of docs/executors/index.md.

    python benchmarks/executors.py [--executors NAME ...] [--repeat N] [--json FILE]

With two workers where an executor has workers; medians of N, each of them:

start     from the start of Python to its end, with a sum of a small file on a local executor between (s)
tasks     tasks a second, which do nothing
results   results of 16 MiB (GiB/s)
sum       sum of frames, uint16, 512 MiB in the page cache (GB/s)
Python    frames a second of a function that is Python alone, 64 x 64 pixels
cancel    from `cancel` to the end of a run whose tasks work on tiles of 2 ms (ms)
loss      what a run of 0.4 s takes longer because one of its tasks killed its worker, once (ms)

A dash stands where there is no such thing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.api import Context
from tilework.common.executor import NoopCommHandler
from tilework.exceptions import JobCancelledError
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.testing.faults import CallTask, EndlessTask, FakeTask, KillTask, Signals, SleepTask
from tilework.udf import UDF, SumUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tilework.common.executor import TaskProtocol

WORKERS = 2


class Levels(UDF):
    """A function of a frame that is Python alone: number of levels of counts in it."""

    def get_result_buffers(self) -> Any:
        return {"levels": self.buffer(kind="nav", dtype=np.int64)}

    def process_frame(self, frame: Any) -> None:
        seen = set()
        for value in frame.ravel().tolist():
            seen.add(value)
        self.results.levels[:] = len(seen)


def large_result(_params: Any, _env: Any) -> Any:
    return np.ones(2**21)


def dask_threads() -> Context:
    import dask

    dask.config.set(scheduler="threads", num_workers=WORKERS)
    return Context.make_with("dask-integration")


def loky_context() -> Context:
    import loky

    return Context(ConcurrentJobExecutor(loky.get_reusable_executor(max_workers=WORKERS)))


EXECUTORS: dict[str, Callable[[], Context]] = {
    "inline": lambda: Context.make_with("inline"),
    "threads": lambda: Context.make_with("threads", cpus=WORKERS),
    "pipelined": lambda: Context.make_with("pipelined", cpus=WORKERS, gpus=[]),
    "processes": lambda: Context(ConcurrentJobExecutor.make_processes(WORKERS)),
    "loky": loky_context,
    "dask": lambda: Context.make_with("dask", cpus=WORKERS, gpus=[]),
    "Dask's threads": dask_threads,
    "delayed": lambda: Context.make_with("delayed"),
}
ALONE = {"inline", "threads", "Dask's threads", "delayed"}  # executors whose workers do not die alone
SHAPE = (64, 64, 256, 256)
SMALL = (32, 32, 64, 64)


def load(context: Context, folder: Path, name: str, shape: tuple[int, ...]) -> Any:
    return context.load("raw", path=folder / name, nav_shape=shape[:2], sig_shape=shape[2:], dtype="<u2")


def run_udf(context: Context, dataset: Any, udf: UDF, key: str) -> Any:
    result = context.run_udf(dataset=dataset, udf=udf)[key]
    return result.delayed_data.compute() if hasattr(result, "delayed_data") else result.data


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def run_tasks(context: Context, tasks: Iterable[TaskProtocol], cancel_id: Any = "run") -> int:
    with context.executor.scatter(None) as handle:
        return sum(1 for _ in context.executor.run_tasks(tasks, handle, cancel_id, NoopCommHandler()))


def time_to_cancel(context: Context) -> float:
    with tempfile.TemporaryDirectory(prefix="tilework-bench-") as folder:
        signals = Signals(folder)
        cancelled: list[float] = []

        def cancel() -> None:
            signals.wait("started")
            cancelled.append(time.perf_counter())
            context.executor.cancel("endless")

        thread = threading.Thread(target=cancel)
        thread.start()
        try:
            run_tasks(context, [EndlessTask(i, signals=signals) for i in range(8)], "endless")
        except JobCancelledError:
            return time.perf_counter() - cancelled[0]
        finally:
            thread.join()
    msg = "the run ended by itself"
    raise RuntimeError(msg)


def time_of_loss(context: Context) -> float:
    def run(times: int) -> None:
        with tempfile.TemporaryDirectory(prefix="tilework-bench-") as folder:
            sleeping: list[TaskProtocol] = [SleepTask(i, seconds=0.02) for i in range(40)]
            sleeping[10] = KillTask(10, signals=Signals(folder), times=times)
            run_tasks(context, sleeping)

    undisturbed = timed(lambda: run(0))
    return timed(lambda: run(1)) - undisturbed


def median(measure: Callable[[], float], repeat: int) -> float:
    return statistics.median(measure() for _ in range(repeat))


def measure(name: str, folder: Path, repeat: int) -> dict[str, float]:
    """Measure one executor; the first run of everything is not counted, apart from the start."""
    first = [sys.executable, __file__, "--first-result", name, "--folder", str(folder)]
    row = {"start": median(lambda: timed(lambda: subprocess.run(first, check=True)), repeat)}
    with EXECUTORS[name]() as context:
        large, small = load(context, folder, "large.raw", SHAPE), load(context, folder, "small.raw", SMALL)
        runs: list[tuple[str, float, Callable[[], Any]]] = [
            ("sum", np.prod(SHAPE, dtype=float) * 2e-9, lambda: run_udf(context, large, SumUDF(), "intensity")),
            ("Python", float(np.prod(SMALL[:2])), lambda: run_udf(context, small, Levels(), "levels")),
        ]
        if name != "delayed":
            full = [CallTask(i, fn=large_result) for i in range(32)]
            runs.append(("tasks", 1024.0, lambda: run_tasks(context, [FakeTask(i) for i in range(1024)])))
            runs.append(("results", len(full) / 64, lambda: run_tasks(context, full)))
        for what, amount, run in runs:
            run()
            row[what] = amount / median(lambda run=run: timed(run), repeat)  # type: ignore[misc]
        if name not in {"delayed", "Dask's threads"}:
            row["cancel"] = 1e3 * median(lambda: time_to_cancel(context), repeat)
        if name not in ALONE:
            row["loss"] = 1e3 * median(lambda: time_of_loss(context), repeat)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", nargs="+", default=list(EXECUTORS), choices=EXECUTORS, metavar="NAME")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--first-result", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first_result:
        with EXECUTORS[args.first_result]() as context:
            run_udf(context, load(context, args.folder, "small.raw", SMALL), SumUDF(), "intensity")
        return
    rows = {}
    columns = {
        "start": ".2f",
        "tasks": ".0f",
        "results": ".2f",
        "sum": ".1f",
        "Python": ".0f",
        "cancel": ".0f",
        "loss": ".0f",
    }
    print(f"{'':16s}" + "".join(f"{column:>10s}" for column in columns))
    with tempfile.TemporaryDirectory(prefix="tilework-bench-") as temporary:
        folder = Path(temporary)
        counts = np.random.default_rng(0).poisson(3.0, size=(64, *SHAPE[2:])).astype("<u2")
        with (folder / "large.raw").open("wb") as file:
            for _ in range(SHAPE[0]):
                file.write(counts.tobytes())
        (folder / "small.raw").write_bytes(counts.tobytes()[: 2 * int(np.prod(SMALL))])
        for name in args.executors:
            rows[name] = measure(name, folder, args.repeat)
            shown = (format(rows[name][c], style) if c in rows[name] else "-" for c, style in columns.items())
            print(f"{name:16s}" + "".join(f"{value:>10s}" for value in shown), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
