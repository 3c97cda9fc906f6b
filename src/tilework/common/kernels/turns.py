"""Turns of threads at the interpreter: who comes out of a kernel waits, awake, until the others' Python code is done.

A thread that wants the interpreter's lock while another has it is put to sleep, and to wake it up takes as long as a
tile, most of all on virtual CPUs. Users' code makes it worse: each call of NumPy in it lets the lock go for a moment,
in which another thread takes it. So threads that run users' code take turns with all of what they do to a tile, while
the others are in kernels, at whose end they wait without the lock and without sleeping. It is no more than a hint: who
has waited for a while goes on as if there were no turns, and after some such waits does without for some tiles.
"""

from __future__ import annotations

import itertools
import os
import sys
from array import array
from typing import Final

__all__ = ["FLAG", "HELD", "NUMBER", "SPINS", "Turn"]

FLAG, NUMBER, SPINS, HELD = range(4)
"""Places in the memory of a turn, numbers of 8 bytes: address of the flag, what it holds while it is this one's turn,
how often to look at it, and whether it is this one's turn. Machine code reads and writes them."""

_MOST_SPINS: Final = 4096
"""They take 80 to 200 microseconds. Whoever has to wait longer gains nothing by turns: what others do to a tile takes
longer than to convert it, and much of that may be without the lock."""
_MISSES: Final = 3
"""After so many waits in vain, one after the other, there are none at the next kernels."""
_WITHOUT: Final = 64
"""How many kernels that is."""

# One for the process, as the interpreter's lock is: the number of whose turn it is, or 0.
_flag = array("q", [0])
_numbers = itertools.count(1)


def _after_fork() -> None:
    _flag[0] = 0  # whose turn it was is not there


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Turn:
    """The turns of one task, which one thread runs. It begins without."""

    __slots__ = ("_flag", "_memory", "_missed", "_skipped", "address")

    def __init__(self) -> None:
        # For a thread that is left behind when the interpreter ends, and modules lose what they have.
        self._flag = _flag
        self._memory = array("q", [_flag.buffer_info()[0], next(_numbers), _MOST_SPINS, 0])
        self.address = self._memory.buffer_info()[0]
        """Address of `_memory`, for machine code."""
        self._missed = self._skipped = 0

    @staticmethod
    def make(*, threaded: bool) -> Turn | None:
        """Return a turn for a task; None where its thread is alone, or threads have no lock to wait for."""
        has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
        return Turn() if threaded and has_lock else None

    def note(self) -> None:
        """Take note of how the wait at the end of a kernel ended."""
        memory = self._memory
        if memory[HELD]:
            self._missed = 0
        elif memory[SPINS]:
            self._missed += 1
            if self._missed >= _MISSES:  # others do long work, perhaps without the lock
                self._missed = self._skipped = memory[SPINS] = 0
        else:
            self._skipped += 1
            if self._skipped >= _WITHOUT:
                memory[SPINS] = _MOST_SPINS

    def leave(self) -> None:
        """Let others have theirs, before something else than a kernel that does so by itself; may be called twice."""
        if self._memory[HELD]:
            self._memory[HELD] = 0
            self._flag[0] = 0
