"""Tasks that read what is streamed to them, and a handler that streams."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelined_harness import PipelinedHarness, make
from tilework.common.executor import TaskCommHandler
from tilework.testing.faults import FakeTask, Signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.executor import Environment, WorkerQueue
    from tilework.executor.pipelined import PipelinedExecutor


@dataclass
class ReadTask(FakeTask):
    """Reads what is streamed to it until the end; dies after `die_after` items, as often as `lives` says."""

    signals: Signals = field(kw_only=True)
    die_after: int = -1
    lives: int = 0
    die_when: str | None = None

    def __call__(self, params: Any, env: Environment) -> tuple[int, list[int], int]:
        assert env.worker_context is not None
        queue = env.worker_context.get_worker_queue()
        headers: list[Any] = []
        total = 0
        while True:
            if len(headers) == self.die_after and self.signals.count(f"died-{self.index}") < self.lives:
                if self.die_when is not None:
                    self.signals.wait(self.die_when)
                self.signals.add(f"died-{self.index}")
                os.kill(os.getpid(), 9)
            with queue.get() as (header, payload):
                if header == "end":
                    return self.index, headers, total
                assert payload is not None
                headers.append(header)
                total += len(payload)


class TimedTask(ReadTask):
    """Says when it was done as well."""

    def __call__(self, params: Any, env: Environment) -> Any:
        result = super().__call__(params, env)
        return time.monotonic(), result


class Source(TaskCommHandler):
    """Streams `n` items of `size` bytes to each task; `pause` is called before each item."""

    def __init__(self, n: int = 20, size: int = 50_000, pause: Callable[[int, int], None] | None = None) -> None:
        self.n, self.size = n, size
        self.pause = pause or (lambda task, item: None)
        self.put = 0
        self.calls: list[str] = []

    def handle_task(self, task: Any, queue: WorkerQueue) -> None:
        self.calls.append(f"task {task.index}")
        for i in range(self.n):
            self.pause(task.index, i)
            with queue.put_nocopy(i, self.size) as buffer:
                buffer[:4] = i.to_bytes(4, "little")
            self.put += 1
        queue.put("end")

    def done(self) -> None:
        self.calls.append("done")


class StreamHarness(PipelinedHarness):
    """Each test gets an executor with memory for what is streamed, and proves that nothing is left behind."""

    def make_executor(self) -> PipelinedExecutor:
        return make(shared_memory=256 << 20)

    def expect(self, tasks: int, source: Source) -> list[tuple[int, list[int], int]]:
        """Return what so many tasks return that read what the source streams."""
        return [(i, list(range(source.n)), source.n * source.size) for i in range(tasks)]
