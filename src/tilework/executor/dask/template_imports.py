"""What the template of worker processes loads first; imported there, and nowhere else."""

from __future__ import annotations

import gc
import signal

# Ctrl-C in a terminal reaches all processes, and this one must be there to start workers again.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# It learns by SIGCHLD that a worker has ended, for which others wait; whoever started it may have blocked that.
signal.pthread_sigmask(signal.SIG_SETMASK, ())
gc.disable()  # there is no garbage in what is imported

import distributed.nanny  # noqa: E402, F401

import tilework.executor.dask.seat  # noqa: E402
import tilework.executor.dask.spawning  # noqa: E402, F401
