"""A page of memory through which the main process stops runs, and takes back what a worker has not begun yet.

Both must reach a worker that computes and does not read messages. Each is a number that one side alone writes.

*Stopping*: a run has a slot; its number is written there when it is over. Between tiles its tasks look at the slot.

*Taking back*: the tickets that were sent to a worker are numbered. Before it begins one, the worker writes its number
to ``begun`` and then looks at ``revoked``; a ticket up to that number is left alone. To take back, the main process
writes ``revoked`` and then looks at ``begun``: what lies beyond is certainly not begun, now or later. One ticket can be
on the edge, begun or left alone, and which of the two it is the worker tells. Neither of them can miss the other,
because each writes before it looks, and a memory barrier lies in between (Dekker's algorithm).
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from tilework.common.environment import StopFlag
from tilework.executor.pipelined.memory import PAGE, Segment, map_segment

if TYPE_CHECKING:
    import mmap

__all__ = ["N_STOPS", "ControlPage", "MainStopFlag", "WorkerStopFlag", "stop_slot"]

N_STOPS: Final = 4096
"""How many runs can be stopped each for itself."""
_N_WORKERS: Final = 4096
_WORDS: Final = N_STOPS + 2 * _N_WORKERS
SIZE: Final = -(-_WORDS * 8 // PAGE) * PAGE


def stop_slot(run: int) -> int:
    """Return the place of the word that stops a run, which it must not share with another one that workers know."""
    return run % N_STOPS


class ControlPage:
    """The page, as either side has it.

    Parameters
    ----------
    fd
        Descriptor from the main process, which is closed. None: this is the main process.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._segment: Segment | None = None
        mapping: mmap.mmap
        if fd is None:
            self._segment = Segment(SIZE)
            self._segment.allocate(SIZE)
            mapping = self._segment.map
        else:
            mapping = map_segment(fd, SIZE, writable=True)
        self._map = mapping
        # Words of eight bytes, aligned: each is written and read as a whole.
        self._words = memoryview(mapping).cast("q")
        self._barrier = threading.Lock()

    @property
    def fd(self) -> int:
        """Descriptor to send to a worker."""
        assert self._segment is not None
        return self._segment.fd

    # ---- stopping ----

    def stop(self, run: int) -> None:
        """Tell all tasks of a run to stop."""
        self._words[stop_slot(run)] = run

    def stop_word(self, run: int) -> tuple[memoryview, int]:
        """Return the page's words, and the place of the one that is the run's number when its tasks should stop."""
        return self._words, stop_slot(run)

    # ---- taking back ----

    def begin(self, row: int, number: int) -> bool:
        """Called by a worker: return whether it may begin the ticket with this number."""
        at = N_STOPS + 2 * row
        self._words[at] = number
        with self._barrier:
            pass
        return self._words[at + 1] < number

    def revoke(self, row: int, number: int) -> int:
        """Take back all tickets up to a number; returns the number of the last one that may have begun."""
        at = N_STOPS + 2 * row
        self._words[at + 1] = number
        with self._barrier:
            pass
        return self._words[at]

    def begun(self, row: int) -> int:
        """Return the number of the last ticket that a worker began, or was about to begin."""
        return self._words[N_STOPS + 2 * row]

    def clear(self, row: int) -> None:
        """Make the row ready for a new worker, whose tickets are numbered from 1."""
        self._words[N_STOPS + 2 * row] = 0
        self._words[N_STOPS + 2 * row + 1] = 0

    def forget(self) -> None:
        """Tell nobody anything any more, in a process that was forked from the main process."""
        self._words.release()

    def close(self) -> None:
        """Unmap; the other side keeps what it has mapped."""
        self._words.release()
        if self._segment is not None:
            self._segment.close()
        else:
            self._map.close()


class MainStopFlag(StopFlag):
    """A run's flag in the main process, which sets that of the workers as well."""

    __slots__ = ("_page", "_run")

    def __init__(self, page: ControlPage, run: int, deadline: float | None) -> None:
        super().__init__(deadline)
        self._page = page
        self._run = run

    def set(self, reason: str = "the run was cancelled") -> None:
        """Tell all tasks to stop. The first reason counts."""
        super().set(reason)
        with contextlib.suppress(ValueError):  # the executor is closed: there are no workers any more
            self._page.stop(self._run)


class WorkerStopFlag(StopFlag):
    """A run's flag as a worker sees it. The clock of the deadline is the same in all processes of a machine."""

    __slots__ = ("_place", "_run", "_words")

    def __init__(self, page: ControlPage, run: int, deadline: float | None) -> None:
        super().__init__(deadline)
        self._run = run
        self._words, self._place = page.stop_word(run)

    def is_set(self) -> bool:
        """Return whether the tasks of the run should stop."""
        return self._words[self._place] == self._run or super().is_set()

    def raise_if_set(self) -> None:
        """Raise JobCancelledError, or DeadlineExceededError when it is the time that is over."""
        # Asked before every frame, of which there may be a million: no calls unless there is something to say.
        if self._words[self._place] == self._run:
            super().set()
        if self._reason is not None or self._deadline is not None:
            super().raise_if_set()
