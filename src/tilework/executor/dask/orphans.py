"""Stops what nobody waits for any more, in a Dask worker.

A client that ends, however it ends, is missed by the scheduler as soon as its connection is. The scheduler then
releases what this client wanted, and tells the workers. Dask cannot stop a function that runs; we can, between tiles.

Who owns what: one watch for each worker, of which a process may have several, in its event loop while something is
watched. Task threads register and unregister.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["is_released", "stopped_when_released"]

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
"""How often is looked whether running tasks are still wanted."""

_lock = threading.Lock()
_watched: Final[weakref.WeakKeyDictionary[Any, dict[int, tuple[str, Callable[[], None]]]]] = weakref.WeakKeyDictionary()
"""What is watched, by worker, as long as that has a watch."""


def is_released(worker: Any, key: str) -> bool:
    """Return whether nobody wants the Dask task with this key any more, which runs at this worker."""
    task = worker.state.tasks.get(key)
    return task is None or task.state == "cancelled"


@contextmanager
def stopped_when_released(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop`, in the event loop, when nobody wants the Dask task any more that this thread is doing."""
    from distributed import get_worker

    worker = get_worker()
    entry = (worker.get_current_task(), stop)
    with _lock:
        must_begin = worker not in _watched
        watched = _watched.setdefault(worker, {})
        watched[id(entry)] = entry
    if must_begin:
        worker.loop.add_callback(_watch, worker)
    try:
        yield
    finally:
        with _lock:
            watched.pop(id(entry), None)


async def _watch(worker: Any) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        with _lock:
            watched = _watched[worker]
            entries = list(watched.items())
            if not entries:
                del _watched[worker]
                return
        for number, (key, stop) in entries:
            if is_released(worker, key):
                # So does what still works when its run has ended, which is nothing to worry about.
                log.info("nobody wants %s any more: it stops at its next tile", key)
                with _lock:
                    watched.pop(number, None)
                stop()
