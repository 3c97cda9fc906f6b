"""The pipelined executor: pinned worker processes, shared memory, and data that is streamed to tasks as it arrives.

::

    executor      PipelinedExecutor: the interface
      backend     one run's way to the workers            stream     data on its way to the tasks of a run
                                                          streamed a task's, as it is kept
      hub         the thread between runs and workers     exchange   what becomes of tickets, answers, lost workers
      dispatch    which ticket to which worker, no I/O    roster     which workers there should be
      pool        the processes: started, ended           spec       which workers there are
        member    one of them, as the main process has it
                                                          selection  a worker for a task, for users of a pool
        process, zygote    how processes come to be       wire       a line between two processes
                                                          stderr     what a worker writes there
      store       objects by their handles
        scattered  one that all workers have              messages   what is said over it
      parcel, arena, memory, control                      memory that processes share
        budget                                            how much of it there may be
      worker, worker_queues                               what runs in a worker
      main_queues                                         its queues, for who uses a pool without a hub
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilework.common.later import import_later
from tilework.exceptions import PoolStateError

if TYPE_CHECKING:
    from tilework.executor.pipelined.executor import PipelinedExecutor
    from tilework.executor.pipelined.member import PoolWorkerInfo
    from tilework.executor.pipelined.pool import WorkerPool
    from tilework.executor.pipelined.selection import schedule_task
    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.pipelined.worker import (
        pipelined_worker,
        set_thread_name,
        worker_loop,
        worker_run_function,
        worker_run_task,
    )
    from tilework.executor.pipelined.worker_queues import PipelinedWorkerContext, WorkerQueues

# What runs in a worker is imported there without the rest.
_PLACES = {
    "PipelinedExecutor": "executor",
    "PipelinedWorkerContext": "worker_queues",
    "PoolWorkerInfo": "member",
    "WorkerPool": "pool",
    "WorkerQueues": "worker_queues",
    "WorkerSpec": "spec",
    "pipelined_worker": "worker",
    "schedule_task": "selection",
    "set_thread_name": "worker",
    "worker_loop": "worker",
    "worker_run_function": "worker",
    "worker_run_task": "worker",
}

__all__ = [
    "PipelinedExecutor",
    "PipelinedWorkerContext",
    "PoolStateError",
    "PoolWorkerInfo",
    "WorkerPool",
    "WorkerQueues",
    "WorkerSpec",
    "pipelined_worker",
    "schedule_task",
    "set_thread_name",
    "worker_loop",
    "worker_run_function",
    "worker_run_task",
]

if not TYPE_CHECKING:  # for type checkers, only what is imported above exists
    __getattr__ = import_later(__name__, __name__, _PLACES)


def __dir__() -> list[str]:
    return sorted(__all__)
