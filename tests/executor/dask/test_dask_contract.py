"""DaskJobExecutor keeps the contract on clusters of several kinds.

The contract makes an executor for each test. A cluster would take a second each time, so all tests of a class share
one; each connects to it anew, and proves that nothing is left beyond that cluster.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from dask_clusters import scheduler_process, wait_for_workers, worker_process
from tilework.executor.dask import DaskJobExecutor, cluster_spec
from tilework.executor.dask.local import start_cluster
from tilework.testing.executor_losses import LossContract
from tilework.testing.executors import ExecutorContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.executor.dask.local import LocalCluster

MAKE = """
from tilework.executor.dask import DaskJobExecutor, cluster_spec
if __name__ == "__main__":
    executor = DaskJobExecutor.make_local(cluster_spec(2, 0, False, num_service=0))
"""


class TestLocal(ExecutorContract):
    """A scheduler in this process, two workers with one thread each."""

    make_code = MAKE
    worker_names = ("default-cpu-0", "default-cpu-1")
    hosts = ("127.0.0.1",)
    parallelism = 2
    max_ahead = 96
    shares_memory = False
    streams = False
    can_lose_workers = False  # a worker that is started again would count as left behind: see TestOwnCluster
    cluster: ClassVar[LocalCluster]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def shared_cluster(cls) -> Iterator[None]:
        cls.cluster = start_cluster(cluster_spec(2, 0, has_cupy=False, num_service=0), None)
        # What Dask keeps for each process is made by the first client, and the first run.
        with DaskJobExecutor.connect(cls.cluster.cluster) as executor:
            executor.run_function(abs, -1)
            time.sleep(1)  # until each worker has sent a heartbeat
        yield
        cls.cluster.close()

    def settle(self) -> None:
        """The scheduler keeps connections to its workers, to use them again."""
        scheduler = self.cluster.cluster.scheduler
        scheduler.loop.add_callback(scheduler.rpc.collect)

    def make_executor(self) -> Any:
        return DaskJobExecutor.connect(self.cluster.cluster)


class TestConnected(ExecutorContract):
    """A scheduler and two workers that were started from the command line, in other processes."""

    worker_names = ("one-cpu-0", "two-cpu-0")
    hosts = ("127.0.0.1",)
    parallelism = 2
    max_ahead = 96
    shares_memory = False
    streams = False
    can_lose_workers = False  # they can, as TestOwnCluster and test_dask_losses show
    address: ClassVar[str]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def shared_cluster(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        folder = tmp_path_factory.mktemp("cluster")
        with (
            scheduler_process(folder) as address,
            worker_process(folder, address, "one"),
            worker_process(folder, address, "two"),
        ):
            cls.address = address
            cls.make_code = (
                f"from tilework.executor.dask import DaskJobExecutor\nexecutor = DaskJobExecutor.connect({address!r})\n"
            )
            wait_for_workers(address, 2)
            with DaskJobExecutor.connect(address) as executor:
                executor.run_function(abs, -1)
            yield

    def make_executor(self) -> Any:
        return DaskJobExecutor.connect(self.address)


class TestOwnCluster(LossContract):
    """Workers that are killed, each time in a cluster that ends with its executor, and leaves nothing."""

    make_code = MAKE
    worker_names = ("default-cpu-0", "default-cpu-1")
    hosts = ("127.0.0.1",)
    parallelism = 2
    shares_memory = False
    streams = False
    can_lose_workers = True

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def thread_of_dask(cls) -> None:
        """Dask keeps one thread for each process; it comes with the first run."""
        cls().make_executor().close()

    def make_executor(self) -> Any:
        executor = DaskJobExecutor.make_local(cluster_spec(2, 0, has_cupy=False, num_service=0))
        executor.run_function(abs, -1)
        return executor
