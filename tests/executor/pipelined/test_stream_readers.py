"""Threads of a task that read its stream, and readers whose task is over."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from stream_tasks import StreamHarness
from tilework.common.executor import TaskCommHandler
from tilework.exceptions import ExecutorError
from tilework.testing.faults import CallTask, Signals

if TYPE_CHECKING:
    from tilework.common.executor import Environment, WorkerQueue
    from tilework.executor.pipelined import PipelinedExecutor


def queue_of(env: Environment) -> WorkerQueue:
    assert env.worker_context is not None
    return env.worker_context.get_worker_queue()


class Numbers(TaskCommHandler):
    """Streams numbers to each task, every third one with a large header, and as many ends as are asked for."""

    def __init__(self, n: int, ends: int) -> None:
        self.n, self.ends = n, ends

    def handle_task(self, task: Any, queue: WorkerQueue) -> None:
        for i in range(self.n):
            queue.put((i, "x" * (2000 if i % 3 == 0 else 0)), memoryview(i.to_bytes(4, "little")))
        for _ in range(self.ends):
            queue.put("end")


class TestStreamReaders(StreamHarness):
    @pytest.mark.parametrize("n_threads", [1, 4])
    def test_threads_of_a_task(self, executor: PipelinedExecutor, n_threads: int) -> None:
        """They share what comes: each item reaches one of them, with its own header."""

        def read(params: Any, env: Environment) -> list[int]:
            queue = queue_of(env)
            got: list[int] = []

            def take() -> None:
                while True:
                    with queue.get() as (header, payload):
                        if header == "end":
                            return
                        assert payload is not None
                        assert header[0] == int.from_bytes(payload, "little")
                        got.append(header[0])

            threads = [threading.Thread(target=take) for _ in range(n_threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return sorted(got)

        tasks = [CallTask(i, fn=read) for i in range(4)]
        assert self.run(executor, tasks, handler=Numbers(300, n_threads)) == [list(range(300))] * 4

    def test_a_thread_that_waits_when_its_task_ends(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """It is told, and the worker goes on."""

        def read(params: Any, env: Environment) -> str:
            queue = queue_of(env)
            has_one = threading.Event()

            def take() -> None:
                try:
                    while True:
                        with queue.get():
                            has_one.set()
                except ExecutorError:
                    signals.add("told")

            threading.Thread(target=take, daemon=True).start()
            has_one.wait()
            signals.add("left")
            return "done"

        class UntilItLeaves(TaskCommHandler):
            n = 0

            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                self.n += 1
                queue.put("header", b"payload")
                signals.wait("left", self.n)

        for _ in range(2):
            tasks = [CallTask(i, fn=read) for i in range(4)]
            assert self.run(executor, tasks, handler=UntilItLeaves()) == ["done"] * 4
        assert executor.run_each_worker(os.getpid).keys() == {"cpu-0", "cpu-1"}
        signals.wait("told", 8)

    def test_the_queue_of_a_task_that_is_over(self, executor: PipelinedExecutor) -> None:
        """Whoever has kept it waits for nothing."""

        def keep(params: Any, env: Environment) -> int:
            queue = vars(threading).setdefault("kept_queue", queue_of(env))  # a module is there once for each worker
            with queue.get():
                return 1

        with pytest.raises(ExecutorError, match="belongs to a task that is over"):
            self.run(executor, [CallTask(i, fn=keep) for i in range(5)], handler=Numbers(3, 1))

    def test_a_fork_of_a_task(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """It cannot take what the worker is sent."""

        def fork(params: Any, env: Environment) -> tuple[int, Any]:
            queue = queue_of(env)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    with queue.get(timeout=20):
                        pass
                except ExecutorError as error:
                    status = 2 if "belongs to the process" in str(error) else 3
                finally:
                    os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            signals.add("forked")
            with queue.get() as (header, _):
                return status, header

        class Late(TaskCommHandler):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                signals.wait("forked")
                queue.put("header")

        assert self.run(executor, [CallTask(0, fn=fork)], handler=Late()) == [(2, "header")]
