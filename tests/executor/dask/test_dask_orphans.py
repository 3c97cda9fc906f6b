"""What a program leaves on the workers of a cluster that is not its own, when it is killed in the middle of a run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from dask_clusters import scheduler_process, wait_for_workers, wait_until, worker_process
from tilework.api import Context
from tilework.common.executor import NoopCommHandler, RunOptions
from tilework.executor.dask import DaskJobExecutor
from tilework.executor.dask.orphans import POLL_SECONDS
from tilework.testing.faults import Signals, SleepTask
from tilework.udf.sum import SumUDF

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STOP_SECONDS = 5.0

PROGRAM = """
import sys
from itertools import count
import numpy as np
from tilework.common.executor import NoopCommHandler
from tilework.executor.dask import DaskJobExecutor
from tilework.testing.faults import EndlessTask, Signals

address, folder, n, way = sys.argv[1:]
executor = DaskJobExecutor.connect(address)
if way == "scheduler":
    from tilework.executor.dask.reach import Reach

    class NoReach(Reach):
        async def _try(self, address, seconds):
            return False

    executor._courier.carriage.reach = NoReach(executor.client)
tasks = (EndlessTask(i, signals=Signals(folder)) for i in count())
with executor.scatter(np.ones(int(n))) as handle:
    next(executor.run_tasks(tasks, handle, 0, NoopCommHandler()))
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        scheduler_process(folder) as address,
        worker_process(folder, address, "one"),
        worker_process(folder, address, "two"),
    ):
        wait_for_workers(address, 2)
        yield address


def left(client: Client) -> Any:
    """Return the keys of tasks and data that each worker knows, and how many runs have parameters there."""

    def look(dask_worker: Any) -> tuple[list[Any], list[Any], int]:
        from tilework.executor.dask import seat

        return list(dask_worker.state.tasks), list(dask_worker.data), len(seat._table.contents)

    return client.run(look)


@pytest.mark.parametrize("way", ["straight", "scheduler"])
@pytest.mark.parametrize("n", [10, 1_000_000], ids=["small parameters", "large parameters"])
def test_a_killed_program_leaves_nothing(address: str, tmp_path: Path, n: int, way: str) -> None:
    """Its running tasks stop, those that wait do not start, its data is released, and the next program has it all."""
    signals = Signals(str(tmp_path))
    command = [sys.executable, "-c", PROGRAM, address, str(tmp_path), str(n), way]
    with (
        Client(address, set_as_default=False) as client,
        subprocess.Popen(command) as program,
    ):
        try:
            signals.wait("started", 2, timeout=30)
            before = left(client).values()
            assert all(keys for keys, _, _ in before)
            assert all(data for _, data, _ in before) == (n > 1000 or way == "scheduler")
            assert signals.count("stopped") == 0
        finally:
            program.kill()
        wait_until(lambda: signals.count("stopped") == 2, "the tasks go on", STOP_SECONDS)
        wait_until(
            lambda: all(each == ([], [], 0) for each in left(client).values()), f"left: {left(client)}", STOP_SECONDS
        )
        assert client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)) == []
        assert signals.count("started") == 2
    with DaskJobExecutor.connect(address) as executor:
        assert len(executor.run_each_worker(abs, -1)) == 2
        ctx = Context(executor)
        dataset = ctx.load("memory", data=np.ones((8, 8, 4, 4), np.float32), sig_dims=2, num_partitions=8)
        assert (ctx.run_udf(dataset=dataset, udf=SumUDF())["intensity"].data == 64).all()


def test_several_workers_in_one_process() -> None:
    """Each is asked for its own tasks only: those of another are not orphans."""
    options: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
        DaskJobExecutor(client) as executor,
        executor.scatter(None) as handle,
    ):
        tasks = [SleepTask(i, seconds=3 * POLL_SECONDS) for i in range(4)]
        results = executor.run_tasks(tasks, handle, 0, NoopCommHandler(), options=RunOptions(ordered=True))
        assert [result for result, _ in results] == [0, 1, 2, 3]
