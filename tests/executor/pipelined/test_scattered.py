"""What is scattered and patched: what is kept of it, and what workers have that come later."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipelined_harness import PipelinedHarness
from tilework.common.executor import NoopCommHandler
from tilework.exceptions import ExecutorError
from tilework.testing.faults import CallTask

if TYPE_CHECKING:
    from tilework.common.executor import Environment
    from tilework.executor.pipelined import PipelinedExecutor
    from tilework.executor.pipelined.scattered import Scattered


class Numbers:
    """Large, and in shared memory; a patch replaces a number."""

    def __init__(self) -> None:
        self.values = np.zeros(1 << 16)
        self.last = b""

    def patch(self, patch: tuple[int, bytes]) -> None:
        """Replace a number, and something that takes memory."""
        index, self.last = patch
        self.values[index] += 1
        if index < 0:
            raise IndexError("no such number")
        self.values[index] -= 1
        self.values[index] += index


def total(params: Numbers, env: Environment) -> float:
    return float(params.values.sum())


def kept(executor: PipelinedExecutor, handle: Any) -> int:
    """Return how many bytes the main process keeps to tell them to a new worker, but for what is in segments."""
    scattered: Scattered = executor._store.look_up(handle)
    executor.run_function(os.getpid)  # so that the hub has done what it was asked for
    return sum(len(message) for message, _ in scattered.messages())


class TestPatches(PipelinedHarness):
    """Of many patches the main process keeps what came of them."""

    def totals(self, executor: PipelinedExecutor, handle: Any) -> set[float]:
        tasks = [CallTask(i, fn=total) for i in range(8)]
        return {result for result, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())}

    @pytest.mark.parametrize(("size", "most"), [(10, 1 << 15), (1 << 16, 1 << 20)])
    def test_they_do_not_gather(self, executor: PipelinedExecutor, size: int, most: int) -> None:
        """Workers see each of them once, also those that replace lost ones."""
        expected = 0
        with executor.scatter(Numbers()) as handle:
            for i in range(500):
                executor.scatter_update_patch(handle, (i, bytes(size)))
                expected += i
                if i in {3, 70, 490}:
                    assert self.totals(executor, handle) == {expected}
                    for process in executor.report()["processes"]:
                        os.kill(process["pid"], signal.SIGKILL)
            assert self.totals(executor, handle) == {expected}
            assert kept(executor, handle) < most

    def test_one_that_fails_half_way(self, executor: PipelinedExecutor) -> None:
        """Workers, and those that take their place, have what the others made of the object."""
        with executor.scatter(Numbers()) as handle:
            for i in range(1, 100):
                executor.scatter_update_patch(handle, (i, b""))
                with pytest.raises(IndexError, match="no such number"):
                    executor.scatter_update_patch(handle, (-i, bytes(1000)))
            for process in executor.report()["processes"]:
                os.kill(process["pid"], signal.SIGKILL)
            assert self.totals(executor, handle) == {sum(range(1, 100))}
        with pytest.raises(ExecutorError, match="scatter"):
            executor.scatter_update_patch(handle, (1, b""))
        self.assert_usable(executor)
