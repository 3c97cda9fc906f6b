"""The executor that works where Dask works is the right one, and leaves what is Dask's as it was.

What is made are a `DaskJobExecutor`, a `ConcurrentJobExecutor` or an `InlineJobExecutor`, which keep the whole contract
in tests of their own. So here are the parts of it that depend on what the executor was given: workers that know
nothing of tilework, a pool and a client that belong to somebody else.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import dask
import pytest

from dask_clusters import WaitsForSeats
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.dask import DaskJobExecutor
from tilework.executor.inline import InlineJobExecutor
from tilework.executor.integration import get_dask_integration_executor
from tilework.testing.executor_endings import EndingContract
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.executor_runs import RunContract
from tilework.testing.executor_services import ServiceContract
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterator

GET = "from tilework.executor.integration import get_dask_integration_executor as get\nexecutor = get()\n"


class TestClient(WaitsForSeats, RunContract):
    """Somebody's client of a cluster whose workers know nothing of tilework.

    Where tasks and functions run is decided without resources. How runs fail, are cancelled and are recovered is the
    same as in `test_dask_contract`. The end is not, as the client goes on.
    """

    test_run_each_host_and_worker = ServiceContract.test_run_each_host_and_worker
    test_run_each_partition = ServiceContract.test_run_each_partition
    test_workers = ServiceContract.test_workers
    test_scatter_update_patch = ServiceContract.test_scatter_update_patch
    test_cancel = EndingContract.test_cancel
    test_closed_executor = EndingContract.test_closed_executor
    test_closed_in_the_middle_of_a_run = EndingContract.test_closed_in_the_middle_of_a_run
    test_exit_without_close = EndingContract.test_exit_without_close

    make_code = f"""
import logging
from distributed import Client, LocalCluster
quiet = dict(dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL)
client = Client(LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", **quiet))
{GET}"""
    worker_names = ("0", "1")
    hosts = ("127.0.0.1",)
    parallelism = 2
    max_ahead = 96
    shares_memory = False
    streams = False
    client: ClassVar[Any]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def shared_cluster(cls) -> Iterator[None]:
        from distributed import Client, LocalCluster

        quiet: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", **quiet) as cluster,
            Client(cluster) as cls.client,
        ):
            with get_dask_integration_executor() as executor:
                executor.run_function(abs, -1)
            cls.client.submit(abs, -1).result()
            time.sleep(1)  # until each worker has sent a heartbeat
            yield

    def settle(self) -> None:
        """Client and scheduler keep connections to the workers, to use them again."""
        for owner in (self.client.cluster.scheduler, self.client):
            self.client.loop.add_callback(owner.rpc.collect)

    def make_executor(self) -> Any:
        executor = get_dask_integration_executor()
        assert isinstance(executor, DaskJobExecutor)
        assert executor.client is self.client
        return executor

    def test_the_client_stays_open(self) -> None:
        """Closing the executor leaves the client to its owner."""
        self.make_executor().close()
        assert self.client.submit(abs, -3).result() == 3


class TestThreads(ExecutorHarness):
    """The threads of Dask, which are used as they are, and stay."""

    test_every_task_is_yielded_once = RunContract.test_every_task_is_yielded_once
    test_runs_as_many_tasks_at_a_time_as_declared = RunContract.test_runs_as_many_tasks_at_a_time_as_declared
    test_environment = RunContract.test_environment
    test_cancel = EndingContract.test_cancel
    test_closed_executor = EndingContract.test_closed_executor
    test_closed_in_the_middle_of_a_run = EndingContract.test_closed_in_the_middle_of_a_run
    test_exit_without_close = EndingContract.test_exit_without_close
    test_map_is_parallel = ServiceContract.test_map_is_parallel
    test_workers = ServiceContract.test_workers

    make_code = f"""
import dask
from concurrent.futures import ThreadPoolExecutor
dask.config.set(scheduler="threads", pool=ThreadPoolExecutor(2))
{GET}"""
    worker_names = ("concurrent",)
    parallelism = 2
    threaded = True

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def dask_scheduler(cls) -> Iterator[None]:
        with ThreadPoolExecutor(2) as pool, dask.config.set(scheduler="threads", pool=pool):
            list(pool.map(lambda _: None, range(10)))
            yield

    def settle(self) -> None:
        """The threads are Dask's, and start when they are needed."""
        pool = dask.config.get("pool")
        list(pool.map(lambda _: pool._idle_semaphore.acquire(timeout=0), range(2)))

    def make_executor(self) -> Any:
        executor = get_dask_integration_executor()
        assert isinstance(executor, ConcurrentJobExecutor)
        return executor


class TestSynchronous(ExecutorHarness):
    """The calling thread."""

    test_every_task_is_yielded_once = RunContract.test_every_task_is_yielded_once
    test_environment = RunContract.test_environment
    test_closed_executor = EndingContract.test_closed_executor
    test_map = ServiceContract.test_map
    test_workers = ServiceContract.test_workers

    make_code = f"import dask\ndask.config.set(scheduler='synchronous')\n{GET}"
    worker_names = ("inline",)
    threads_per_worker = available_cpu_count()
    prioritises = False
    tells_interrupts = False

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def dask_scheduler(cls) -> Iterator[None]:
        with dask.config.set(scheduler="synchronous"):
            yield

    def make_executor(self) -> Any:
        executor = get_dask_integration_executor()
        assert isinstance(executor, InlineJobExecutor)
        return executor


def test_the_default_scheduler_of_dask() -> None:
    """Without any choice Dask works on threads, which are shared then, whoever uses them first."""
    with get_dask_integration_executor() as executor:
        assert isinstance(executor, ConcurrentJobExecutor)
        assert executor.client is dask.threaded.default_pool
        assert executor.run_function(abs, -1) == 1
    assert dask.delayed(abs)(-2).compute() == 2


def test_inside_tasks_of_dask() -> None:
    """Tasks that keep all threads of Dask busy may each use an executor that shares them, or make one."""
    shared = get_dask_integration_executor()

    def work(i: int) -> list[int]:
        with get_dask_integration_executor() as own:
            return [*shared.map(abs, [-i]), *own.map(abs, [-i])]

    n = 2 * available_cpu_count()
    with shared:
        assert dask.compute(*[dask.delayed(work)(i) for i in range(n)]) == tuple([i, i] for i in range(n))


def test_a_number_of_threads_for_dask() -> None:
    """Dask keeps threads apart for each number of them; those are shared, too."""
    with dask.config.set(scheduler="threads", num_workers=3), get_dask_integration_executor() as executor:
        assert isinstance(executor, ConcurrentJobExecutor)
        assert executor.client is dask.threaded.pools[threading.main_thread()][3]
        assert [worker.nthreads for worker in executor.get_available_workers()] == [3]
        assert executor.run_function(abs, -1) == 1
    assert dask.delayed(abs)(-2).compute(num_workers=3) == 2


def test_in_another_thread() -> None:
    """Where Dask would start threads that end with the thread that asked, they are our own, and as many."""
    with ThreadPoolExecutor(1) as other, dask.config.set(scheduler="threads", num_workers=3):
        executor = other.submit(get_dask_integration_executor).result()
    with executor:
        assert isinstance(executor, ConcurrentJobExecutor)
        assert executor.is_local
        assert [worker.nthreads for worker in executor.get_available_workers()] == [3]
        assert executor.run_function(abs, -1) == 1


def test_a_scheduler_that_cannot_be_used() -> None:
    """Processes of Dask share no memory with us: threads of our own do the work, and a warning says so."""
    with (
        ProcessPoolExecutor(1) as pool,
        dask.config.set(scheduler="processes", pool=pool),
        pytest.warns(RuntimeWarning, match="threads of its own"),
        get_dask_integration_executor() as executor,
    ):
        assert executor.run_function(abs, -1) == 1
