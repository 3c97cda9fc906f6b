"""The executors of `Context.make_with` that need Dask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.api.devices import choose_devices
from tilework.api.preload import OF_TASKS, load_what_runs_need
from tilework.common.interrupts import interrupts_later
from tilework.common.numbers import is_real
from tilework.exceptions import ExecutorSpecException

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.common.executor import GPUSpec, JobExecutor

__all__ = ["make_dask_executor"]


def make_dask_executor(
    spec: str,
    cpus: int | Iterable[int] | None,
    gpus: int | Iterable[int] | None,
    snooze_timeout: float | None,
    main_process_gpu: GPUSpec,
) -> JobExecutor:
    """Make the executor for ``"dask"``, ``"dask-make-default"`` or ``"dask-integration"``; see `Context.make_with`.

    Raises
    ------
    ExecutorSpecException
        When the arguments do not fit the executor, or the machine, or Dask is not installed.
    """
    from tilework.executor.dask.extra import require_dask

    require_dask()
    if spec != "dask":
        snooze_timeout = None  # the workers are not, or not only, ours
    if snooze_timeout is not None and not (is_real(snooze_timeout) and snooze_timeout > 0):
        msg = f"snooze_timeout must be a positive number of minutes, not {snooze_timeout!r}"
        raise ExecutorSpecException(msg)
    if spec == "dask-integration":
        if cpus is not None or gpus is not None:
            msg = f"the executor {spec!r} uses the workers that Dask has: leave out cpus and gpus"
            raise ExecutorSpecException(msg)
        from tilework.executor.integration import get_dask_integration_executor

        return get_dask_integration_executor(main_process_gpu)
    from tilework.executor.dask.template import Template

    with Template.ahead(OF_TASKS):  # what is imported here takes as long as what it imports
        with interrupts_later():  # for this imports NumPy, which cannot be begun anew
            from tilework.executor.dask.executor import DaskJobExecutor

            load_what_runs_need()
        return DaskJobExecutor.make_local(
            spec=_workers(cpus, gpus),
            client_kwargs={"set_as_default": spec == "dask-make-default"},
            snooze_timeout=None if snooze_timeout is None else snooze_timeout * 60.0,
            main_process_gpu=main_process_gpu,
        )


def _workers(cpus: int | Iterable[int] | None, gpus: int | Iterable[int] | None) -> dict[str, Any]:
    """Return the workers: what was asked for, and what there is of what was not."""
    from tilework.executor.dask.spec import cluster_spec

    return cluster_spec(*choose_devices(cpus, gpus))
