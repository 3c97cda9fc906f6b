"""Memory of a Dask cluster while eight threads submit one run after the other.

Prints the resident memory (MiB) of this process, of the scheduler and of the workers, each a process of its own, after
50, 100, 200, ... runs. Every run has parameters and results of its own, of a size to be given, and is checked.

Run: ``python benchmarks/dask_memory.py [runs] [KiB]``
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from tilework.common.executor import NoopCommHandler, RunOptions
from tilework.executor.dask import DaskJobExecutor
from tilework.testing.faults import EchoTask

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def program(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program in the background."""
    with subprocess.Popen([sys.executable, "-m", *args], stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def one_run(executor: DaskJobExecutor, number: int, n_bytes: int) -> None:
    params = np.full(n_bytes // 8, float(number))
    with executor.scatter(params) as handle:
        tasks = [EchoTask(i) for i in range(4)]
        results = executor.run_tasks(tasks, handle, number, NoopCommHandler(), options=RunOptions(ordered=True))
        for i, ((index, got), _) in enumerate(results):
            assert index == i
            assert (got == number).all()
    assert executor.run_function(abs, -number) == number


def main(n_runs: int, n_bytes: int) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(folder) / "scheduler.json"
        here = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--no-jupyter")
        scheduler = stack.enter_context(program("distributed.cli.dask_scheduler", *here, "--scheduler-file", str(file)))
        while not file.exists() or not file.read_text():
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        stack.enter_context(
            program("tilework", "worker", address, "-c", "2", "-u", "", "--services", "0", "-d", folder)
        )
        executor = stack.enter_context(DaskJobExecutor.connect(address))
        executor.client.wait_for_workers(2)
        pids = [psutil.Process().pid, scheduler.pid, *executor.client.run(lambda: __import__("os").getpid()).values()]
        print(f"{'runs':>6} {'main':>7} {'scheduler':>9} {'workers':>15}   runs/s")
        done, start = 0, time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            for stop in (n for n in (50, 100, 200, 400, 800, 1600, 3200) if n <= n_runs):
                list(pool.map(lambda number: one_run(executor, number, n_bytes), range(done, stop)))
                seconds = time.perf_counter() - start
                gc.collect()
                time.sleep(1)  # until the scheduler has forgotten the last futures
                main_mib, scheduler_mib, *workers = [psutil.Process(pid).memory_info().rss / 2**20 for pid in pids]
                each = " ".join(f"{mib:7.1f}" for mib in workers)
                print(f"{stop:6} {main_mib:7.1f} {scheduler_mib:9.1f} {each}   {(stop - done) / seconds:.1f}")
                done, start = stop, time.perf_counter()


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    main(given[0] if given else 200, (given[1] if len(given) > 1 else 1024) * 1024)
