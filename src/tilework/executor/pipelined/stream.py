"""Data on its way from a source to the tasks of a run, through shared memory.

::

    feeder thread                                  hub                        worker
    ┌───────────────────────────────┐   header   ┌──────────────────────────────────────────┐
    │ handler.handle_task(task, q): ├───────────►│ the ticket's worker ──► StreamQueue.get  │
    │   with q.put_nocopy(…) as b:  │            └──────────────────────────┬───────────────┘
    │     sock.recv_into(b)         │   arena: the bytes themselves         │
    │                  b ═══════════╪═══════════════════════════════════════╪═► payload
    └───────────────────────────────┘                                      released when it was read

Who does what: one thread for a streamed run calls the handler, for one task after the other. What is put goes into the
task's record, and to its worker when it has one. When the arena is full, putting waits: a source that is quicker than
the workers is held up, and memory does not grow. For a task that no worker has begun it waits earlier, when the lower
half is full: it may be behind tasks of another run, which could not end if there was no room for their data. A task
that has read everything, and for whose next item there is no room after a while, gets it apart, in a segment of its
own: what is in the way may be data of those that wait for its worker.

What a worker has read stays in the arena until its task is done, or until there is need of the room. So when a worker
is lost, its task can be repeated on another one, with the same data, unless room was short. Headers are in the arena as
well, unless they are small and have a payload: so a source of them alone is held up, too.
"""

from __future__ import annotations

import logging
import operator
import os
import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ExecutorError, JobCancelledError, WorkerLostError
from tilework.executor.calling import partition_name, too_late
from tilework.executor.forked import end_fork
from tilework.executor.pipelined.memory import SharedMemoryFullError
from tilework.executor.pipelined.messages import AS_BYTES, HEADER_FIRST, ONLY_HEADER, StreamEnd, StreamItem, encode
from tilework.executor.pipelined.streamed import StreamPart, StreamRecord
from tilework.executor.pipelined.worker_queues import OneWayQueue
from tilework.executor.remote import dumps
from tilework.executor.run import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.executor import TaskCommHandler
    from tilework.executor.pipelined.arena import Arena
    from tilework.executor.pipelined.hub import Hub
    from tilework.executor.pipelined.hub_run import HubRun, HubTicket
    from tilework.executor.pipelined.member import Member

__all__ = ["FeedQueue", "Feeder"]

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1e-4
_LONGEST_WAIT: Final = 0.2
_APART_SECONDS: Final = 0.1
"""How long an item waits for room in the arena, while its task waits for it."""
_MAKE_WAY_SECONDS: Final = 1.0
"""How long it waits when its task has not begun, until it is seen whether that can begin."""
_LARGE_HEADER: Final = 1 << 10
_FEEDER_SECONDS: Final = 2.0
"""How long the end of a run waits for a handler that is waiting for its source."""


class Feeder:
    """Streams data to the tasks of one run.

    Parameters
    ----------
    hub
        The way to the workers.
    handler
        Gives the data.
    run
        The run.
    fail
        What to call with an error of the handler, which ends the run.
    """

    def __init__(self, hub: Hub, handler: TaskCommHandler, run: HubRun, fail: Callable[[BaseException], None]) -> None:
        self._hub = hub
        self._pid = os.getpid()
        self._arena: Arena = hub.pool.arena
        self._handler = handler
        self._run = run
        self._fail = fail
        # A KeyboardInterrupt can leave a condition locked that was entered with "with", but not a plain lock.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[tuple[Any, StreamRecord]] = deque()
        self._records: dict[int, StreamRecord] = {}  # by the index of the task
        self._is_over = False
        self._thread = threading.Thread(target=self._feed, name="tilework-feeder", daemon=True)
        hub.add_thread(self._thread)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted."""
        return self._is_over

    # ---- tickets ----

    def expect(self, ticket: HubTicket) -> None:
        """Stream to a ticket, before it is given to the hub."""
        with self._lock:
            index = ticket.of_run.index
            record = self._records.get(index)
            if record is None:
                record = self._records[index] = StreamRecord(index)
                record.item = ticket.item
                self._waiting.append((ticket.of_run.task, record))
                self._changed.notify_all()
                return
            # the task has lost its worker, and waits for another as those do that have not begun
            record.item = ticket.item
            record.has_begun = False
            for part in record.parts:
                self._arena.keep(part.block)
            if record.has_lost_data:
                name = partition_name(ticket.of_run.task)
                msg = (
                    f"the task of partition {name} lost its worker, and some of the data that had been streamed to it "
                    "is gone: there was no room to keep all of it"
                )
                self._run.inbox.put([Failed(ticket.of_run.number, WorkerLostError(msg))])

    def send_again(self, ticket: HubTicket, member: Member, serial: int) -> None:
        """Send everything that was streamed to a ticket so far; called with the hub locked, when a worker gets it."""
        with self._lock:
            record = self._records[ticket.of_run.index]
            for part in () if record.has_lost_data else record.parts:  # lost: the run fails because of that
                self._send(record, part, member, serial)
            if record.is_complete or self._is_over:
                record.has_end = True
                member.wire.send(encode(StreamEnd(serial, record.is_complete)))

    def answered(self, ticket: HubTicket) -> None:
        """Keep nothing for a ticket that is done."""
        with self._lock:
            record = self._records[ticket.of_run.index]
            record.is_answered = True
            record.let_go(self._arena)
            if record.is_complete:
                del self._records[ticket.of_run.index]

    def check_process(self) -> None:
        """Raise ExecutorError in a process that was forked by a handler: the memory is that of the other one."""
        if os.getpid() != self._pid:
            self._hub.check_open()

    def put(self, record: StreamRecord, parts: list[StreamPart]) -> None:
        """Send an item to a record's ticket, now or when it has a worker."""
        # The hub is locked first, always: it calls `send_again` with its lock held.
        with self._hub.lock, self._lock:
            if self._is_over or record.is_complete or record.is_answered:
                for part in parts:
                    part.free(self._arena)
                if self._is_over:
                    raise self.over()
                if record.is_complete:  # its worker was told so, and would never give the memory back
                    raise too_late()
                return  # a task need not wait for all of its data
            if record.has_lost_data:
                record.let_go(self._arena)  # it cannot be repeated any more
            record.parts += parts
            record.n_items += 1
            assert record.item is not None
            reader = self._hub.exchange.holder_of(record.item)
            if reader is not None:
                for part in parts:
                    self._send(record, part, reader, record.item.serial)

    def _send(self, record: StreamRecord, part: StreamPart, reader: Member, serial: int) -> None:
        self._arena.lend(part.block, reader)
        self._hub.exchange.tell(reader, encode(StreamItem(serial, part.header, part.block)), part.descriptors())
        if part.segment is not None:  # which only its reader has from now on
            part.segment.close()
            part.segment = None
            record.note_lost_data()

    def waits_for_data(self, record: StreamRecord) -> bool:
        """Return whether a task has begun, and has read everything."""
        with self._lock:
            return record.has_begun and not (record.parts and self._arena.is_unread(record.parts[-1].block))

    def make_way(self, record: StreamRecord) -> None:
        """Let a task that has lost its worker have another, if only those have one that wait for data after its own."""
        item = record.item
        if item is not None:
            self._hub.request(lambda: self._hub.exchange.make_way(item))

    def has_begun(self, record: StreamRecord) -> bool:
        """Return whether a worker has begun a task, or has even done it."""
        if not record.has_begun:
            with self._hub.lock:
                record.has_begun = record.is_answered or (
                    record.item is not None and self._hub.exchange.has_begun(record.item)
                )
        return record.has_begun

    @staticmethod
    def over() -> JobCancelledError:
        """Return what a handler gets that puts data into a run that has ended."""
        return JobCancelledError("the run has ended: its tasks take no more data")

    # ---- the thread ----

    def _feed(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._is_over:
                    self._changed.wait()
                if self._is_over:
                    return
                task, record = self._waiting.popleft()
            try:
                self._handler.handle_task(task, FeedQueue(self, self._arena, record))
                if os.getpid() != self._pid:
                    end_fork(SystemExit())
            except BaseException as error:  # noqa: BLE001  (it is raised for the consumer)
                if os.getpid() != self._pid:
                    end_fork(error)
                if not self._is_over:
                    self._fail(error)
                return
            self._finish(record)

    def _finish(self, record: StreamRecord) -> None:
        with self._hub.lock, self._lock:
            record.is_complete = True
            self._end_stream(record)
            if record.is_answered:
                self._records.pop(record.index, None)

    def _end_stream(self, record: StreamRecord) -> None:
        # Also for a task that is done already: its worker discards what comes until here. The thread that has fed the
        # task and the end of the run may both come here, in any order.
        if record.item is not None and not record.has_end:
            record.has_end = True
            self._hub.exchange.send_after(record.item, StreamEnd(record.item.serial, record.is_complete))

    def end(self) -> None:
        """Give nothing more, and let tasks that wait for data know."""
        with self._lock:
            self._is_over = True
            self._waiting.clear()
            self._changed.notify_all()
        self._hub.request(self._end_streams)

    def wait_for_end(self, grace: float) -> None:
        """Wait for the handler, for a while."""
        until = time.monotonic() + min(grace, _FEEDER_SECONDS)
        while self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(_LONGEST_WAIT)
        if self._thread.is_alive():
            log.warning(
                "a run has ended, but %s.handle_task still waits for its source; it is left behind",
                type(self._handler).__name__,
            )

    def _end_streams(self) -> None:
        with self._lock:
            for record in self._records.values():
                self._end_stream(record)
                record.let_go(self._arena)


class FeedQueue(OneWayQueue):
    """The queue of one task, as a handler fills it.

    Parameters
    ----------
    feeder
        The run's feeder.
    arena
        Where the data is put.
    record
        The task.
    """

    def __init__(self, feeder: Feeder, arena: Arena, record: StreamRecord) -> None:
        self.arena = arena
        self._feeder = feeder
        self._record = record
        self._short_since: float | None = None

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Append an item; see `WorkerQueue.put`. Waits while there is no room.

        Raises
        ------
        JobCancelledError
            When the run has ended.
        ExecutorError
            When `handle_task` has returned.
        """
        if payload is None:
            self._feeder.put(self._record, [self._pack_header(_pickled(header), ONLY_HEADER)])
            return
        content = _content_of(payload)
        with _NewItem(self, header, len(content), as_bytes=isinstance(payload, bytes)) as view:
            view[:] = content

    def put_nocopy(self, header: Any, size: int) -> AbstractContextManager[memoryview]:
        """Give out a buffer that the worker will read, and append it when the block ends normally."""
        return _NewItem(self, header, size)

    def append(self, header: Any, payload: StreamPart, *, as_bytes: bool) -> None:
        """Append an item whose payload was written."""
        pickled, parts = _pickled(header), [payload]
        if len(pickled) > _LARGE_HEADER:
            parts = [self._pack_header(pickled, HEADER_FIRST), payload]
            pickled = b""
        payload.header = AS_BYTES + pickled if as_bytes else pickled
        self._feeder.put(self._record, parts)

    def _pack_header(self, pickled: bytes, kind: bytes) -> StreamPart:
        part = self.allocate(len(pickled))
        part.header = kind
        with part.view(self.arena) as view:
            view[:] = pickled
        return part

    def allocate(self, size: int) -> StreamPart:
        """Return room for so many bytes, when there is some; raises as `put`."""
        self._feeder.check_process()
        try:
            while not self._feeder.is_over:
                part = self._allocate_nowait(size)
                if part is not None:
                    return part
                time.sleep(_POLL_SECONDS)
        except SharedMemoryFullError as error:
            msg = f"{error}: put less at a time, or give more memory: shared_memory, or the machine or its container"
            raise ExecutorError(msg) from error
        raise self._feeder.over()

    def _allocate_nowait(self, size: int) -> StreamPart | None:
        record = self._record
        block = self.arena.allocate(size, record.note_lost_data, leave_half=not record.has_begun)
        if block is None and not record.has_begun and self._feeder.has_begun(record):
            block = self.arena.allocate(size, record.note_lost_data)
        if block is not None:
            self._short_since = None
            return StreamPart(b"", block)
        now = time.monotonic()
        if self._short_since is None:
            self._short_since = now
        seconds = now - self._short_since
        if record.has_begun and seconds > _APART_SECONDS and self._feeder.waits_for_data(record):
            apart = self.arena.allocate_apart(size)
            return None if apart is None else StreamPart(b"", *apart)
        if not record.has_begun and seconds > _MAKE_WAY_SECONDS:
            self._feeder.make_way(record)
            self._short_since = now
        return None

    def size(self) -> int:
        """Return how many items were put."""
        return self._record.n_items


def _pickled(header: Any) -> bytes:
    return b"" if header is None else dumps(header)


def _content_of(payload: bytes | memoryview) -> bytes | memoryview:
    """Return the bytes of a payload, which may be anything that has a buffer."""
    view = memoryview(payload)
    try:
        return view.cast("B")
    except (TypeError, ValueError):  # not contiguous, empty, or of numbers in another byte order
        return view.tobytes()


class _NewItem(AbstractContextManager[memoryview]):
    """An item on its way into a queue, while a handler fills it. Not a generator, since there are thousands a second.

    Parameters
    ----------
    queue
        Where it is appended.
    header
        Its header.
    size
        Of its payload, in bytes.
    as_bytes
        Whether its reader gets the payload as bytes of its own.
    """

    __slots__ = ("_as_bytes", "_header", "_part", "_queue", "_size", "_view")

    def __init__(self, queue: FeedQueue, header: Any, size: int, *, as_bytes: bool = False) -> None:
        self._as_bytes = as_bytes
        self._queue = queue
        self._header = header
        self._size = operator.index(size)  # one of numpy cannot be sent
        if self._size < 0:
            msg = f"an item cannot have {size} bytes"
            raise ValueError(msg)

    def __enter__(self) -> memoryview:
        self._part = self._queue.allocate(self._size)
        self._view = self._part.view(self._queue.arena)
        return self._view

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        try:
            self._view.release()
            if kind is None:
                self._queue.append(self._header, self._part, as_bytes=self._as_bytes)
        except BaseException:
            self._part.free(self._queue.arena)  # nothing, where the end of the run did it
            raise
        if kind is not None:
            self._part.free(self._queue.arena)
