"""A source on one connection that is there for many runs: none of them takes what is for another."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pipelined_harness import make
from tilework.common.executor import TaskCommHandler
from tilework.exceptions import JobCancelledError
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.inline import InlineJobExecutor
from tilework.testing.faults import StreamTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.common.executor import JobExecutor, WorkerQueue

SIZE = 1000


class Camera(TaskCommHandler):
    """One frame for each task. It asks for its buffer again from time to time, as the documents advise."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.is_left = False

    def handle_task(self, task: Any, queue: WorkerQueue) -> None:
        try:
            is_there = False
            while not is_there:
                with suppress(TimeoutError), queue.put_nocopy("data", SIZE) as buffer:
                    if not select.select([self.connection], [], [], 0.02)[0]:
                        raise TimeoutError
                    self.connection.recv_into(buffer, 0, socket.MSG_WAITALL)
                    is_there = True
            queue.put("end")
        finally:
            self.is_left = True


@pytest.fixture(params=["inline", "threads", "pipelined"])
def executor(request: pytest.FixtureRequest) -> Iterator[JobExecutor]:
    kinds: dict[str, Callable[[], JobExecutor]] = {
        "inline": InlineJobExecutor,
        "threads": lambda: ConcurrentJobExecutor.make_local(2),
        "pipelined": make,
    }
    with kinds[request.param]() as made:
        yield made


def frames(*values: int) -> bytes:
    """Return frames as they are sent."""
    return b"".join(bytes([value]) * SIZE for value in values)


def test_cancelled_while_the_connection_is_silent(executor: JobExecutor) -> None:
    """The handler is told, and the next run gets all that is sent from then on."""
    camera, connection = socket.socketpair()
    with camera, connection, executor.scatter(None) as handle:
        camera.sendall(frames(1, 2))
        handler = Camera(connection)
        results = executor.run_tasks([StreamTask(i) for i in range(4)], handle, "run", handler)
        timer = threading.Timer(0.3, executor.cancel, ["run"])
        timer.start()
        with pytest.raises(JobCancelledError):
            list(results)
        timer.join()
        assert handler.is_left
        camera.sendall(frames(3, 4, 5))
        results = executor.run_tasks([StreamTask(i) for i in range(3)], handle, "run", Camera(connection))
        assert sorted(result for result, _ in results) == [(i, SIZE * (3 + i)) for i in range(3)]
