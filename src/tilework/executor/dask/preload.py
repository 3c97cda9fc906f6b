"""Loaded by each worker that was made for tilework, before its first task."""

from __future__ import annotations

import faulthandler
import signal
import threading

from tilework.common.backend import set_file_limit

if threading.current_thread() is threading.main_thread():
    # Ctrl-C in a terminal reaches all processes. It cancels the run, by way of the main process, and not the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

if not faulthandler.is_enabled():
    # A crash in compiled code says where it was, without the threads of Dask, which have nothing to do with it.
    faulthandler.enable(file=2, all_threads=False)

set_file_limit()

# What every run needs, so that its first task does not wait for it.
import tilework.executor.dask.seat  # noqa: E402, F401
