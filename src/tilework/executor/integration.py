"""An executor that works where Dask works at the moment."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from tilework.common.callers import outside_level
from tilework.executor.dask.extra import require_dask

if TYPE_CHECKING:
    from tilework.common.executor import GPUSpec, JobExecutor

__all__ = ["get_dask_integration_executor"]


def get_dask_integration_executor(main_process_gpu: GPUSpec = None) -> JobExecutor:
    """Return an executor that is compatible with the current scheduler of Dask.

    Work of Dask and of tilework then share workers, and nobody starts a second set of them.

    Parameters
    ----------
    main_process_gpu
        GPU for what runs outside of tasks: the number of a CUDA device, True for the first one, False for none; None
        for the first one if CuPy can use it.

    Returns
    -------
    JobExecutor
        A `DaskJobExecutor` for the client, if a ``distributed.Client`` is the scheduler; it is not closed with the
        executor. A `ConcurrentJobExecutor` on the threads of Dask, if the scheduler is ``"threads"``, the default; on
        as many threads of its own in a thread for which Dask would start new ones. An `InlineJobExecutor` if it is
        ``"synchronous"``. Threads of its own otherwise.

    Raises
    ------
    ExecutorSpecException
        When Dask is not installed, or the GPU is not there.

    Warns
    -----
    RuntimeWarning
        When the scheduler is of a kind that tilework cannot use.
    """
    require_dask()
    import dask.config
    import dask.local
    import dask.threaded
    from dask.base import get_scheduler
    from dask.delayed import Delayed

    get: Any = get_scheduler(cls=Delayed)
    client = _client_of(get)
    if client is not None:
        from tilework.executor.dask import DaskJobExecutor

        return DaskJobExecutor(client, main_process_gpu=main_process_gpu)
    if get is dask.local.get_sync:
        from tilework.executor.inline import InlineJobExecutor

        return InlineJobExecutor(main_process_gpu=main_process_gpu)
    from tilework.executor.concurrent import ConcurrentJobExecutor

    if get is dask.threaded.get:
        pool = _pool_of_dask()
        if isinstance(pool, ThreadPoolExecutor):
            return ConcurrentJobExecutor(pool, main_process_gpu=main_process_gpu)
        if pool is None:
            n_threads = dask.config.get("num_workers", None)
            return ConcurrentJobExecutor.make_local(n_threads, main_process_gpu=main_process_gpu)
    msg = f"tilework cannot use the workers of the Dask scheduler {get!r}, and starts threads of its own"
    warnings.warn(msg, RuntimeWarning, stacklevel=outside_level())
    return ConcurrentJobExecutor.make_local(main_process_gpu=main_process_gpu)


def _client_of(get: Any) -> Any:
    """Return the client whose method this is; None when it is something else."""
    owner = getattr(get, "__self__", None)
    return owner if type(owner).__module__.startswith("distributed.") else None


def _pool_of_dask() -> Any:
    """Return the threads that Dask uses, made by Dask if it has not used any so far, or what is set in their place.

    None in a thread other than the main one, unless there are some for all: those that Dask would start end with it.
    """
    import dask.threaded

    pool = dask.config.get("pool", None)
    n_threads = dask.config.get("num_workers", None)
    if pool is not None:
        return pool
    if n_threads is None and dask.threaded.default_pool is not None:
        return dask.threaded.default_pool
    if current_thread() is not main_thread():
        return None
    dask.threaded.get({"tilework": (abs, 0)}, "tilework")
    return dask.threaded.default_pool if n_threads is None else dask.threaded.pools[main_thread()][n_threads]
