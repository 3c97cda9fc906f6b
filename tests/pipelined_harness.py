"""Pipelined executors for tests, and what the tests of their processes have in common."""

from __future__ import annotations

from typing import Any

from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.executor_harness import ExecutorHarness


def make(n: int = 2, **kwargs: Any) -> PipelinedExecutor:
    """Return an executor with `n` workers, each pinned to a CPU, and no devices."""
    return PipelinedExecutor(PipelinedExecutor.make_spec(n, []), **kwargs)


class PipelinedHarness(ExecutorHarness):
    """Each test gets an executor with two workers, and proves that nothing is left behind."""

    can_lose_workers = True

    def make_executor(self) -> PipelinedExecutor:
        return make()
