"""The pipelined executor fulfils the contract of all executors."""

from __future__ import annotations

from typing import ClassVar

from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.executors import ExecutorContract

CODE = """
from typing import ClassVar

from tilework.executor.pipelined import PipelinedExecutor
executor = PipelinedExecutor(PipelinedExecutor.make_spec({}, []))
"""


class TestTwoWorkers(ExecutorContract):
    make_code = CODE.format(2)
    worker_names: ClassVar[tuple[str, ...]] = ("cpu-0", "cpu-1")
    parallelism = 2
    shares_memory = False
    can_lose_workers = True
    settle_seconds = 0.2

    def make_executor(self) -> PipelinedExecutor:
        return PipelinedExecutor(PipelinedExecutor.make_spec(self.parallelism, []))


class TestOneWorker(TestTwoWorkers):
    make_code = CODE.format(1)
    worker_names = ("cpu-0",)
    parallelism = 1
