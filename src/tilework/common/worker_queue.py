"""Queues between the main side of an executor and its workers, and what a worker's task sees of them.

Who does what: the main side fills one queue for each task that is under way (`TaskCommHandler.handle_task`), the
worker that runs the task empties it through `WorkerContext.get_worker_queue`. Messages go the other way through
`WorkerContext.signal`.
"""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from tilework.exceptions import WorkerQueueEmpty

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = [
    "SimpleMPWorkerQueue",
    "SimpleWorkerQueue",
    "WorkerContext",
    "WorkerQueue",
    "WorkerQueueEmpty",
    "discard_all",
]


class WorkerQueue(ABC):
    """A queue of items, each a header (any object) and an optional payload (bytes)."""

    @abstractmethod
    def get(
        self, block: bool = True, timeout: float | None = None
    ) -> AbstractContextManager[tuple[Any, bytes | memoryview | None]]:
        """Take the next item: ``with queue.get() as (header, payload):``.

        Parameters
        ----------
        block
            Whether to wait for an item.
        timeout
            The longest wait, in seconds; None waits for ever.

        Returns
        -------
        context manager of (header, payload)
            The payload may be used inside the ``with`` block only. It is None when the item has none, and bytes when
            it was put as bytes, which are the reader's own.

        Raises
        ------
        WorkerQueueEmpty
            At the beginning of the block, when there is no item, or none came in time.
        """

    @abstractmethod
    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Append an item. The header may be any object that cloudpickle can pickle; the payload is copied.

        It may be anything that has a buffer, such as an array.
        """

    @abstractmethod
    def put_nocopy(self, header: Any, size: int) -> AbstractContextManager[memoryview]:
        """Give out a writable buffer of `size` bytes, and append it with its header when the block ends normally."""

    @abstractmethod
    def close(self, drain: bool = True, force: bool = False) -> None:
        """End the queue; may be called twice.

        Parameters
        ----------
        drain
            Discard what is left in it first.
        force
            Do not wait until everything that was put has left this process.
        """

    def size(self) -> int:
        """Return about how many items there are; NotImplementedError where that cannot be known."""
        raise NotImplementedError


def discard_all(queue: Any) -> None:
    """Take everything out of a queue that is there now, without looking at it."""
    while True:
        try:
            with queue.get(block=False):
                pass
        except WorkerQueueEmpty:
            return


def _nothing_there(block: bool, timeout: float | None) -> WorkerQueueEmpty:
    msg = f"nothing arrived in the queue within {timeout} s" if block else "the queue is empty"
    return WorkerQueueEmpty(msg)


class SimpleWorkerQueue(WorkerQueue):
    """A queue inside one process: headers go by reference, any thread may put and get."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[Any, bytes | memoryview | None]] = queue.SimpleQueue()

    @contextmanager
    def get(self, block: bool = True, timeout: float | None = None) -> Iterator[tuple[Any, bytes | memoryview | None]]:
        """Take the next item; see `WorkerQueue.get`."""
        try:
            item = self._items.get(block, timeout)
        except queue.Empty:
            raise _nothing_there(block, timeout) from None
        yield item

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Append an item; the header goes by reference."""
        if payload is not None and not isinstance(payload, bytes):
            payload = memoryview(memoryview(payload).tobytes())
        self._items.put((header, payload))

    @contextmanager
    def put_nocopy(self, header: Any, size: int) -> Iterator[memoryview]:
        """Give out a buffer to be filled, and append it."""
        payload = memoryview(bytearray(size))
        yield payload
        self._items.put((header, payload))

    def close(self, drain: bool = True, force: bool = False) -> None:  # noqa: ARG002
        """Discard what is left, unless `drain` is false; there is nothing else to end."""
        while drain:
            try:
                self._items.get_nowait()
            except queue.Empty:
                return

    def size(self) -> int:
        """Return how many items there are."""
        return self._items.qsize()


class SimpleMPWorkerQueue(WorkerQueue):
    """A queue between processes that `multiprocessing` spawns, for programs with processes of their own.

    Headers are pickled by cloudpickle; what was put as a payload arrives as bytes. It is handed to a process as an
    argument. The executors of tilework have queues in shared memory instead.
    """

    def __init__(self) -> None:
        import multiprocessing

        self._items: multiprocessing.Queue[tuple[bytes, bytes | None]] = multiprocessing.get_context("spawn").Queue()
        self._is_closed = False

    @contextmanager
    def get(self, block: bool = True, timeout: float | None = None) -> Iterator[tuple[Any, bytes | None]]:
        """Take the next item; see `WorkerQueue.get`."""
        import cloudpickle

        try:
            header, payload = self._items.get(block, timeout)
        except queue.Empty:
            raise _nothing_there(block, timeout) from None
        yield cloudpickle.loads(header), payload

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Append an item; what cannot be pickled fails here, and not later in a thread."""
        import cloudpickle

        self._items.put((cloudpickle.dumps(header), None if payload is None else memoryview(payload).tobytes()))

    @contextmanager
    def put_nocopy(self, header: Any, size: int) -> Iterator[memoryview]:
        """Give out a buffer to be filled, and append it, which copies it all the same."""
        payload = memoryview(bytearray(size))
        yield payload
        self.put(header, payload)

    def close(self, drain: bool = True, force: bool = False) -> None:
        """End the queue for this process; see `WorkerQueue.close`."""
        if self._is_closed:
            return
        if drain:
            with suppress(queue.Empty):
                while True:
                    self._items.get_nowait()
        self._is_closed = True
        self._items.close()
        if force:
            self._items.cancel_join_thread()
        else:
            self._items.join_thread()

    def size(self) -> int:
        """Return about how many items there are; NotImplementedError on macOS, where nobody knows."""
        return self._items.qsize()


class WorkerContext:
    """What a partition sees of its executor while one of its tasks runs on a worker.

    Parameters
    ----------
    worker_queue
        Where the data of this task arrives; None when nothing is streamed to it.
    messages
        Where messages to the main side go; None drops them.
    """

    __slots__ = ("_messages", "_worker_queue")

    def __init__(self, worker_queue: WorkerQueue | None = None, messages: WorkerQueue | None = None) -> None:
        self._worker_queue = worker_queue
        self._messages = messages

    @property
    def is_streamed(self) -> bool:
        """Whether data is streamed to this task, which is there once."""
        return self._worker_queue is not None

    def get_worker_queue(self) -> WorkerQueue:
        """Return the queue through which this task is given its data.

        Raises
        ------
        RuntimeError
            When the run has no handler that streams data to tasks.
        """
        if self._worker_queue is None:
            msg = (
                "nothing is streamed to this task: the handler of its run does not override TaskCommHandler.handle_task"
            )
            raise RuntimeError(msg)
        return self._worker_queue

    def signal(self, ident: str, topic: str, msg_dict: dict[str, Any]) -> None:
        """Send a message to the subscribers on the main side.

        Parameters
        ----------
        ident
            Says which partition the message is about; arrives as ``msg_dict["ident"]``.
        topic
            What the main side subscribed to.
        msg_dict
            The message; ``"ident"`` is taken.

        Raises
        ------
        ValueError
            When `msg_dict` has an ``"ident"`` of its own.
        """
        if "ident" in msg_dict:
            msg = f"'ident' is a reserved name in messages; the message for topic {topic!r} must not contain it"
            raise ValueError(msg)
        if self._messages is not None:
            self._messages.put((topic, {**msg_dict, "ident": ident}))
