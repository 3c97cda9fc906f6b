"""Objects on their way between processes: small ones in the message, large arrays in shared memory.

A parcel is what travels in a message. Its large buffers, and a large pickle, lie in one block of the sender's arena, or
when that is full for too long in a segment of their own, whose descriptor travels with the message.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tilework.executor.pipelined.memory import Segment, SharedMemoryFullError, map_segment
from tilework.executor.remote import dumps_apart, loads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.executor.pipelined.arena import Arena, ArenaReader, Block

__all__ = ["SMALLEST_APART", "Layout", "Packed", "Parcel", "pack", "ship", "unpack"]

log = logging.getLogger(__name__)

SMALLEST_APART: Final = 1 << 13
"""Buffers of at least this many bytes do not travel in the message."""

_ALIGNMENT: Final = 64
_LARGE_PICKLE: Final = 1 << 16
_PATIENCE_SECONDS: Final = 2.0
"""How long a sender waits for room in its arena. Then it takes a segment of its own: the reader may hold what fills the
arena, for as long as it likes."""
_POLL_SECONDS: Final = 2e-4


class Packed(NamedTuple):
    """A pickled object, still in the memory of the sender."""

    data: bytes
    buffers: tuple[memoryview, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)


class Parcel(NamedTuple):
    """A pickled object in a message."""

    data: bytes
    """The pickle; empty when it is the last of the spans."""
    spans: tuple[tuple[int, int], ...]
    """Offset in the block, and bytes, of each buffer."""
    block: Block | None
    """Where they are in the sender's arena."""
    segment: int
    """Size of the segment that travels with the message; 0 when there is none."""


def pack(obj: Any) -> Packed:
    """Pickle an object; raises whatever prevents that."""
    data, buffers = dumps_apart(obj, SMALLEST_APART)
    return Packed(data, tuple([buffer.raw() for buffer in buffers]))


class Layout:
    """How a packed object lies in shared memory: its buffers one after the other, and a large pickle as the last.

    Parameters
    ----------
    packed
        The object.
    """

    def __init__(self, packed: Packed) -> None:
        self.data = packed.data
        """The pickle, when it travels in the message."""
        self._buffers = list(packed.buffers)
        if len(packed.data) > _LARGE_PICKLE:
            self._buffers.append(memoryview(packed.data))
            self.data = b""
        spans, size = [], 0
        for buffer in self._buffers:
            spans.append((size, buffer.nbytes))
            size += -(-buffer.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.spans = tuple(spans)
        """Offset and bytes of each buffer."""
        self.size = size
        """Bytes of all of them; 0 when nothing needs shared memory."""

    def write(self, view: memoryview) -> None:
        """Write the buffers, and release the view."""
        with view:
            for buffer, (start, size) in zip(self._buffers, self.spans, strict=True):
                view[start : start + size] = buffer

    def make_segment(self) -> Segment:
        """Return a new segment that holds the buffers; SharedMemoryFullError when there is no room."""
        segment = Segment(self.size)
        try:
            segment.allocate(self.size)
            self.write(memoryview(segment.map))
        except BaseException:
            segment.close()
            raise
        return segment


def ship(packed: Packed, arena: Arena, is_over: Callable[[], bool] | None = None) -> tuple[Parcel, int | None]:
    """Put a packed object where its receiver finds it.

    Parameters
    ----------
    packed
        The object.
    arena
        The sender's.
    is_over
        Whether it is not wanted any more, which is looked at while there is no room. None: do not wait for room.

    Returns
    -------
    parcel, fd
        The parcel to send, and the descriptor to send with it and to close, or None.
    """
    if not packed.buffers and len(packed.data) <= _LARGE_PICKLE:
        return Parcel(packed.data, (), None, 0), None
    layout = Layout(packed)
    block = _wait_for_block(arena, layout.size, is_over)
    if block is not None:
        try:
            layout.write(arena.view(block))
        except BaseException:  # a Ctrl-C comes when large arrays have been copied
            arena.free(block)
            raise
        return Parcel(layout.data, layout.spans, block, 0), None
    segment = layout.make_segment()
    try:
        return Parcel(layout.data, layout.spans, None, layout.size), os.dup(segment.fd)
    finally:
        segment.close()


def _wait_for_block(arena: Arena, size: int, is_over: Callable[[], bool] | None) -> Block | None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            block = arena.allocate(size)
        except SharedMemoryFullError as error:
            _warn_once(f"{error}: results and tasks of this size travel in a piece of memory of their own, slower")
            return None
        if block is not None or is_over is None or is_over() or time.monotonic() > until:
            return block
        time.sleep(_POLL_SECONDS)


@functools.cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def unpack(parcel: Parcel, arena: ArenaReader, fd: int | None, *, copy: bool, keep: bool) -> Any:
    """Return the object of a parcel; raises whatever its unpickling raises.

    Parameters
    ----------
    parcel
        What arrived.
    arena
        The sender's.
    fd
        The descriptor that came with it, which is closed.
    copy
        Whether the object's arrays are copied, so that they may be kept and written to.
    keep
        Whether the block belongs to the receiver until nothing refers to it any more; otherwise the sender takes it
        back when it knows that it is not needed.
    """
    if parcel.segment:
        assert fd is not None
        memory = memoryview(map_segment(fd, parcel.segment, private=True))
    elif parcel.block is None:
        return loads(parcel.data)
    elif copy:
        try:
            with arena.view(parcel.block) as view:
                memory = memoryview(bytearray(view))
        finally:  # there may be no memory for it, and it may be interrupted
            if keep:
                arena.release(parcel.block)
    else:
        memory = arena.view_until_forgotten(parcel.block) if keep else arena.view(parcel.block)
    buffers = [memory[start : start + size] for start, size in parcel.spans]
    return loads(parcel.data or buffers.pop(), buffers=buffers)
