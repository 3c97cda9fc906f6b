"""What workers a Dask cluster for tilework has: names, resources, and what each does before its first task."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tilework.common.callers import outside_level
from tilework.common.interrupts import interrupts_later
from tilework.exceptions import ExecutorSpecException
from tilework.executor.dask.extra import LOG_LEVEL_VARIABLE, configuration_read_in_c, require_dask
from tilework.utils.device_ids import check_number, device_ids
from tilework.utils.devices import detect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["cluster_spec", "set_worker_log_level", "worker_setup"]


def cluster_spec(
    cpus: int | Iterable[int],
    cudas: int | Iterable[int],
    has_cupy: bool,
    name: str = "default",
    num_service: int = 1,
    options: dict[str, Any] | None = None,
    preload: tuple[str, ...] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return a specification of workers, for `DaskJobExecutor.make_local` or ``distributed.SpecCluster``.

    The arguments `cpus`, `cudas` and `has_cupy` are the keys of what `tilework.utils.devices.detect` returns.

    Parameters
    ----------
    cpus
        Numbers of the CPU workers, or how many there are. They name the workers; no worker is pinned to a CPU.
    cudas
        CUDA devices, one worker for each, and several for one that is named several times; or how many workers to
        spread over the devices that are there.
    has_cupy
        Whether the GPU workers can use CuPy.
    name
        What the names of the workers begin with.
    num_service
        How many workers there are that are reserved for functions. No task of a run is done by them.
    options
        Options of ``distributed.Nanny`` for every worker; they replace ours.
    preload
        Modules, files or statements that each worker loads first, for example plugins of HDF5.

    Returns
    -------
    dict
        By name, ``cls`` (``distributed.Nanny``) and ``options``. ``{name}-cpu-{id}`` offers ``CPU``, ``compute`` and
        ``ndarray``; ``{name}-service-{k}`` nothing; ``{name}-cuda-{id}`` offers ``CUDA``, ``compute`` and with CuPy
        ``ndarray``, and is named ``{name}-cuda-{id}-{n}`` where several share a device.

    Raises
    ------
    ExecutorSpecException
        When a number is negative or far too large, or Dask is not installed.

    Warns
    -----
    RuntimeWarning
        When `cudas` is a number, and there is no CUDA device.

    Notes
    -----
    Dask's memory limits are off: Dask counts the pages of mapped files, which are the system's to take back, as
    memory of the worker, and would pause or kill it in the middle of a large file. ``options={"memory_limit": ...}``
    turns them on.
    """
    require_dask()
    # This is where a program imports Dask that has not done so; half of it would be there for ever.
    with configuration_read_in_c(), interrupts_later():
        from distributed import Nanny

    cpu_ids, cuda_ids = _cpu_ids(cpus), _cuda_ids(cudas)
    if num_service < 0:
        msg = f"num_service must not be negative: {num_service}"
        raise ExecutorSpecException(msg)
    check_number("num_service", num_service)
    base = {"nthreads": 1, "silence_logs": logging.WARNING, "memory_limit": 0, **(options or {})}
    before = (*(preload or ()),)

    def worker(resources: dict[str, int], setup: str | None) -> dict[str, Any]:
        steps = (*before, *([setup] if setup else ()), "tilework.executor.dask.preload")
        return {"cls": Nanny, "options": {**base, "resources": resources, "preload": steps}}

    cpu_resources = {"CPU": 1, "compute": 1, "ndarray": 1}
    cuda_resources = {"CUDA": 1, "compute": 1, **({"ndarray": 1} if has_cupy else {})}
    spec = {f"{name}-cpu-{n}": worker(cpu_resources, _setup("CPU", n)) for n in cpu_ids}
    spec |= {f"{name}-service-{k}": worker({}, None) for k in range(num_service)}
    times, seen = Counter(cuda_ids), Counter[int]()
    for n in cuda_ids:
        suffix = f"-{seen[n]}" if times[n] > 1 else ""
        seen[n] += 1
        spec[f"{name}-cuda-{n}{suffix}"] = worker(cuda_resources, _setup("CUDA", n))
    return spec


def _cpu_ids(cpus: int | Iterable[int]) -> list[int]:
    ids = device_ids("cpus", cpus)
    if isinstance(ids, int):
        return list(range(ids))
    if len(set(ids)) != len(ids):
        msg = f"each CPU worker needs a number of its own, got cpus={ids}"
        raise ExecutorSpecException(msg)
    return ids


def _cuda_ids(cudas: int | Iterable[int]) -> list[int]:
    wanted = device_ids("cudas", cudas)
    if not isinstance(wanted, int):
        return wanted
    if wanted == 0:
        return []
    devices = detect()["cudas"]
    if not devices:
        msg = "Specifying CUDA workers on system with no visible CUDA devices"
        warnings.warn(msg, RuntimeWarning, stacklevel=outside_level())
        return list(range(wanted))
    return [devices[i % len(devices)] for i in range(wanted)]


def _setup(resource: str, device: int) -> str:
    return f"from tilework.executor.dask.spec import worker_setup; worker_setup(resource={resource!r}, device={device})"


def worker_setup(resource: str, device: int) -> None:
    """Prepare this process to be a worker: which device it computes on, and that Ctrl-C is not for it.

    Parameters
    ----------
    resource
        ``"CPU"`` or ``"CUDA"``.
    device
        Number of the device.

    Raises
    ------
    ValueError
        When `resource` is something else.
    """
    from tilework.common.backend import set_use_cpu, set_use_cuda

    if resource == "CUDA":
        set_use_cuda(device)
    elif resource == "CPU":
        set_use_cpu(device)
    else:
        msg = f"resource must be 'CPU' or 'CUDA', not {resource!r}"
        raise ValueError(msg)


@contextmanager
def set_worker_log_level(level: str | int, force: bool = False) -> Iterator[None]:
    """Let worker processes that are started inside the block log at this level and above.

    What is below the level ``silence_logs`` in the options of a worker, `logging.WARNING` unless `cluster_spec` was
    given another, is not written in any case.

    Parameters
    ----------
    level
        Name or number of a level of `logging`.
    force
        Whether to replace what the environment already says (``DASK_DISTRIBUTED__LOGGING__DISTRIBUTED``).
    """
    before = os.environ.get(LOG_LEVEL_VARIABLE)
    if before is not None and not force:
        yield
        return
    os.environ[LOG_LEVEL_VARIABLE] = str(level)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(LOG_LEVEL_VARIABLE, None)
        else:
            os.environ[LOG_LEVEL_VARIABLE] = before
