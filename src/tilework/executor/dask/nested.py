"""Runs that are started inside a Dask task, and wait for others: what they do with the thread of that task."""

from __future__ import annotations

__all__ = ["lend_thread"]


def lend_thread() -> None:
    """Leave the thread of a Dask task, if this is one, to another one while this task goes on.

    The tasks that it waits for may need it, as when it is the only one, or all others wait as well. Dask's own
    ``compute`` does the same. It is not asked for again: that would wait for whatever runs there meanwhile.
    """
    from distributed import secede
    from distributed.worker import thread_state

    if getattr(thread_state, "key", None) is None:
        return
    try:
        secede()
    except (AttributeError, KeyError, ValueError):  # it has done so before; or it is not a worker's any more
        return
