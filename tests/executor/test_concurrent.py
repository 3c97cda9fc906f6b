"""ConcurrentJobExecutor keeps the contract, with one, two and more threads than there are CPUs."""

from __future__ import annotations

from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.testing.executors import ExecutorContract

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
