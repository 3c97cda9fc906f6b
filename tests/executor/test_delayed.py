"""DelayedJobExecutor keeps the part of the contract that an executor can keep which runs nothing itself."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tilework.executor.delayed import DelayedJobExecutor
from tilework.testing.executors import ExecutorContract

if TYPE_CHECKING:
    from collections.abc import Generator

    from tilework.common.executor import TaskProtocol


class ComputedAtOnce(DelayedJobExecutor):
    """Its users compute what they get as they get it, with Dask, in their own thread."""

    def run_tasks(self, *args: Any, **kwargs: Any) -> Generator[tuple[Any, TaskProtocol], None, None]:
        return self._computed(super().run_tasks(*args, **kwargs))

    @staticmethod
    def _computed(
        results: Generator[tuple[Any, TaskProtocol], None, None],
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        with closing(results):
            for delayed, task in results:
                yield delayed.compute(scheduler="sync"), task


# What the contract asks for and this executor does not have, with the reason; see docs/executors/delayed.md.
RUNNING = "tasks run in Dask's schedulers, which this executor has no hold on"
DECLARED = {
    "test_async_cancel": RUNNING,
    "test_async_task_is_cancelled": RUNNING,
    "test_cancel": RUNNING,
    "test_cancel_before_the_first_result": RUNNING,
    "test_cancel_one_of_two": RUNNING,
    "test_closed_in_the_middle_of_a_run": RUNNING,
    "test_deadline": "it runs nothing, so a time limit is refused",
    "test_deadline_that_is_kept": "it runs nothing, so a time limit is refused",
    "test_report": "an error shows where the result is computed, so the run that made the graph did not fail",
    "test_runs_as_many_tasks_at_a_time_as_declared": "its worker stands for a scheduler that it does not know",
    "test_messages_of_tasks": "tasks have no line to the main side: it may be long gone when they run",
}


def not_there(reason: str) -> Any:
    def test(self: Any) -> None:
        pytest.skip(f"declared: {reason}")

    return test


class TestDelayed(ExecutorContract):
    make_code = "from tilework.executor.delayed import DelayedJobExecutor; executor = DelayedJobExecutor()"
    worker_names = ("delayed",)
    threaded = True
    streams = False
    prioritises = False

    def make_executor(self) -> DelayedJobExecutor:
        return ComputedAtOnce()


for name, reason in DECLARED.items():
    assert hasattr(ExecutorContract, name), name
    setattr(TestDelayed, name, not_there(reason))
