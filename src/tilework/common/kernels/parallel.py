"""Threads inside a kernel: one call is cut into parts of frames or of pixels, which never share a result.

So the bits do not depend on the number of threads.

Who does what: all kernels of the process share a small pool of threads. The calling thread asks some of them for help,
and computes parts itself until none is left; then it waits for those who are still at theirs. Who comes later finds
nothing to do. So no part waits for a thread, and kernels that run in many tasks at a time cannot block one another.

The calling thread may be the main thread of a program, where Ctrl-C raises a KeyboardInterrupt at any place. So the
threads share nothing but what is written in C and done in one step. `concurrent.futures` has locks that are written in
Python, and an interrupt can leave them locked for good.
"""

from __future__ import annotations

import _thread
import itertools
import os
import threading
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PART_BYTES", "run_parts"]

PART_BYTES: Final = 2**21
"""Below this a part costs more to hand over than to compute."""

_MOST_HELPERS: Final = os.cpu_count() or 1


class _Call:
    """One call of a kernel: the parts that nobody computes yet, and who helps."""

    __slots__ = ("error", "helpers", "parts")

    def __init__(self, function: Callable[[int, int], None], bounds: list[int]) -> None:
        self.parts = [partial(function, start, stop) for start, stop in itertools.pairwise(bounds)]
        self.helpers: list[threading.Lock] = []
        """One for each thread that may be at a part, and locked for as long."""
        self.error: BaseException | None = None

    def work(self) -> None:
        """Compute parts until none is left."""
        while self.parts:
            try:
                compute = self.parts.pop(0)
            except IndexError:  # another thread was faster
                return
            compute()

    def help(self) -> None:
        """Compute parts in a thread of the pool; with an error, the caller gets it, and no more parts are begun."""
        lock = threading.Lock()
        with lock:
            self.helpers.append(lock)  # before it takes a part: who finds none left knows of all that are computed
            try:
                self.work()
            except BaseException as error:  # noqa: BLE001  (the caller raises it)
                self.parts.clear()
                self.error = error


class _Pool:
    """The threads, as many as a call has asked for until now; a forked child starts its own.

    The interpreter does not wait for them when it exits. While one of them computes, somebody else does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_threads = 0
        self._calls: SimpleQueue[_Call] = SimpleQueue()

    def ask(self, call: _Call, n_helpers: int) -> None:
        """Let so many threads help with a call, as soon as they are free."""
        if self._n_threads < n_helpers:
            self._start(n_helpers)
        for _ in range(n_helpers):
            self._calls.put(call)

    def forget(self) -> None:
        """Start over, in a forked child, which has none of its parent's threads."""
        self.__init__()  # type: ignore[misc]

    def _start(self, n_threads: int) -> None:
        with self._lock:
            while self._n_threads < n_threads:
                # threading.Thread.start() waits for the thread, with a lock that is written in Python
                _thread.start_new_thread(_serve, (self._calls,))
                self._n_threads += 1


def _serve(calls: SimpleQueue[_Call]) -> None:
    while True:
        call = calls.get()
        call.help()
        del call


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def run_parts(
    function: Callable[[int, int], None], size: int, threads: int, grain: int = 1, *, work: int | None = None
) -> None:
    """Call ``function(start, stop)`` for parts that cover ``range(size)``, in up to `threads` threads.

    However it ends, no part is being computed any more. After an error or an interrupt some may not have been at all.

    Parameters
    ----------
    function
        Computes one part; must release the GIL to gain anything.
    size
        What is cut.
    threads
        The most threads to use; 1 calls the function directly.
    grain
        Parts begin at multiples of this.
    work
        Bytes that are read, or as much work in all: there are fewer parts when each would have less than `PART_BYTES`.
        None: it is worth while in any case.
    """
    blocks = -(-size // grain)
    parts = min(threads, blocks)
    if work is not None:
        parts = min(parts, work // PART_BYTES)
    if parts <= 1:
        function(0, size)
        return
    call = _Call(function, [min(size, grain * (blocks * i // parts)) for i in range(parts + 1)])
    interrupt: BaseException | None = None
    try:
        _pool.ask(call, min(parts - 1, _MOST_HELPERS))
        call.work()
    finally:
        # What interrupts the wait is raised after it. Interrupts come when a function is entered or left, and when a
        # loop goes round: so all calls are in the inner "try", and the inner loop goes round inside of the outer one.
        while True:
            try:
                while True:
                    try:
                        call.parts.clear()
                        for lock in call.helpers:
                            with lock:
                                pass
                        break
                    except BaseException as error:  # noqa: BLE001
                        interrupt = error
                break
            except BaseException as error:  # noqa: BLE001
                interrupt = error
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # it holds this frame
    if call.error is not None:
        failure, call.error = call.error, None
        try:
            raise failure
        finally:
            del failure
