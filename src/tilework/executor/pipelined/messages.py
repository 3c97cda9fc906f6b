"""What the main process and its workers say to each other.

Tuples, because a worker gets thousands a second. Fields called ``parcel`` hold an object that was packed by the sender.
A run's parts that are the same for all its tickets are sent once to each worker, with `OpenRun`.

The messages of which there are many are marshalled, the others pickled: both ends are the same Python.
"""

from __future__ import annotations

import marshal
import pickle
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tilework.executor.pipelined.arena import Block
from tilework.executor.pipelined.parcel import Parcel

if TYPE_CHECKING:
    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.remote import PackedError


# ---- from the main process to a worker ----


class Setup(NamedTuple):
    """The first message. Its descriptors are the control page and the main process's arena."""

    worker_fn: bytes
    spec: WorkerSpec
    row: int
    arena_size: int
    result_budget: int
    folder: str | None
    sys_path: list[str]
    sys_argv: list[str]
    cwd: str
    environ: dict[str, str]


class Scatter(NamedTuple):
    """An object under a key, new or in place of another."""

    key: str
    data: bytes
    spans: tuple[tuple[int, int], ...]
    segment: int


class Patch(NamedTuple):
    """Call ``patch`` of the object under a key."""

    key: str
    data: bytes


class Delete(NamedTuple):
    """Forget the object under a key."""

    key: str


class OpenRun(NamedTuple):
    """What all tickets of a run share."""

    run: int
    params_key: str | None
    """None: the tickets are items for a function, which is in the parcel."""
    parcel: Parcel
    deadline: float | None
    span_context: Any


class CloseRun(NamedTuple):
    """No more tickets of a run will come."""

    run: int


class RunTask(NamedTuple):
    """A ticket."""

    run: int
    serial: int
    """Of the ticket among those that were sent to this worker."""
    parcel: Parcel
    is_streamed: bool


class StreamItem(NamedTuple):
    """Data for a ticket that is under way at this worker."""

    serial: int
    header: bytes
    """Pickled; empty for None. Before it, or instead of it, may be one of the words below: no pickle begins so."""
    block: Block
    """Where the payload is."""
    fd: int = -1
    """Descriptor of the segment that the block is in, as it came with the message; -1 for one that is not apart."""
    first: StreamItem | None = None
    """What its large header came with, as the reader puts them together."""


AS_BYTES: Final = b"b"
"""The payload was put as bytes."""
ONLY_HEADER: Final = b"n"
"""What is in the block is the header; there is no payload."""
HEADER_FIRST: Final = b"h"
"""What is in the block is the header of the next item: it is large."""


class StreamEnd(NamedTuple):
    """No more data will come for a ticket."""

    serial: int
    is_complete: bool
    """Whether its handler has given everything; otherwise the run has ended before."""


class Shutdown(NamedTuple):
    """End."""


# ---- from a worker to the main process ----


class Forked(NamedTuple):
    """The first message: the process is there, and waits for its `Setup`. Its descriptor stands for it (pidfd)."""

    pid: int


class Arrived(NamedTuple):
    """The worker is set up now. Its descriptor is its arena."""

    arena_size: int


class StartupDone(NamedTuple):
    """The worker takes tickets now."""


class StartupFailed(NamedTuple):
    """The worker could not be set up, and ends."""

    error: PackedError


class Done(NamedTuple):
    """A ticket's task returned."""

    serial: int
    seconds: float
    parcel: Parcel


class Failed(NamedTuple):
    """A ticket's task raised."""

    serial: int
    error: PackedError


class Skipped(NamedTuple):
    """A ticket was left alone, because it was taken back."""

    serial: int


class Signal(NamedTuple):
    """A message of a task to the subscribers of its run."""

    run: int
    header: bytes


# ---- either way, for who uses a pool without a hub ----


class WithPayload(NamedTuple):
    """An item of a queue that has a payload; those that have none are sent as they are."""

    header: bytes
    payload: bytes


# ---- between the main process and the one that forks workers ----


class Spawn(NamedTuple):
    """Fork a worker, which says itself that it is there. The descriptors are its end of the line, and its stderr."""

    token: int
    """Stands for the worker, unlike its number for ever."""
    preload: list[str]
    """Names of modules to import before."""


class Exited(NamedTuple):
    """A worker has ended."""

    token: int
    status: int
    """As from `os.waitstatus_to_exitcode`: negative for a signal."""


# ---- as bytes ----

_RUN_TASK: Final = 1
_DONE: Final = 2
_STREAM_ITEM: Final = 3
_STREAM_END: Final = 4


def encode(message: Any) -> bytes:
    """Return a message as bytes. All that is users' own in it was pickled before."""
    kind = type(message)
    fields: tuple[Any, ...]
    if kind is RunTask:
        fields = _RUN_TASK, message.run, message.serial, _plain(message.parcel), message.is_streamed
    elif kind is Done:
        fields = _DONE, message.serial, message.seconds, _plain(message.parcel)
    elif kind is StreamItem:
        fields = _STREAM_ITEM, message.serial, message.header, tuple(message.block)
    elif kind is StreamEnd:
        fields = _STREAM_END, message.serial, message.is_complete
    else:
        return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return marshal.dumps(fields)


def decode(body: bytes) -> Any:
    """Return the message that was encoded."""
    if body[:1] == pickle.PROTO:
        return pickle.loads(body)  # noqa: S301  (from the other end of a private line)
    kind, *fields = marshal.loads(body)  # noqa: S302  (the same)
    if kind == _RUN_TASK:
        run, serial, parcel, is_streamed = fields
        return RunTask(run, serial, _parcel(parcel), is_streamed)
    if kind == _DONE:
        serial, seconds, parcel = fields
        return Done(serial, seconds, _parcel(parcel))
    if kind == _STREAM_ITEM:
        serial, header, block = fields
        return StreamItem(serial, header, Block(*block))
    return StreamEnd(*fields)


def _plain(parcel: Parcel) -> tuple[Any, ...]:
    data, spans, block, segment = parcel
    return data, spans, None if block is None else tuple(block), segment


def _parcel(plain: tuple[Any, ...]) -> Parcel:
    data, spans, block, segment = plain
    return Parcel(data, spans, None if block is None else Block(*block), segment)
