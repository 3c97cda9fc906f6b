"""Whether processes of `multiprocessing` can be started here: each needs semaphores, which are small files."""

from __future__ import annotations

import multiprocessing
import sys

from tilework.exceptions import ExecutorError

__all__ = ["check_semaphores"]


def check_semaphores() -> None:
    """Raise ExecutorError, with what to do, when no semaphore can be made; done before processes are started."""
    if sys.platform != "linux":
        return
    try:
        multiprocessing.get_context("fork").Lock()  # its file is removed at once
    except OSError as error:
        msg = (
            f"worker processes cannot be started, as no semaphore can be made: {error}. multiprocessing needs a few "
            "KiB in /dev/shm for each process: make room there, give a container more (docker --shm-size=64m), or use "
            "the executor 'threads', 'pipelined' or 'dask', which need none"
        )
        raise ExecutorError(msg) from error
