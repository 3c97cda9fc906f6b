"""ConcurrentJobExecutor keeps the contract on pools of other processes: Python's, and loky's reusable one.

Processes take long to start. So all of the contract runs on pools that the tests of a class share, and what kills
workers on pools of its own, in classes of their own.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import TYPE_CHECKING, ClassVar

import loky
import pytest

from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.testing.executor_losses import LossContract
from tilework.testing.executors import ExecutorContract

if TYPE_CHECKING:
    from collections.abc import Iterator


CODE = "from tilework.executor.concurrent import ConcurrentJobExecutor\nexecutor = ConcurrentJobExecutor"
SPAWN = multiprocessing.get_context("spawn")


class TestSpawned(ExecutorContract):
    """Somebody else's `ProcessPoolExecutor`."""

    make_code = (
        "import multiprocessing\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        f"{CODE}(ProcessPoolExecutor(2, multiprocessing.get_context('spawn')), is_local=True)"
    )
    worker_names = ("process-0", "process-1")
    parallelism = 2
    shares_memory = False
    streams = False
    jitter_seconds = 0.05
    pool: ClassVar[Executor]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def shared_pool(cls) -> Iterator[None]:
        """What is here before a test begins is not left behind by it."""
        with ProcessPoolExecutor(2, SPAWN) as cls.pool:
            with ConcurrentJobExecutor(cls.pool) as executor:
                assert len(set(executor.run_each_worker(os.getpid).values())) == 2
            yield

    def make_executor(self) -> ConcurrentJobExecutor:
        return ConcurrentJobExecutor(self.pool)


class TestLoky(TestSpawned):
    make_code = f"import loky\n{CODE}(loky.get_reusable_executor(2))"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def shared_pool(cls) -> Iterator[None]:
        cls.pool = loky.get_reusable_executor(2, timeout=300)
        with ConcurrentJobExecutor(cls.pool) as executor:
            assert len(set(executor.run_each_worker(os.getpid).values())) == 2
        yield
        cls.pool.shutdown(wait=True)


class TestOwnProcesses(LossContract):
    make_code = f"{CODE}.make_processes(2)"
    worker_names = ("process-0", "process-1")
    parallelism = 2
    can_lose_workers = True

    def make_executor(self) -> ConcurrentJobExecutor:
        return ConcurrentJobExecutor.make_processes(2)


class TestLokyLosses(LossContract):
    make_code = TestLoky.make_code
    worker_names = ("process-0", "process-1")
    parallelism = 2
    can_lose_workers = True

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _tracker(cls) -> None:
        """Start the process that loky keeps for as long as the interpreter lives."""
        loky.backend.resource_tracker.ensure_running()

    @pytest.fixture(autouse=True)
    def _no_pool(self, nothing_left: None) -> Iterator[None]:
        """The reusable pool stays up between executors; so it is ended here before `nothing_left` looks."""
        yield
        loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)

    def make_executor(self) -> ConcurrentJobExecutor:
        return ConcurrentJobExecutor(loky.get_reusable_executor(2))
