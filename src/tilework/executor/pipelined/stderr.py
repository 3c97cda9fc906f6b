"""What a worker writes to stderr: logged, so that it is seen, and its end kept for when the worker dies.

Warnings that Python prints in a worker arrive here, as well as what compiled code has to say. They are logged a moment
after they were written: what a worker that dies writes at last is told with its loss, and need not be told twice.

Who owns what: the hub thread alone reads, and logs.
"""

from __future__ import annotations

import logging
import math
import os
import select
import time
from collections import deque
from typing import Final

from tilework.executor.exits import STDERR_LINES
from tilework.executor.pipelined.telling import log_safely

__all__ = ["WorkerStderr"]

log = logging.getLogger(__name__)

_LONGEST_LINE: Final = 1 << 13
"""Bytes of a line that are kept."""
_LAST_READS: Final = 64
"""How much is read of a worker that has ended, at most: a process that it started may still write."""
_PAUSE_SECONDS: Final = 0.25
"""How long lines wait to be logged."""
_MOST_UNTOLD: Final = 1000
"""How many lines may wait."""


class WorkerStderr:
    """The reading end of a worker's stderr.

    Parameters
    ----------
    name
        Of the worker.
    fd
        Descriptor of the pipe, which this owns from now on; it must not block.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.fd = fd
        self.lines: deque[str] = deque(maxlen=STDERR_LINES)
        """The last lines."""
        self.rest = b""
        """What has no end of line yet; what has none for long is not kept whole."""
        self.log_at = math.inf
        """When `log_lines` is to be called."""
        self._name = name
        self._untold: list[str] = []

    def read(self) -> bool:
        """Take what is there; returns whether there can be more."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        lines = (self.rest + (data or b"\n" * bool(self.rest))).split(b"\n")
        self.rest = _cut(lines.pop())
        for line in lines:
            # A progress bar goes back to the beginning of its line again and again: its end alone is logged.
            states = [_cut(each).decode(errors="replace") for each in line.removesuffix(b"\r").split(b"\r")]
            self.lines.extend(states)
            self._untold.append(states[-1])
        if self._untold:
            self.log_at = min(self.log_at, time.monotonic() + _PAUSE_SECONDS)
            if len(self._untold) > _MOST_UNTOLD:
                self.log_lines()
        return bool(data)

    def log_lines(self) -> None:
        """Log what has not been logged."""
        self.log_at = math.inf
        if self._untold:
            lines, self._untold = self._untold, []
            log_safely(log, logging.WARNING, "%s", "\n".join(f"{self._name}: {line}" for line in lines))

    def read_last(self) -> None:
        """Take what is left: the worker has ended."""
        for _ in range(_LAST_READS):
            if self.fd < 0 or not self.read() or not _has_data(self.fd):
                break

    def leave_to_others(self) -> None:
        """Log what is older than the last lines, which somebody else tells."""
        del self._untold[-STDERR_LINES:]
        self.log_lines()

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _cut(line: bytes) -> bytes:
    return line[-_LONGEST_LINE:]


def _has_data(fd: int) -> bool:
    poll = select.poll()  # a descriptor's number may be too large for `select.select`
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
