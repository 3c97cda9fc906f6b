"""An executor that works where Dask works at the moment."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

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
        executor. A `ConcurrentJobExecutor` on the threads of Dask, if the scheduler is ``"threads"``, the default. An
        `InlineJobExecutor` if it is ``"synchronous"``. Threads of its own otherwise.

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

    pool = _pool_of_dask() if get is dask.threaded.get else None
    if pool is not None:
        return ConcurrentJobExecutor(pool, main_process_gpu=main_process_gpu)
    msg = f"tilework cannot use the workers of the Dask scheduler {get!r}, and starts threads of its own"
    warnings.warn(msg, RuntimeWarning, stacklevel=2)
    return ConcurrentJobExecutor.make_local(main_process_gpu=main_process_gpu)


def _client_of(get: Any) -> Any:
    """Return the client whose method this is; None when it is something else."""
    owner = getattr(get, "__self__", None)
    return owner if type(owner).__module__.startswith("distributed.") else None


def _pool_of_dask() -> ThreadPoolExecutor | None:
    """Return the threads that Dask uses; made by Dask, if it has not used any so far."""
    import dask.config
    import dask.threaded

    pool = dask.config.get("pool", None)
    if pool is None:
        if dask.threaded.default_pool is None:
            dask.threaded.get({"tilework": (abs, 0)}, "tilework")
        pool = dask.threaded.default_pool
    return pool if isinstance(pool, ThreadPoolExecutor) else None
