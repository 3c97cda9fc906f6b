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
        self.is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Take note that it has happened."""
        self.is_set = True
        with contextlib.suppress(RuntimeError):  # it had before
            self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Wait for it, so many seconds at most; returns whether it has happened.

        An interrupt of one who waits may cost others the whole time.
        """
        if not self.is_set and self._lock.acquire(timeout=timeout):
            self.set()  # for others
        return self.is_set
