"""The program of `test_two_hosts`, which runs on one of the two hosts: a run on both, with data on the other one only.

Arguments: the address of the scheduler, the file with the data, what to do, and the command that cuts the link.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any

from tilework.common.executor import Environment, NoopCommHandler, RunOptions
from tilework.exceptions import TileworkError
from tilework.executor.dask import DaskJobExecutor
from tilework.testing.faults import FakePartition, FakeTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.scheduler import WorkerSet


@dataclass
class ReadTask(FakeTask):
    """Reads its part of a file, if there is one, and says where it ran."""

    path: str | None = None
    locations: WorkerSet | None = None

    def get_locations(self) -> WorkerSet | None:
        return self.locations

    def get_partition(self) -> FakePartition:
        return FakePartition(f"part-{self.index}", self.locations)

    def __call__(self, params: Any, env: Environment) -> Any:
        from distributed import get_worker

        time.sleep(0.02)
        content = Path(self.path).read_bytes()[self.index] if self.path else self.index
        return self.index, content, get_worker().name


def run_tasks(executor: DaskJobExecutor, path: str | None, cut: Callable[[], object] | None) -> dict[str, Any]:
    """Run tasks, those with data where that is, and cut the link after 20 results."""
    workers = executor.get_available_workers()
    right = workers.filter(lambda worker: worker.name.startswith("right"))
    tasks = [ReadTask(i, path=path, locations=right if path else None) for i in range(100) if i % 2 or not path]
    start = time.monotonic()
    results: list[Any] = []
    error = ""
    try:
        with executor.scatter(None) as handle:
            run = executor.run_tasks(tasks, handle, path, NoopCommHandler(), options=RunOptions(ordered=True))
            for result, _ in run:
                results.append(result)
                if cut is not None and len(results) == 20:
                    cut()
    except (TileworkError, OSError) as e:
        error = f"{type(e).__name__}: {e}"
    hosts = {worker.name: worker.host for worker in workers}
    return {"results": results, "error": error, "seconds": time.monotonic() - start, "hosts": hosts}


def main(address: str, path: str, what: str, cut: list[str]) -> list[dict[str, Any]]:
    """Run tasks with data, without, or both at the same time, of which each has 20 results when the link is cut."""

    def cut_link() -> None:
        subprocess.run(cut, check=True)

    which: dict[str, list[str | None]] = {"data": [path], "no data": [None], "cut": [None, path]}
    both = Barrier(2, cut_link, timeout=60)
    with DaskJobExecutor.connect(address) as executor, ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: run_tasks(executor, path, both.wait if what == "cut" else None), which[what]))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])))
