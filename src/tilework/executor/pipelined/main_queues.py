"""The queues to and from a worker, as the main process has them; for whoever uses a pool without a hub."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tilework.exceptions import WorkerQueueEmpty
from tilework.executor.pipelined.messages import Arrived, decode
from tilework.executor.pipelined.worker_queues import OneWayQueue, WorkerQueues, decode_item, encode_item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.executor.pipelined.wire import Wire

__all__ = ["make_queues"]


def make_queues(wire: Wire) -> WorkerQueues:
    """Return the queues that lie over the line to a worker."""
    return WorkerQueues(_MainRequestQueue(wire), _MainResponseQueue(wire), _MainResponseQueue(wire))


class _MainRequestQueue(OneWayQueue):
    """What a worker has to do, as the main process writes it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Send a message; see `WorkerQueue.put`."""
        self._wire.send(encode_item(header, payload))


class _MainResponseQueue(OneWayQueue):
    """What a worker answers, as the main process reads it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @contextmanager
    def get(self, block: bool = True, timeout: float | None = None) -> Iterator[tuple[Any, bytes | memoryview | None]]:
        """Take the next message; see `WorkerQueue.get`."""
        yield decode_item(self._next(0.0 if not block else timeout))

    def _next(self, timeout: float | None) -> Any:
        while (frame := self._wire.receive(timeout)) is not None:
            for fd in frame.descriptors:  # of the worker's memory, which only messages of tasks refer to
                os.close(fd)
            message = decode(frame.body)
            if not isinstance(message, Arrived):
                return message
        msg = "no worker answered in time"
        raise WorkerQueueEmpty(msg)
