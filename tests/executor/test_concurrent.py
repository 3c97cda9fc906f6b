"""ConcurrentJobExecutor keeps the contract, with one, two and more threads than there are CPUs."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tilework.common.executor import NoopCommHandler
from tilework.exceptions import ExecutorError, ExecutorSpecException, JobCancelledError
from tilework.executor.concurrent import AsyncConcurrentJobExecutor, ConcurrentJobExecutor
from tilework.testing.executors import ExecutorContract
from tilework.testing.faults import CallTask
from tilework.utils.devices import available_cpu_count

CODE = "from tilework.executor.concurrent import ConcurrentJobExecutor\nexecutor = ConcurrentJobExecutor.make_local({})"


class TestOneThread(ExecutorContract):
    make_code = CODE.format(1)
    worker_names = ("concurrent",)
    parallelism = 1
    threaded = True

    def make_executor(self) -> ConcurrentJobExecutor:
        return ConcurrentJobExecutor.make_local(self.parallelism)


class TestTwoThreads(TestOneThread):
    make_code = CODE.format(2)
    parallelism = 2


class TestSevenThreads(TestOneThread):
    make_code = CODE.format(7)
    parallelism = 7


def test_refuses_what_is_no_pool() -> None:
    """What is not a pool is refused at once, with what to do instead; so is a number of workers that cannot be."""
    with pytest.raises(ExecutorSpecException, match="make_local"):
        ConcurrentJobExecutor(3)  # type: ignore[arg-type]
    with pytest.raises(ExecutorSpecException, match="n_processes"):
        ConcurrentJobExecutor.make_processes(0)
    with pytest.raises(ExecutorSpecException, match="n_threads"):
        ConcurrentJobExecutor.make_local(0)
    for make in (ConcurrentJobExecutor.make_processes, ConcurrentJobExecutor.make_local):
        with pytest.raises(ExecutorSpecException, match=r"n_(processes|threads) asks for 100000 workers"):
            make(100_000)
    with pytest.raises(ExecutorSpecException, match="main_process_gpu=99"):
        ConcurrentJobExecutor.make_local(1, main_process_gpu=99)


def test_default_number_of_threads() -> None:
    """By default there are as many threads as CPUs that this process may use."""
    with ConcurrentJobExecutor.make_local() as executor:
        assert executor.get_available_workers().concurrency() == available_cpu_count()


def test_somebody_elses_pool() -> None:
    """The pool of the caller stays open, is shared by several executors, and keeps working for others."""
    with ThreadPoolExecutor(2) as pool:
        with ConcurrentJobExecutor(pool) as one, ConcurrentJobExecutor(pool) as two:
            assert list(one.map(abs, [-1])) == list(two.map(abs, [-1])) == [1]
            assert one.get_available_workers().concurrency() == 2
            one.close()
            assert two.run_function(abs, -2) == 2
            assert pool.submit(abs, -3).result() == 3
        assert pool.submit(abs, -3).result() == 3
    pool = ThreadPoolExecutor(2)
    ConcurrentJobExecutor(pool, is_local=True).close()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(abs, -3)


def test_jobs_of_the_pool_use_the_executor() -> None:
    """They wait for no other thread, as all may be busy with such jobs; not even the first of a thread."""
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool, ConcurrentJobExecutor(pool) as executor:
            jobs = [pool.submit(executor.run_function, abs, -i) for i in range(4)]
            assert [job.result(60) for job in jobs] == [0, 1, 2, 3]


def test_pool_shut_down_by_its_owner() -> None:
    """An executor whose pool is gone says so instead of waiting for ever."""
    pool = ThreadPoolExecutor(1)
    with ConcurrentJobExecutor(pool) as executor:
        pool.shutdown()
        with pytest.raises(ExecutorError, match="takes no more work"):
            executor.run_function(abs, -1)


def test_stubborn_function_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """An error surfaces although another function does not stop; the log says that one was left behind."""
    started, release = threading.Event(), threading.Event()

    def work(i: int) -> None:
        if i == 0:
            started.set()
            release.wait(60)
        else:
            started.wait(60)
            msg = "the other one"
            raise ValueError(msg)

    with ConcurrentJobExecutor.make_local(2) as executor:
        with pytest.raises(ValueError, match="the other one"):
            executor.map(work, [0, 1])
        assert "the run of a function has ended, but 1 of its tasks did not stop" in caplog.text
        assert executor.run_function(abs, -1) == 1
        release.set()


def test_closed_from_inside() -> None:
    """A task may close its own executor: its run is cancelled, and nobody waits for himself."""
    executor = ConcurrentJobExecutor.make_local(1)
    task = CallTask(0, fn=lambda params, env: executor.close())
    with executor.scatter(None) as handle, pytest.raises(JobCancelledError, match="closed"):
        list(executor.run_tasks([task], handle, 0, NoopCommHandler()))
    executor.client.shutdown()


def test_async_executor() -> None:
    """AsyncConcurrentJobExecutor wraps an executor, or makes one."""

    async def main() -> list[int]:
        async with await AsyncConcurrentJobExecutor.make_local(2) as executor:
            assert isinstance(executor.ensure_sync(), ConcurrentJobExecutor)
            results = list(await executor.map(abs, [-1, -2]))
        with ThreadPoolExecutor(1) as pool:
            async with AsyncConcurrentJobExecutor(client=pool) as executor:
                results.append(await executor.run_function(abs, -3))
            wrapped = ConcurrentJobExecutor(pool)
            async with AsyncConcurrentJobExecutor(wrapped) as executor:
                assert executor.ensure_sync() is wrapped
            with pytest.raises(TypeError, match="not both"):
                AsyncConcurrentJobExecutor(wrapped, pool)
        return results

    assert asyncio.run(main()) == [1, 2, 3]


def test_report_says_what_the_limits_are() -> None:
    """The report names the threads and what may be under way."""
    with ConcurrentJobExecutor.make_local(3) as executor:
        limits = executor.report()["limits"]
    assert limits == {"workers": 3, "threads_per_worker": 1, "tasks_under_way": 6, "short_tasks_under_way": 96}
