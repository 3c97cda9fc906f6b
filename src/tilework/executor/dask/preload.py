"""Loaded by each worker that was made for tilework, before its first task."""

from __future__ import annotations

import faulthandler
import logging
import signal
import threading
from typing import Any

import dask

from tilework.common.backend import set_file_limit
from tilework.common.tracing import maybe_setup_tracing
from tilework.executor.dask.extra import LOG_LEVEL

if threading.current_thread() is threading.main_thread():
    # Ctrl-C in a terminal reaches all processes. It cancels the run, by way of the main process, and not the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

if not faulthandler.is_enabled():
    # A crash in compiled code says where it was, without the threads of Dask, which have nothing to do with it.
    faulthandler.enable(file=2, all_threads=False)

set_file_limit()


def _set_log_level() -> None:
    """Log from the level on that Dask is configured for; a fork has what held where Dask was imported."""
    level = str(dask.config.get(LOG_LEVEL, "")).upper()
    number = int(level) if level.isdecimal() else logging.getLevelName(level)
    if isinstance(number, int):
        logging.getLogger("distributed").setLevel(number)


_set_log_level()

# What every run needs, so that its first task does not wait for it.
import tilework.executor.dask.seat  # noqa: E402, F401


def dask_setup(worker: Any) -> None:
    """Called by Dask when the worker is there."""
    from distributed.core import Status

    maybe_setup_tracing("tilework_worker", str(worker.name))

    def is_of_interest(record: logging.LogRecord) -> bool:
        """Return whether it is not about what was under way when the worker was closed: a heartbeat, or a task."""
        return record.funcName not in {"heartbeat", "_finish_async_instruction"} or worker.status is Status.running

    for name in ("distributed.worker", "distributed.worker.state_machine"):
        logging.getLogger(name).addFilter(is_of_interest)
