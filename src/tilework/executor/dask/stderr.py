"""What the workers of this machine write to stderr: passed on to ours, and the last lines kept for when they die.

::

      worker process                              this process, in the event loop of the nanny
    ┌────────────────────┐      pipe       ┌────────────────────────────────────────┐
    │ descriptor 2:      │                 │ StderrRelay ──► descriptor 2           │
    │ Python, C,       ──┼───────────────► │      └────────► the last lines, for    │
    │ faulthandler       │                 │                 WorkerLostError        │
    └────────────────────┘                 └────────────────────────────────────────┘

Who owns what: a relay belongs to the nanny of the worker. The worker has the writing end, and so have the processes
that it starts. What is in the pipe when it dies is still there for us.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tilework.executor.exits import STDERR_LINES

if TYPE_CHECKING:
    import asyncio

__all__ = ["StderrRelay"]

_STDERR: Final = 2
_CHUNK: Final = 1 << 16
_MAX_CHUNKS: Final = 64
"""What is taken of a worker that has died, at most: a process that it started may still be writing."""

_LONGEST_LINE: Final = 1000
"""Bytes of each line that are kept."""


class StderrRelay:
    """The stderr of one worker process.

    Parameters
    ----------
    loop
        The event loop that reads it.
    """

    is_possible: Final = sys.platform != "win32"
    """Whether an event loop can read from a pipe, and a spawned process can be handed a descriptor."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: deque[bytes] = deque(maxlen=STDERR_LINES)
        self._rest = b""
        self._unfinished = b""  # of a line that is passed on when it is complete, as others write there as well
        self._here, self.there = os.pipe()
        os.set_blocking(self._here, False)
        loop.add_reader(self._here, self._read)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """What the process wrote at last."""
        lines = [*self._lines, self._rest] if self._rest else self._lines
        return tuple(line.decode(errors="replace") for line in lines)

    def hand_over(self) -> None:
        """Close our copy of the writing end: the process has its own, or never came to be."""
        if self.there >= 0:
            os.close(self.there)
            self.there = -1

    def _read(self) -> bool:
        """Take what is there; returns whether there may be more."""
        try:
            data = os.read(self._here, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._stop()
            return False
        self._pass_on_lines(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._lines.extend(line[:_LONGEST_LINE] for line in lines[-STDERR_LINES:])
        self._rest = rest[-_LONGEST_LINE:]
        return True

    def _pass_on_lines(self, data: bytes) -> None:
        data = self._unfinished + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1  # a progress bar has no end of line
        if len(data) - end > _CHUNK:
            end = len(data)
        _pass_on(data[:end])
        self._unfinished = data[end:]

    def _stop(self) -> None:
        _pass_on(self._unfinished)
        self._unfinished = b""
        self._loop.remove_reader(self._here)
        os.close(self._here)
        self._here = -1

    def close(self) -> None:
        """Take what is left, and stop reading; called in the event loop, and may be called twice."""
        self.hand_over()
        for _ in range(_MAX_CHUNKS):
            if self._here < 0 or not self._read():
                break
        if self._here >= 0:
            self._stop()


def _pass_on(data: bytes) -> None:
    with suppress(OSError):  # nobody reads ours, or it is closed
        while data:
            data = data[os.write(_STDERR, data) :]
