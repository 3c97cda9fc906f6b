"""A worker for a task, for those who give tasks to a `WorkerPool` themselves.

`PipelinedExecutor` does not choose a worker beforehand: its workers take tasks when they have room (see `dispatch`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from tilework.exceptions import ResourceError
from tilework.executor.calling import partition_name
from tilework.executor.pipelined.member import PoolWorkerInfo
from tilework.executor.pipelined.pool import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.common.executor import TaskProtocol
    from tilework.common.scheduler import Scheduler, Worker
    from tilework.executor.pipelined.worker_queues import WorkerQueues

__all__ = ["WorkerSelector", "schedule_task", "select_in_turn"]

WorkerSelector: TypeAlias = Callable[[list[PoolWorkerInfo], WorkerPool, "TaskProtocol", int], PoolWorkerInfo]
"""Chooses one of the workers that can do a task: ``selector(eligible, pool, task, task_idx)``."""


def select_in_turn(eligible: list[PoolWorkerInfo], _pool: WorkerPool, _task: TaskProtocol, idx: int) -> PoolWorkerInfo:
    """Choose one worker after the other."""
    return eligible[idx % len(eligible)]


def schedule_task(
    task_idx: int,
    task: TaskProtocol,
    pool: WorkerPool,
    scheduler: Scheduler,
    pool_info_for_worker: Mapping[Worker, PoolWorkerInfo],
    selector: WorkerSelector,
) -> tuple[int, WorkerQueues]:
    """Return the worker that a task should be given to.

    Parameters
    ----------
    task_idx
        Position of the task in its run.
    task
        The task.
    pool
        The workers.
    scheduler
        Says which workers have the resources that the task needs.
    pool_info_for_worker
        The pool's workers by what the scheduler knows of them.
    selector
        Chooses one of those.

    Returns
    -------
    worker_idx, queues
        Index of the worker in its pool's spec, and its queues.

    Raises
    ------
    ResourceError
        When no worker has what the task needs.
    """
    workers = scheduler.workers_for_task(task)
    if len(workers) == 0:
        msg = f"No worker available with resources {task.get_resources()} for {partition_name(task)}"
        raise ResourceError(msg)
    chosen = selector([pool_info_for_worker[worker] for worker in workers], pool, task, task_idx)
    return chosen.spec["worker_idx"], chosen.queues
