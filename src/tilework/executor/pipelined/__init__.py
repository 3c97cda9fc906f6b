"""The pipelined executor: pinned worker processes, shared memory, and data that is streamed to tasks as it arrives.

::

    executor      PipelinedExecutor: the interface
      backend     one run's way to the workers            stream     data on its way to the tasks of a run
      hub         the thread between runs and workers     exchange   what becomes of tickets, answers, lost workers
      dispatch    which ticket to which worker, no I/O    roster     which workers there should be
      pool        the processes: started, ended           spec       which workers there are
                                                          selection  a worker for a task, for users of a pool
        process, zygote    how processes come to be       wire       a line between two processes
      scattered   objects that all workers have           messages   what is said over it
      parcel, arena, memory, control                      memory that processes share
      worker, worker_queues                               what runs in a worker
"""

from __future__ import annotations

from tilework.exceptions import PoolStateError
from tilework.executor.pipelined.executor import PipelinedExecutor
from tilework.executor.pipelined.pool import PoolWorkerInfo, WorkerPool
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
