"""A worker's queues: what comes from the main process, and what goes there.

All three lie over one wire. The request queue has one reader, the worker's main thread: the loop between tasks, and
the task while it runs. Each takes what is for it: the loop messages, the task the data of its own stream. What one
reads for the other is kept.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tilework.common.executor import WorkerContext, WorkerQueue, WorkerQueueEmpty
from tilework.exceptions import ExecutorError, JobCancelledError
from tilework.executor.calling import no_more_data
from tilework.executor.pipelined.memory import map_segment
from tilework.executor.pipelined.messages import (
    AS_BYTES,
    HEADER_FIRST,
    ONLY_HEADER,
    Signal,
    StreamEnd,
    StreamItem,
    decode,
    encode,
)
from tilework.executor.pipelined.parcel import Packed, Parcel, ship, unpack
from tilework.executor.remote import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.executor.pipelined.arena import Arena, ArenaReader, Block
    from tilework.executor.pipelined.control import ControlPage
    from tilework.executor.pipelined.wire import Wire

__all__ = [
    "MessageQueue",
    "OneWayQueue",
    "PipelinedWorkerContext",
    "RequestQueue",
    "ResponseQueue",
    "StreamQueue",
    "WorkerQueues",
]


class WorkerQueues(NamedTuple):
    """The queues between the main process and one worker."""

    request: WorkerQueue
    """What a worker has to do."""
    response: WorkerQueue
    """What became of it."""
    message: WorkerQueue
    """What its tasks have to say meanwhile."""


class OneWayQueue(WorkerQueue):
    """A queue that this side only reads, or only writes."""

    def get(
        self,
        block: bool = True,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
    ) -> AbstractContextManager[tuple[Any, bytes | memoryview | None]]:
        """Refuse: the other side reads it."""
        self._refuse("reads from")

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:  # noqa: ARG002
        """Refuse: the other side writes it."""
        self._refuse("writes to")

    def _refuse(self, verb: str) -> NoReturn:
        msg = f"the other process {verb} this {type(self).__name__}"
        raise ExecutorError(msg)

    def put_nocopy(self, header: Any, size: int) -> AbstractContextManager[memoryview]:
        """Give out a buffer, and append it."""
        return self._put_when_filled(header, memoryview(bytearray(size)))

    @contextmanager
    def _put_when_filled(self, header: Any, buffer: memoryview) -> Iterator[memoryview]:
        yield buffer
        self.put(header, buffer)

    def close(self, drain: bool = True, force: bool = False) -> None:
        """There is nothing to end: the wire is the process's."""


class RequestQueue(OneWayQueue):
    """What comes from the main process.

    Parameters
    ----------
    wire
        The line.
    page
        Where tickets are taken back.
    row
        The worker's place in the page.
    arena
        The main process's memory.
    """

    def __init__(self, wire: Wire, page: ControlPage, row: int, arena: ArenaReader) -> None:
        self.page = page
        self.row = row
        self._wire = wire
        self._arena = arena
        self._messages: deque[tuple[Any, tuple[int, ...]]] = deque()
        self._streams: dict[int, deque[StreamItem | StreamEnd]] = {}

    @contextmanager
    def get(self, block: bool = True, timeout: float | None = None) -> Iterator[tuple[Any, bytes | memoryview | None]]:
        """Take the next message that is not data of a stream; the payload is None."""
        yield self.next_message(0.0 if not block else timeout)[0], None

    def next_message(self, timeout: float | None = None) -> tuple[Any, tuple[int, ...]]:
        """Return the next message that is not data of a stream, and its descriptors.

        Raises
        ------
        WorkerQueueEmpty
            When none came in time.
        WireClosedError
            When the main process is gone.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self._messages:
            self._receive(until)
        return self._messages.popleft()

    def next_of_stream(self, serial: int, timeout: float | None) -> StreamItem | StreamEnd:
        """Return the next data for a ticket; raises as `next_message`."""
        until = None if timeout is None else time.monotonic() + timeout
        stream = self._streams.setdefault(serial, deque())
        while not stream:
            self._receive(until)
        return stream.popleft()

    def _receive(self, until: float | None) -> None:
        frame = self._wire.receive(None if until is None else until - time.monotonic())
        if frame is None:
            msg = "nothing arrived in the queue in time"
            raise WorkerQueueEmpty(msg)
        message = decode(frame.body)
        if isinstance(message, StreamItem | StreamEnd):
            if isinstance(message, StreamItem) and frame.descriptors:
                message = message._replace(fd=frame.descriptors[0])
            self._streams.setdefault(message.serial, deque()).append(message)
        else:
            self._messages.append((message, frame.descriptors))

    def n_of_stream(self, serial: int) -> int:
        """Return how many items for a ticket are here already."""
        stream = self._streams.get(serial, ())
        return sum(isinstance(item, StreamItem) and item.header != HEADER_FIRST for item in stream)

    def end_stream(self, serial: int) -> None:
        """Discard what a ticket did not take, and what still comes for it before the stream's end."""
        stream = self._streams.setdefault(serial, deque())
        while True:
            while stream:
                item = stream.popleft()
                if isinstance(item, StreamEnd):
                    del self._streams[serial]
                    return
                if item.fd >= 0:
                    os.close(item.fd)
                self.release(item.block)
            self._receive(None)

    def unpack(self, parcel: Parcel, descriptors: tuple[int, ...], *, copy: bool) -> Any:
        """Return the object of a parcel.

        Unless they are copied, its arrays are read-only, and may be used until its ticket is answered.
        """
        return unpack(parcel, self._arena, descriptors[0] if descriptors else None, copy=copy, keep=False)

    def view(self, item: StreamItem) -> memoryview:
        """Return the bytes of an item's block; called once for each."""
        if item.block.is_apart:
            return memoryview(map_segment(item.fd, max(1, item.block.size)))[: item.block.size]
        return self._arena.view(item.block)

    def read(self, item: StreamItem) -> bytes:
        """Return a copy of the bytes of an item's block, which is released."""
        try:
            with self.view(item) as view:
                return bytes(view)
        finally:
            self.release(item.block)

    def release(self, block: Block) -> None:
        """Tell the main process that a block is not needed any more."""
        self._arena.release(block)

    def may_begin(self, serial: int) -> bool:
        """Return whether a ticket was not taken back."""
        return self.page.begin(self.row, serial)


class ResponseQueue(OneWayQueue):
    """What became of the tickets.

    Parameters
    ----------
    wire
        The line.
    arena
        This worker's memory, for large results.
    """

    def __init__(self, wire: Wire, arena: Arena) -> None:
        self._wire = wire
        self._arena = arena

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Send a message; there are no payloads."""
        assert payload is None
        self._wire.send(dumps(header))

    def put_object(self, make: Callable[[Parcel], Any], packed: Packed, is_over: Callable[[], bool]) -> None:
        """Send a message that holds an object."""
        parcel, fd = ship(packed, self._arena, is_over)
        if fd is None:
            self._wire.send(encode(make(parcel)))
            return
        try:
            self._wire.send(encode(make(parcel)), (fd,))
        finally:
            os.close(fd)


class MessageQueue(OneWayQueue):
    """What the tasks of a run have to say to its subscribers; any thread may put.

    Parameters
    ----------
    wire
        The line.
    run
        The run.
    """

    def __init__(self, wire: Wire, run: int = 0) -> None:
        self._wire = wire
        self._run = run

    def of_run(self, run: int) -> MessageQueue:
        """Return the queue for a run."""
        return MessageQueue(self._wire, run)

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Send a message."""
        assert payload is None
        self._wire.send(encode(Signal(self._run, dumps(header))))


class StreamQueue(OneWayQueue):
    """What is streamed to one ticket, as its task reads it.

    Parameters
    ----------
    requests
        Where it comes from.
    serial
        The ticket.
    """

    def __init__(self, requests: RequestQueue, serial: int) -> None:
        self.requests = requests
        self._serial = serial
        self._n_taken = 0
        self._header: bytes | None = None  # of the next item, when it came before it
        self._end: StreamEnd | None = None

    def get(
        self, block: bool = True, timeout: float | None = None
    ) -> AbstractContextManager[tuple[Any, bytes | memoryview | None]]:
        """Take the next item; see `WorkerQueue.get`.

        Raises
        ------
        JobCancelledError
            When the run has ended.
        WorkerQueueEmpty
            When there is nothing, and it is not to wait, or nothing arrives in time.
        ExecutorError
            When it is to wait, but the handler has given everything, and the task has read it.
        """
        return _NextOfStream(self, timeout if block else 0.0)

    def take(self, timeout: float | None) -> tuple[bytes, StreamItem | None]:
        """Return the pickled header of the next item, and what has its payload, if it has one; raises as `get`."""
        while self._end is None:
            item = self.requests.next_of_stream(self._serial, timeout)
            if isinstance(item, StreamEnd):
                self._end = item
            elif item.header == HEADER_FIRST:
                self._header = self.requests.read(item)
            else:
                self._n_taken += 1
                if item.header == ONLY_HEADER:
                    return self.requests.read(item), None
                header, self._header = self._header, None
                return item.header.removeprefix(AS_BYTES) if header is None else header, item
        if self._end.is_complete:
            if timeout == 0:
                msg = "the queue is empty"
                raise WorkerQueueEmpty(msg)
            raise no_more_data(self._n_taken)
        msg = "the run has ended: no more data will come for this task"
        raise JobCancelledError(msg)

    def size(self) -> int:
        """Return how many items have arrived in this process."""
        return self.requests.n_of_stream(self._serial)

    def end(self) -> None:
        """Discard what the task did not take, so that nothing of it reaches the next."""
        if self._end is None:
            self.requests.end_stream(self._serial)


class _NextOfStream(AbstractContextManager[tuple[Any, "bytes | memoryview | None"]]):
    """An item of a stream while a task looks at it. Not a generator, since there are thousands a second.

    Parameters
    ----------
    queue
        Where it comes from.
    timeout
        The longest wait for it, in seconds; None waits for ever.
    """

    __slots__ = ("_block", "_queue", "_timeout")

    def __init__(self, queue: StreamQueue, timeout: float | None) -> None:
        self._queue = queue
        self._timeout = timeout
        self._block: Block | None = None

    def __enter__(self) -> tuple[Any, bytes | memoryview | None]:
        pickled, item = self._queue.take(self._timeout)
        if item is None:
            return loads(pickled) if pickled else None, None
        self._block = item.block
        try:
            view = self._queue.requests.view(item)  # first, as it takes what the item came with
            return loads(pickled) if pickled else None, bytes(view) if item.header.startswith(AS_BYTES) else view
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._block is not None:
            self._queue.requests.release(self._block)


class PipelinedWorkerContext(WorkerContext):
    """What a partition sees of the executor while one of its tasks runs on a worker.

    Parameters
    ----------
    queue
        Where the data of this task arrives; None when nothing is streamed to it.
    msg_queue
        Where messages to the main process go.
    """

    __slots__ = ()

    def __init__(self, queue: WorkerQueue | None, msg_queue: WorkerQueue | None) -> None:
        super().__init__(queue, msg_queue)
