"""From the name of an executor, and what it should use, to the executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from tilework.api.devices import choose_devices
from tilework.api.preload import OF_TASKS, load_what_runs_need
from tilework.common.interrupts import interrupts_later
from tilework.exceptions import ExecutorSpecException

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.common.executor import GPUSpec, JobExecutor

__all__ = ["ExecutorSpecType", "make_executor"]

ExecutorSpecType = Literal[
    "synchronous", "inline", "threads", "dask", "dask-make-default", "dask-integration", "delayed", "pipelined"
]
DASK = ("dask", "dask-make-default", "dask-integration")


def make_executor(
    spec: str,
    *,
    cpus: int | Iterable[int] | None = None,
    gpus: int | Iterable[int] | None = None,
    snooze_timeout: float | None = None,
    main_process_gpu: GPUSpec = None,
) -> JobExecutor:
    """Make an executor; see `Context.make_with`. Only for ``"dask"`` does `snooze_timeout` mean anything.

    Raises
    ------
    ExecutorSpecException
        When the arguments do not fit the executor, or the machine.
    """
    known = get_args(ExecutorSpecType)
    if spec not in known:
        msg = f"unknown executor {spec!r}: choose one of {', '.join(known)}"
        raise ExecutorSpecException(msg)
    if spec in DASK:
        from tilework.api.dask_executors import make_dask_executor

        return make_dask_executor(spec, cpus, gpus, snooze_timeout, main_process_gpu)
    if spec == "pipelined":
        return _make_pipelined(cpus, gpus, main_process_gpu)
    if gpus is not None:
        msg = f"the executor {spec!r} runs on CPUs only: leave out gpus"
        raise ExecutorSpecException(msg)
    from tilework.executor.base import make_canonical

    gpu = make_canonical(main_process_gpu)
    if spec == "threads":
        from tilework.executor.concurrent import ConcurrentJobExecutor

        return ConcurrentJobExecutor.make_local(n_threads=_count(cpus), main_process_gpu=gpu)
    if cpus is not None:
        where = "on the workers of Dask's scheduler" if spec == "delayed" else "in the calling thread"
        msg = f"the executor {spec!r} runs {where}: leave out cpus, or choose 'threads'"
        raise ExecutorSpecException(msg)
    if spec == "delayed":
        from tilework.executor.delayed import DelayedJobExecutor

        return DelayedJobExecutor(main_process_gpu=gpu)
    from tilework.executor.inline import InlineJobExecutor

    return InlineJobExecutor(main_process_gpu=gpu)


def _make_pipelined(
    cpus: int | Iterable[int] | None, gpus: int | Iterable[int] | None, main_process_gpu: GPUSpec
) -> JobExecutor:
    from tilework.executor.pipelined.process import Zygote

    with Zygote.ahead(OF_TASKS):  # what is imported here takes as long as what it imports
        with interrupts_later():  # for this imports NumPy, which cannot be begun anew
            from tilework.executor.base import make_canonical
            from tilework.executor.pipelined.executor import PipelinedExecutor

            load_what_runs_need()
        gpu = make_canonical(main_process_gpu)
        return PipelinedExecutor(PipelinedExecutor.make_spec(*choose_devices(cpus, gpus)), main_process_gpu=gpu)


def _count(cpus: int | Iterable[int] | None) -> int | None:
    """Return the number of workers that `cpus` stands for; None: not stated.

    Raises
    ------
    ExecutorSpecException
        When that is not at least one, or something else is given than numbers, from 0 on.
    """
    if cpus is None:
        return None
    from tilework.utils.device_ids import device_ids

    chosen = device_ids("cpus", cpus)
    n = chosen if isinstance(chosen, int) else len(chosen)
    if n < 1:
        msg = f"an executor needs at least one CPU, got cpus={cpus!r}"
        raise ExecutorSpecException(msg)
    return n
