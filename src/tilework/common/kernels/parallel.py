"""Threads inside a kernel: one call is cut into parts of frames or of pixels, which never share a result.

So the bits do not depend on the number of threads. The parts run on a small pool that all kernels of the process
share; the calling thread computes one part itself, and parts never wait for each other, so kernels that run in many
tasks at a time cannot block one another.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PART_BYTES", "run_parts"]

# Below this a part costs more to hand over than to compute.
PART_BYTES = 2**21


class _Pool:
    """The pool, started by the first call that asks for threads; a forked child starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def get(self) -> ThreadPoolExecutor:
        """Return the pool."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="tilework-kernel")
            return self._pool

    def forget(self) -> None:
        """Start over, in a forked child, which has none of its parent's threads."""
        self.__init__()  # type: ignore[misc]


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def run_parts(function: Callable[[int, int], None], size: int, threads: int, grain: int = 1) -> None:
    """Call ``function(start, stop)`` for parts that cover ``range(size)``, in up to `threads` threads.

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
    """
    blocks = -(-size // grain)
    parts = min(threads, blocks)
    if parts <= 1:
        function(0, size)
        return
    bounds = [min(size, grain * (blocks * i // parts)) for i in range(parts + 1)]
    pool = _pool.get()
    others = [pool.submit(function, bounds[i], bounds[i + 1]) for i in range(1, parts)]
    try:
        function(bounds[0], bounds[1])
    finally:
        wait(others)
    for future in others:
        future.result()
