"""Run by `test_mpi` under mpiexec: uses an executor on all MPI processes, and writes down what it saw."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from mpi4py.futures import MPIPoolExecutor

from tilework.api import Context
from tilework.common.executor import NoopCommHandler, RunOptions
from tilework.exceptions import DeadlineExceededError, ExecutorError, JobCancelledError
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.testing.executor_services import Patched
from tilework.testing.faults import CallTask, EndlessTask, FakeTask, RaiseTask, Signals, StreamHandler, StreamTask
from tilework.udf import StdDevUDF


def rank() -> int:
    number: int = MPI.COMM_WORLD.Get_rank()
    return number


def run(executor: Any, tasks: Any, params: Any = None, cancel_id: Any = "run", **options: Any) -> list[Any]:
    with executor.scatter(params) as handle:
        results = executor.run_tasks(tasks, handle, cancel_id, NoopCommHandler(), options=RunOptions(**options))
        return [result for result, _ in results]


def look(executor: Any, folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = {}
    signals = Signals(str(folder))
    report["workers"] = executor.get_available_workers().names()
    report["worker_ranks"] = sorted(executor.run_each_worker(rank).values())
    report["ordered"] = run(executor, [FakeTask(i) for i in range(200)], ordered=True)

    tasks = [CallTask(i, fn=lambda params, env: params.value) for i in range(8)]
    report["patched"] = []
    with executor.scatter(Patched(1)) as handle:

        def note() -> None:
            seen = {result for result, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())}
            report["patched"].append(sorted(seen))

        note()
        for patch in (10, 10):
            executor.scatter_update_patch(handle, patch)
            note()
        executor.scatter_update(handle, Patched(5))
        note()
        executor.scatter_update_patch(handle, 2)
        note()

    large = np.arange(2**20)
    sums = run(executor, [CallTask(i, fn=lambda params, env: int(params.sum())) for i in range(4)], large)
    report["large"] = sums == [int(large.sum())] * 4

    try:
        run(executor, [RaiseTask(0)])
    except ValueError as error:
        report["error"] = [type(error).__name__, str(error)]
        report["traceback"] = "".join(traceback.format_exception(error))
    try:
        with executor.scatter(None) as handle:
            executor.run_tasks([StreamTask(0)], handle, "run", StreamHandler())
    except ExecutorError as error:
        report["streamed"] = str(error)

    def cancel() -> None:
        signals.wait("started", 2)
        executor.cancel("mine")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        run(executor, (EndlessTask(i, signals=signals) for i in count()), cancel_id="mine")
    except JobCancelledError:
        report["cancelled"] = [signals.count("started"), signals.count("stopped")]
    canceller.join()
    try:
        run(executor, (EndlessTask(i, signals=signals) for i in count()), timeout=0.3)
    except DeadlineExceededError:
        report["expired"] = [signals.count("started"), signals.count("stopped")]

    data = np.random.default_rng(0).poisson(30, size=(6, 5, 16, 16)).astype("u2")

    def bits(context: Context) -> bytes:
        dataset = context.load("memory", data=data, num_partitions=7)
        result: bytes = context.run_udf(dataset=dataset, udf=StdDevUDF())["var"].raw_data.tobytes()
        return result

    with Context.make_with("inline") as inline:
        report["same_bits"] = bits(Context(executor=executor)) == bits(inline)
    return report


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "signals").mkdir()
    with MPIPoolExecutor() as pool, ConcurrentJobExecutor(pool) as executor:
        report = look(executor, folder / "signals")
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
