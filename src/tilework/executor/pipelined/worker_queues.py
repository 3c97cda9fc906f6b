"""A worker's queues: what comes from the main process, and what goes there.

All three lie over one wire. Of the request queue each takes what is for it: the loop between tasks, which is the
worker's main thread, takes messages; a task takes the data of its own stream, in any of its threads. One of them at a
time reads the wire. It keeps what is for others, whose turn comes as soon as it has what it waits for itself.

A thread may still wait for data when its task has ended. It gets an error with the next message, whatever that is, and
has read that for the main thread: no message is lost, and nobody else reads while no task runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from tilework.common.executor import WorkerContext, WorkerQueue, WorkerQueueEmpty
from tilework.exceptions import ExecutorError, JobCancelledError
from tilework.executor.calling import no_more_data, task_is_over
from tilework.executor.pipelined.memory import map_segment
from tilework.executor.pipelined.messages import (
    AS_BYTES,
    HEADER_FIRST,
    ONLY_HEADER,
    Signal,
    StreamEnd,
    StreamItem,
    WithPayload,
    decode,
    encode,
)
from tilework.executor.pipelined.parcel import Packed, Parcel, ship, unpack
from tilework.executor.pipelined.wire import LONGEST_POLL
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
    "decode_item",
    "encode_item",
]


class WorkerQueues(NamedTuple):
    """The queues between the main process and one worker."""

    request: WorkerQueue
    """What a worker has to do."""
    response: WorkerQueue
    """What became of it."""
    message: WorkerQueue
    """What its tasks have to say meanwhile."""


def encode_item(header: Any, payload: bytes | memoryview | None) -> bytes:
    """Return an item of a queue as bytes."""
    pickled = dumps(header)
    return pickled if payload is None else encode(WithPayload(pickled, memoryview(payload).tobytes()))


def decode_item(message: Any) -> tuple[Any, bytes | None]:
    """Return header and payload of an item that was sent, and decoded as a message."""
    return (loads(message.header), message.payload) if isinstance(message, WithPayload) else (message, None)


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


class _Inflow:
    """What has arrived for one reader, the loop or a task, and was not taken yet. Any thread may take."""

    __slots__ = ("end", "first", "is_over", "items", "n_items")

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.first: StreamItem | None = None
        """A large header, until what it belongs to is there."""
        self.n_items = 0
        """How many there were, with those that were taken."""
        self.end: StreamEnd | None = None
        """What came after all items."""
        self.is_over = False
        """Whether its task has ended."""

    def take(self) -> Any:
        """Return the next item, or the end; None when nothing is there yet."""
        end = self.end  # before the items are looked at: no more come after it
        if self.items:
            try:
                return self.items.popleft()
            except IndexError:  # another thread was quicker
                pass
        return _TASK_OVER if self.is_over else end


_TASK_OVER: Final = StreamEnd(0, is_complete=False)


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
        self._pid = os.getpid()
        self._messages = _Inflow()
        self._streams: dict[int, _Inflow] = {}
        self._lock = threading.Lock()  # what has arrived, while it is added to or discarded
        # Who reads the wire. One that knows its owner, since an interrupt may come before it is known to be had.
        self._reading = threading.RLock()

    @contextmanager
    def get(self, block: bool = True, timeout: float | None = None) -> Iterator[tuple[Any, bytes | memoryview | None]]:
        """Take the next message that is not data of a stream; see `WorkerQueue.get`."""
        yield decode_item(self.next_message(0.0 if not block else timeout)[0])

    def next_message(self, timeout: float | None = None) -> tuple[Any, tuple[int, ...]]:
        """Return the next message that is not data of a stream, and its descriptors.

        Raises
        ------
        WorkerQueueEmpty
            When none came in time.
        WireClosedError
            When the main process is gone.
        """
        message: tuple[Any, tuple[int, ...]] = self._next(self._messages, timeout)
        return message

    def stream(self, serial: int) -> _Inflow:
        """Return what arrives for a ticket."""
        with self._lock:
            return self._streams.setdefault(serial, _Inflow())

    def next_of_stream(self, stream: _Inflow, timeout: float | None) -> StreamItem | StreamEnd:
        """Return the next data for a ticket; raises as `next_message`."""
        item: StreamItem | StreamEnd = self._next(stream, timeout)
        return item

    def end_stream(self, serial: int) -> None:
        """Discard what a ticket did not take, and what still comes for it before the stream's end.

        Whoever waits for it, or asks later, learns that its task is over.
        """
        stream = self._streams[serial]
        with self._lock:
            stream.is_over = True
            while stream.items:
                self._discard(stream.items.popleft())
            if stream.first is not None:
                self._discard(stream.first)
        if stream.end is None:
            self._wait_for(lambda: stream.end, None)
        del self._streams[serial]

    def _next(self, inflow: _Inflow, timeout: float | None) -> Any:
        item = inflow.take()
        return self._wait_for(inflow.take, timeout) if item is None else item

    def _wait_for(self, look: Callable[[], Any], timeout: float | None) -> Any:
        """Return what there is at a look that is not None, when it has arrived."""
        if os.getpid() != self._pid:
            msg = "this queue belongs to the process that runs the task: one that was forked from it cannot read it"
            raise ExecutorError(msg)
        until = None if timeout is None else time.monotonic() + timeout
        try:
            if not self._reading.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), LONGEST_POLL)):
                raise _nothing_in_time()
            while (found := look()) is None:
                self._receive(until)
            return found
        finally:
            try:  # noqa: SIM105  (a context manager takes longer than all else here)
                self._reading.release()
            except RuntimeError:  # it was not had
                pass

    def _receive(self, until: float | None) -> None:
        frame = self._wire.receive(None if until is None else until - time.monotonic())
        if frame is None:
            raise _nothing_in_time()
        with self._lock:
            while frame is not None:
                message = decode(frame.body)
                if isinstance(message, StreamItem):
                    self._add(message._replace(fd=frame.descriptors[0]) if frame.descriptors else message)
                elif isinstance(message, StreamEnd):
                    self._streams.setdefault(message.serial, _Inflow()).end = message
                else:
                    self._messages.items.append((message, frame.descriptors))
                frame = self._wire.receive_here()

    def _add(self, item: StreamItem) -> None:
        stream = self._streams.get(item.serial)
        if stream is None:
            stream = self._streams[item.serial] = _Inflow()
        if stream.is_over:
            self._discard(item)
        elif item.header == HEADER_FIRST:
            stream.first = item
        else:
            if stream.first is not None:
                item, stream.first = item._replace(first=stream.first), None
            stream.items.append(item)
            stream.n_items += 1

    def _discard(self, item: StreamItem) -> None:
        for each in (item,) if item.first is None else (item.first, item):
            if each.fd >= 0:
                os.close(each.fd)
            self.release(each.block)

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
        """Send a message; see `WorkerQueue.put`."""
        self._wire.send(encode_item(header, payload))

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
        """Send a message.

        Raises
        ------
        ExecutorError
            When it has a payload.
        """
        if payload is not None:
            msg = "messages of tasks have no payload: put what is to be told into the header"
            raise ExecutorError(msg)
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
        self._stream = requests.stream(serial)

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
            When it is to wait, but the handler has given everything, and the task has read it; when the task is over;
            in a process that was forked from the worker.
        """
        return _NextOfStream(self, timeout if block else 0.0)

    def take(self, timeout: float | None) -> StreamItem:
        """Return the next item; raises as `get`."""
        item = self.requests.next_of_stream(self._stream, timeout)
        if isinstance(item, StreamItem):
            return item
        if item is _TASK_OVER:
            raise task_is_over()
        if not item.is_complete:
            msg = "the run has ended: no more data will come for this task"
            raise JobCancelledError(msg)
        if timeout == 0:
            msg = "the queue is empty"
            raise WorkerQueueEmpty(msg)
        raise no_more_data(self._stream.n_items)

    def size(self) -> int:
        """Return how many items have arrived in this process."""
        return len(self._stream.items)

    def end(self) -> None:
        """Discard what the task did not take, so that nothing of it reaches the next."""
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
        item = self._queue.take(self._timeout)
        requests = self._queue.requests
        if item.header == ONLY_HEADER:
            pickled = requests.read(item)
            return loads(pickled) if pickled else None, None
        self._block = item.block
        try:
            view = requests.view(item)  # first, as it takes what the item came with
            pickled = item.header.removeprefix(AS_BYTES) if item.first is None else requests.read(item.first)
            return loads(pickled) if pickled else None, bytes(view) if item.header.startswith(AS_BYTES) else view
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._block is not None:
            self._queue.requests.release(self._block)


def _nothing_in_time() -> WorkerQueueEmpty:
    return WorkerQueueEmpty("nothing arrived in the queue in time")


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
