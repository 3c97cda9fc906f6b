"""An event that Ctrl-C cannot break."""

from __future__ import annotations

import contextlib
import threading

__all__ = ["Latch"]


class Latch:
    """Something that happens once, for which another thread waits.

    A `threading.Event` is written in Python: a KeyboardInterrupt in whoever waits can leave it locked, and then whoever
    sets it waits for ever.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Take note that it has happened."""
        self._is_set = True
        with contextlib.suppress(RuntimeError):  # it had before
            self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Wait for it, so many seconds at most; returns whether it has happened."""
        if not self._is_set and self._lock.acquire(timeout=timeout):
            self.set()  # for others
        return self._is_set
