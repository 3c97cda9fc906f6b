"""What happened in one run, on its way to the thread that consumes the run."""

from __future__ import annotations

import contextlib
import queue
import sys
from typing import Final, Generic, TypeVar

__all__ = ["Inbox"]

T = TypeVar("T")

# A wait for a lock is not interrupted by Ctrl-C on Windows, and elsewhere not by one that comes just before it begins.
_LONGEST_WAIT: Final = 0.1 if sys.platform == "win32" else 0.5


class Inbox(Generic[T]):
    """Any thread puts, one thread waits."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()

    def put(self, item: T) -> None:
        """Append an item."""
        self._queue.put(item)

    def wake(self) -> None:
        """Let who waits look again, though nothing may have arrived."""
        self._queue.put(None)

    def wait(self, timeout: float | None) -> list[T]:
        """Return what has arrived, after waiting for something to arrive.

        Parameters
        ----------
        timeout
            For so long at most, in seconds; it may be less.
        """
        try:
            items = [self._queue.get(timeout=_LONGEST_WAIT if timeout is None else min(timeout, _LONGEST_WAIT))]
        except queue.Empty:
            return []
        return [*(item for item in items if item is not None), *self.take()]

    def take(self) -> list[T]:
        """Return what has arrived, without waiting. Any thread may call it."""
        items = []
        with contextlib.suppress(queue.Empty):
            for _ in range(self._queue.qsize()):
                items.append(self._queue.get_nowait())  # noqa: PERF401  (what comes before Empty is kept)
        return [item for item in items if item is not None]
