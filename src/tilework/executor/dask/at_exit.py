"""Executors that nobody closed are closed when the interpreter exits.

That is done while threads still work, which is not so any more when atexit handlers run: closing a cluster needs its
event loop, and Dask would complain of what it finds.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING

from tilework.executor.at_exit import before_threads_are_joined

if TYPE_CHECKING:
    from tilework.executor.dask.executor import DaskJobExecutor

__all__ = ["lasting_executors", "open_executors"]

log = logging.getLogger(__name__)

open_executors: weakref.WeakSet[DaskJobExecutor] = weakref.WeakSet()

lasting_executors: set[DaskJobExecutor] = set()
"""Those of them whose client or cluster is their own: nobody else would end it."""


def _close_all() -> None:
    for executor in list(open_executors):
        try:
            executor.close()
        except Exception as error:  # noqa: BLE001  (the interpreter is about to end; the processes end with it)
            log.debug("could not close %r: %r", executor, error)


# The hook for that moment is not public. Without it, Dask's own handlers end the processes, with some noise.
before_threads_are_joined(_close_all)
