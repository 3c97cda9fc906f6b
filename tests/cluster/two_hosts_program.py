"""The program of `test_two_hosts`, which runs on one of the two hosts: a run on both, with data on the other one only.

Arguments: the address of the scheduler, the file with the data, what to do, and the command that cuts the link.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilework.common.executor import Environment, NoopCommHandler, RunOptions
from tilework.exceptions import TileworkError
from tilework.executor.dask import DaskJobExecutor
from tilework.testing.faults import FakePartition, FakeTask

if TYPE_CHECKING:
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


def main(address: str, path: str, what: str, cut: list[str]) -> dict[str, Any]:
    with DaskJobExecutor.connect(address) as executor, executor.scatter(None) as handle:
        workers = executor.get_available_workers()
        right = workers.filter(lambda worker: worker.name.startswith("right"))
        has_data = what in {"data", "data and cut"}
        tasks = [
            ReadTask(i, path=path if has_data else None, locations=right if has_data and i % 2 else None)
            for i in range(100)
        ]
        if has_data:
            tasks = [task for task in tasks if task.locations is not None]
        start = time.monotonic()
        results: list[Any] = []
        error = ""
        run = executor.run_tasks(tasks, handle, "run", NoopCommHandler(), options=RunOptions(ordered=True))
        try:
            for result, _ in run:
                results.append(result)
                if "cut" in what and len(results) == 20:
                    subprocess.run(cut, check=True)
        except (TileworkError, OSError) as e:
            error = f"{type(e).__name__}: {e}"
        hosts = {worker.name: worker.host for worker in workers}
        return {"results": results, "error": error, "seconds": time.monotonic() - start, "hosts": hosts}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])))
