"""ConcurrentJobExecutor keeps the contract on pools of other processes: Python's, and loky's reusable one."""

from __future__ import annotations

from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.testing.executors import ExecutorContract

CODE = "from tilework.executor.concurrent import ConcurrentJobExecutor\nexecutor = ConcurrentJobExecutor.{}"


class TestOwnProcesses(ExecutorContract):
    make_code = CODE.format("make_processes(2)")
    worker_names = ("process-0", "process-1")
    parallelism = 2
    shares_memory = False
    streams = False
    can_lose_workers = True

    def make_executor(self) -> ConcurrentJobExecutor:
        return ConcurrentJobExecutor.make_processes(2)
