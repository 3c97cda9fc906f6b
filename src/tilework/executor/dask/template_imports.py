"""What the template of worker processes loads first; imported there, and nowhere else."""

from __future__ import annotations

import gc
import signal
from contextlib import suppress
from importlib import import_module

from tilework.executor.dask.extra import configuration_read_in_c

# Ctrl-C in a terminal reaches all processes, and this one must be there to start workers again.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# It learns by SIGCHLD that a worker has ended, for which others wait; whoever started it may have blocked that.
signal.pthread_sigmask(signal.SIG_SETMASK, ())
gc.disable()  # there is no garbage in what is imported

with configuration_read_in_c():
    import distributed.nanny  # noqa: F401
    from distributed.versions import get_versions

import tilework.executor.dask.seat  # noqa: E402
import tilework.executor.dask.spawning  # noqa: E402, F401

for name in (
    "distributed.http.health",
    "distributed.http.prometheus",
    "distributed.http.statics",
    "distributed.http.worker.prometheus",
    "gilknocker",
    "multiprocessing.popen_forkserver",
    "numpy.random",
    "prometheus_client",
    "threadpoolctl",
    "tilework.executor.dask.spec",
    "tornado.platform.asyncio",
):
    # Each worker would load these by itself, at the same time as the others. Dask needs some only where they are there.
    with suppress(ImportError):
        import_module(name)

# Each worker tells the scheduler which versions of what it has. Dask remembers what it has found out once, slowly.
with suppress(Exception):
    get_versions()
