"""What both executors that share memory with the main side must do beyond the contract."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests_helpers import collecting_by_hand, leave_run
from tilework.common.executor import Environment, JobExecutor, NoopCommHandler, RunOptions
from tilework.executor.base import BaseJobExecutor
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.driver import STOP_GRACE_SECONDS
from tilework.executor.inline import InlineJobExecutor
from tilework.testing.faults import CallTask, StreamHandler, StreamTask

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["inline", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[JobExecutor]:
    with InlineJobExecutor() if request.param == "inline" else ConcurrentJobExecutor.make_local(3) as executor:
        yield executor


class Big:
    """Stands for an array of many megabytes."""


@pytest.mark.parametrize("how", ["finished", "failed", "closed", "streamed", "function"])
@pytest.mark.parametrize("ordered", [False, True])
def test_memory_is_free_when_the_run_is_over(executor: JobExecutor, how: str, ordered: bool) -> None:
    """Parameters, results, tasks and closures are freed at once, not when the garbage collector happens to run."""
    alive: list[weakref.ref[Any]] = []

    def watched() -> Big:
        big = Big()
        alive.append(weakref.ref(big))
        return big

    def run() -> None:
        params, closed_over = watched(), watched()

        def work(given: Any, env: Environment) -> Any:
            assert isinstance(given, Big)
            assert isinstance(closed_over, Big)
            if how == "failed" and len(alive) > 20:
                raise ValueError(params)
            return watched()

        if how == "function":
            executor.run_function(lambda: (closed_over, watched()))
            executor.map(lambda i: (closed_over, watched()), range(20))
            return
        n = 10 if how == "finished" else 1000
        tasks = [CallTask(i, fn=work) for i in range(n)] if how != "streamed" else [StreamTask(i) for i in range(9)]
        handler = StreamHandler() if how == "streamed" else NoopCommHandler()
        with executor.scatter(params) as handle:
            results = executor.run_tasks(iter(tasks), handle, 0, handler, options=RunOptions(ordered=ordered))
            try:
                for i, _ in enumerate(results):
                    if how == "closed" and i == 5:
                        break
            except ValueError:
                assert how == "failed"
            results.close()

    executor.run_function(abs, -1)
    gc.collect()
    gc.disable()
    try:
        run()
        # A thread of the pool may be a few instructions behind: its last references go when it looks for more work.
        # While the machine is busy, others may do hundreds of calls before.
        until = time.monotonic() + 5
        while any(ref() is not None for ref in alive) and time.monotonic() < until:
            executor.run_function(abs, -1)
        assert [ref for ref in alive if ref() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("where", ["lock", "task"])
def test_runs_in_garbage_end_where_the_collector_comes_by(executor: JobExecutor, where: str) -> None:
    """A run that nobody has any more, in a circle of references, is ended in the midst of anything that allocates.

    It waits neither for a lock that this thread holds, nor for the task that this thread is in.
    """
    is_left = threading.Event()

    def later(params: Any, env: Environment) -> None:
        is_left.wait(20)
        if where == "task":
            gc.collect()

    assert isinstance(executor, BaseJobExecutor)
    tasks = [CallTask(i, fn=later if i else lambda params, env: None) for i in range(10)]
    with collecting_by_hand(), executor.scatter(None) as handle:
        start = time.monotonic()
        leave_run(executor, handle, tasks)
        is_left.set()
        if where == "lock":
            with executor._lock:
                gc.collect()
        else:
            executor.map(lambda _: gc.collect(), range(20))
        while executor.cancel("left"):
            assert time.monotonic() - start < STOP_GRACE_SECONDS / 2
