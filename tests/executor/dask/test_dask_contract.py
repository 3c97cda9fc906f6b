"""DaskJobExecutor keeps the contract on clusters of several kinds.

The contract makes an executor for each test. A cluster would take a second each time, so all tests of a class share
one; each connects to it anew, and proves that nothing is left beyond that cluster.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from dask_clusters import WaitsForSeats, scheduler_process, wait_for_workers, worker_process
from tilework.executor.dask import DaskJobExecutor, cluster_spec
from tilework.executor.dask.local import start_cluster
from tilework.executor.dask.reach import Reach
from tilework.testing.executor_endings import EndingContract
from tilework.testing.executor_errors import ErrorContract
from tilework.testing.executor_harness import SETTLE_SECONDS, Leftovers
from tilework.testing.executor_losses import LossContract
from tilework.testing.executor_runs import RunContract
from tilework.testing.executor_services import ServiceContract
from tilework.testing.executors import ExecutorContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.executor.dask.local import LocalCluster

MAKE = """
from tilework.executor.dask import DaskJobExecutor, cluster_spec
if __name__ == "__main__":
    executor = DaskJobExecutor.make_local(cluster_spec(2, 0, False, num_service=0))
"""


class TestLocal(WaitsForSeats, ExecutorContract):
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


class TestConnected(ServiceContract):
    """A scheduler and two workers that were started from the command line, in other processes.

    What a run does is decided by the client, and done by the workers, by the same code as in `TestLocal`, which keeps
    the whole contract. Other than there, all messages pass between processes, the scheduler and the workers outlive
    the program, and a Ctrl-C in its terminal does not reach them: so here are workers and what they hold, runs under
    way that are cancelled, and ends.
    """

    test_every_task_is_yielded_once = RunContract.test_every_task_is_yielded_once
    test_runs_as_many_tasks_at_a_time_as_declared = RunContract.test_runs_as_many_tasks_at_a_time_as_declared
    test_environment = RunContract.test_environment
    test_arrays_pass_bit_by_bit = RunContract.test_arrays_pass_bit_by_bit
    test_many_runs_at_once = RunContract.test_many_runs_at_once
    test_error_of_a_class_from_main = ErrorContract.test_error_of_a_class_from_main
    test_cancel = EndingContract.test_cancel
    test_deadline = EndingContract.test_deadline
    test_generator_closed_early = EndingContract.test_generator_closed_early
    test_ctrl_c_in_a_terminal = EndingContract.test_ctrl_c_in_a_terminal
    test_closed_executor = EndingContract.test_closed_executor
    test_closed_in_the_middle_of_a_run = EndingContract.test_closed_in_the_middle_of_a_run
    test_exit_without_close = EndingContract.test_exit_without_close

    worker_names = ("one-cpu-0", "two-cpu-0")
    hosts = ("127.0.0.1",)
    parallelism = 2
    max_ahead = 96
    shares_memory = False
    streams = False
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


class NoReach(Reach):
    """Workers that are in another network than the client, and not in that of the scheduler."""

    async def _try(self, address: str, seconds: float) -> bool:
        return False


class TestThroughTheScheduler(ServiceContract):
    """Workers that the client cannot reach: batches are Dask tasks, and results come by way of the scheduler."""

    shared_cluster = TestLocal.shared_cluster
    settle = TestLocal.settle
    test_every_task_is_yielded_once = RunContract.test_every_task_is_yielded_once
    test_runs_as_many_tasks_at_a_time_as_declared = RunContract.test_runs_as_many_tasks_at_a_time_as_declared
    test_messages_of_tasks = RunContract.test_messages_of_tasks
    test_arrays_pass_bit_by_bit = RunContract.test_arrays_pass_bit_by_bit
    test_many_runs_at_once = RunContract.test_many_runs_at_once
    test_error_of_a_class_from_main = ErrorContract.test_error_of_a_class_from_main
    test_cancel = EndingContract.test_cancel
    test_deadline = EndingContract.test_deadline
    test_generator_closed_early = EndingContract.test_generator_closed_early
    test_closed_in_the_middle_of_a_run = EndingContract.test_closed_in_the_middle_of_a_run

    make_code = MAKE
    worker_names = ("default-cpu-0", "default-cpu-1")
    hosts = ("127.0.0.1",)
    parallelism = 2
    max_ahead = 96
    shares_memory = False
    streams = False
    cluster: ClassVar[LocalCluster]

    def make_executor(self) -> Any:
        executor = DaskJobExecutor.connect(self.cluster.cluster)
        executor._courier.carriage.reach = NoReach(executor.client)
        return executor


class TestOwnCluster(LossContract):
    """Workers that are killed, in one cluster that has to recover for the next test; in the end it leaves nothing."""

    worker_names = ("default-cpu-0", "default-cpu-1")
    hosts = ("127.0.0.1",)
    parallelism = 2
    shares_memory = False
    streams = False
    can_lose_workers = True
    shared: ClassVar[Any]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def shared_executor(cls) -> Iterator[None]:
        make_executor(1).close()  # Dask keeps one thread for each process; it comes with the first run
        before = Leftovers("tilework-")
        cls.shared = make_executor(2)
        yield
        cls.shared.close()
        until = time.monotonic() + SETTLE_SECONDS
        while new := Leftovers("tilework-").since(before):
            assert time.monotonic() < until, f"left behind: {new}"
            gc.collect()
            multiprocessing.active_children()
            time.sleep(0.01)

    @pytest.fixture(autouse=True)
    def nothing_left(self) -> None:
        """Workers that take the place of others are no leftovers: `shared_executor` looks at the end."""

    @pytest.fixture
    def executor(self) -> Any:
        return self.shared


def make_executor(n_workers: int) -> DaskJobExecutor:
    executor = DaskJobExecutor.make_local(cluster_spec(n_workers, 0, has_cupy=False, num_service=0))
    executor.run_function(abs, -1)
    return executor
