"""A line between two processes: frames of bytes, with file descriptors, over a Unix socket.

Who does what: each end has one reader. Any thread may send; frames are not mixed. The main process must never wait for
a worker that does not read, so its ends do not block: what the socket does not take at once stays in an outbox, which
the reader's thread sends when there is room (`flush`). A worker's end blocks, for the main process always reads.

What becomes of descriptors that a process has no room for is up to the system: it drops them. Then nobody can tell any
more which descriptor belongs to which frame, so the line is given up at both ends, as if one of them were gone.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LONGEST_POLL", "Frame", "Wire", "WireClosedError"]

_HEADER: Final = struct.Struct("<II")  # length of the body, number of file descriptors
_READ_BYTES: Final = 1 << 16
"""A larger buffer is pages that glibc takes from the system and gives back for each message: 25 microseconds."""
_MAX_DESCRIPTORS: Final = 64
_DESCRIPTORS_BYTES: Final = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
# As plain numbers, for to join flags of `socket` takes as long as to send a frame. Other systems than Linux lack some;
# they can import this, and are told what they lack by who starts processes.
_SEND: Final = int(getattr(socket, "MSG_NOSIGNAL", 0))
_SEND_NOWAIT: Final = _SEND | int(getattr(socket, "MSG_DONTWAIT", 0))
_RECEIVE: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_TRUNCATED: Final = int(getattr(socket, "MSG_CTRUNC", 0))
LONGEST_POLL: Final = 1e6
"""Seconds; `select.poll` takes no more than 2**31 ms."""
_GONE: Final = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF}
_RECEIVE_NOWAIT: Final = _RECEIVE | int(getattr(socket, "MSG_DONTWAIT", 0))


class WireClosedError(OSError):
    """The other end is gone."""


class Frame(NamedTuple):
    """What was sent in one piece. Whoever takes it owns its descriptors."""

    body: bytes
    descriptors: tuple[int, ...]


class Wire:
    """One end of a line.

    Parameters
    ----------
    sock
        A connected Unix stream socket, which the wire owns from now on.
    on_blocked
        Called, with the wire, when something stays in the outbox. None: sending blocks.
    """

    def __init__(self, sock: socket.socket, on_blocked: Callable[[Wire], None] | None = None) -> None:
        self._socket = sock
        self._on_blocked = on_blocked
        self._lock = threading.Lock()
        self._outbox: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._is_held = False
        self._held: list[bytes] = []
        self._data = bytearray()
        self._received: deque[int] = deque()
        self._frames: deque[Frame] = deque()
        self._is_closed = False
        self.trouble: str | None = None
        """Why this end gave the line up, though the other one was there."""

    @classmethod
    def pair(cls, on_blocked: Callable[[Wire], None] | None = None) -> tuple[Wire, socket.socket]:
        """Return this process's end, and the socket for the other process."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(here, on_blocked), there

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self._socket.fileno()

    # ---- sending ----

    def send(self, body: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a frame. The descriptors are duplicated on the way, and stay the caller's.

        Raises
        ------
        WireClosedError
            When the other end is gone, and that is known already.
        """
        data = _HEADER.pack(len(body), len(descriptors)) + body
        with self._lock:
            if self._is_closed:
                raise WireClosedError
            if self._is_held and not descriptors:
                self._held.append(data)
                return
            self._send_held()
            self._send_or_keep(data, descriptors)

    def hold(self) -> None:
        """Let what is sent gather until `release`, or until something with descriptors is sent after it."""
        self._is_held = True

    def release(self) -> None:
        """Send what has gathered, in one piece.

        Raises
        ------
        WireClosedError
            When the other end is gone, and that is known already.
        """
        with self._lock:
            self._is_held = False
            self._send_held()

    def _send_held(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._send_or_keep(data, ())

    def _send_or_keep(self, frames: bytes, descriptors: Sequence[int]) -> None:
        data = memoryview(frames)
        if self._outbox:
            # In the outbox a descriptor must outlive its owner's use of it.
            self._outbox.append((data, self._duplicates(descriptors)))
            return
        sent = self._send_some(data, descriptors)
        if sent < len(data):
            kept = [] if sent else self._duplicates(descriptors)
            self._outbox.append((data[sent:], kept))
            if self._on_blocked is not None:
                self._on_blocked(self)

    def _duplicates(self, descriptors: Sequence[int]) -> list[int]:
        kept: list[int] = []
        try:
            for fd in descriptors:
                kept.append(os.dup(fd))  # noqa: PERF401  (those before one that fails are closed)
        except OSError as error:
            for fd in kept:
                os.close(fd)
            raise self.give_up(f"something could not be sent: {error}") from error
        return kept

    def give_up(self, trouble: str) -> WireClosedError:
        """Let both readers see the end of the line, and why; returns what to raise."""
        self.trouble = self.trouble or trouble
        self.hang_up()
        return WireClosedError(self.trouble)

    def _send_some(self, data: memoryview, descriptors: Sequence[int]) -> int:
        """Send as much as the socket takes; everything when sending blocks."""
        sent = 0
        flags = _SEND if self._on_blocked is None else _SEND_NOWAIT
        try:
            if descriptors:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                sent = self._socket.sendmsg([data], rights, flags)
            while sent < len(data):
                sent += self._socket.send(data[sent:], flags)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in _GONE:
                raise WireClosedError from error
            raise self.give_up(f"something could not be sent: {error}") from error
        return sent

    def flush(self) -> bool:
        """Send of the outbox what the socket takes; returns whether it is empty now."""
        with self._lock:
            while self._outbox:
                data, descriptors = self._outbox[0]
                sent = self._send_some(data, descriptors)
                if sent:
                    for fd in descriptors:
                        os.close(fd)
                    descriptors = []
                if sent < len(data):
                    self._outbox[0] = (data[sent:], descriptors)
                    return False
                self._outbox.popleft()
            return True

    # ---- receiving ----

    def receive_nowait(self) -> list[Frame]:
        """Return the frames that have arrived.

        Raises
        ------
        WireClosedError
            When the other end is gone, and every frame of it was returned before.
        """
        is_open = self._read(_RECEIVE_NOWAIT)
        frames = list(self._frames)
        self._frames.clear()
        if not frames and not is_open:
            raise WireClosedError(self.trouble or "")
        return frames

    def receive(self, timeout: float | None = None) -> Frame | None:
        """Wait for the next frame; None when none came within `timeout` seconds.

        Raises
        ------
        WireClosedError
            When the other end is gone.
        """
        while not self._frames:
            if timeout is not None:
                poll = select.poll()
                poll.register(self._socket, select.POLLIN)
                if not poll.poll(min(max(0.0, timeout), LONGEST_POLL) * 1e3):
                    return None
            if not self._read(_RECEIVE) and not self._frames:
                raise WireClosedError(self.trouble or "")
        return self._frames.popleft()

    def receive_here(self) -> Frame | None:
        """Return the next frame of those that came with the last; None when there is none."""
        return self._frames.popleft() if self._frames else None

    def _read(self, flags: int) -> bool:
        """Read once; returns whether the other end is open."""
        if self.trouble is not None:
            return False
        try:
            data, ancillary, told, _ = self._socket.recvmsg(_READ_BYTES, _DESCRIPTORS_BYTES, flags)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._received.extend(received)
        if not data:
            return False
        self._data += data
        self._cut()
        if told & _TRUNCATED:
            self.give_up("there were too many open files to receive what was sent: raise the limit (ulimit -n)")
        return True

    def _cut(self) -> None:
        """Cut what was read into frames."""
        data, start = self._data, 0
        while len(data) - start >= _HEADER.size:
            length, n = _HEADER.unpack_from(data, start)
            stop = start + _HEADER.size + length
            if len(data) < stop or len(self._received) < n:
                break
            descriptors = tuple(self._received.popleft() for _ in range(n))
            self._frames.append(Frame(bytes(data[start + _HEADER.size : stop]), descriptors))
            start = stop
        if start:
            del data[:start]

    def hang_up(self) -> None:
        """Send and take nothing more: who reads at the other end gets what was sent, and who sends waits for nobody."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close the socket alone, in a process that was forked: no thread is there to release the lock."""
        self._is_closed = True
        self._socket.close()

    def close(self) -> None:
        """Close this end, with all descriptors that nobody took; may be called twice."""
        with self._lock:
            self._is_closed = True
            for _, descriptors in self._outbox:
                for fd in descriptors:
                    os.close(fd)
            self._outbox.clear()
            self._held.clear()
            for fd in self._received:
                os.close(fd)
            self._received.clear()
            for frame in self._frames:
                for fd in frame.descriptors:
                    os.close(fd)
            self._frames.clear()
            self._socket.close()
