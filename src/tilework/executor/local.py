"""Executors whose workers see the memory of the main side: nothing is copied, what is scattered is looked up.

Who owns what: the store of scattered objects belongs to the executor; a `scatter` block adds to it and takes away,
tasks look their parameters up when they start. A run's `Work` belongs to its generator, and is called by the workers;
the queue of a streamed task is filled by the consumer's thread and emptied by the task.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from tilework.common.backend import get_use_cuda
from tilework.common.executor import SimpleWorkerQueue, WorkerContext, WorkerQueueEmpty
from tilework.common.scheduler import Worker, WorkerSet
from tilework.exceptions import JobCancelledError
from tilework.executor.calling import call_task, no_more_data, too_late
from tilework.executor.driven import is_streamed
from tilework.executor.storing import KeepingStore, StoringJobExecutor, patched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tilework.common.executor import (
        Environment,
        GPUSpec,
        Priority,
        RunOptions,
        StopFlag,
        TaskCommHandler,
        TaskProtocol,
    )
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.run import Ticket

__all__ = ["FunctionWork", "LocalJobExecutor", "LocalStore", "Work", "make_task_work", "workers_here"]

T = TypeVar("T")
V = TypeVar("V")
T_contra = TypeVar("T_contra", contravariant=True)

_INTERRUPT: Final = object()
_END: Final = object()


class Work(Protocol[T_contra]):
    """What is to be done for the tickets of a run."""

    is_streamed: bool
    """Whether `prepare`, `feed` and `end` do anything."""

    def prepare(self, ticket: Ticket[T_contra]) -> None:
        """Called on the main side, before a worker gets the ticket."""
        ...

    def feed(self, ticket: Ticket[T_contra]) -> None:
        """Called on the main side, when a worker has got the ticket; may block until all its data was pushed."""
        ...

    def __call__(self, ticket: Ticket[T_contra]) -> Any:
        """Called on the worker: do it."""
        ...

    def end(self) -> None:
        """Called on the main side: nobody will be fed any more."""
        ...


class _Unstreamed(Generic[T]):
    is_streamed = False

    def prepare(self, ticket: Ticket[T]) -> None:
        """Nothing."""

    def feed(self, ticket: Ticket[T]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class FunctionWork(_Unstreamed[V]):
    """Calls a function of one argument."""

    def __init__(self, fn: Callable[[V], Any], transfer: Callable[[Any], Any]) -> None:
        self._fn = transfer(fn)
        self._transfer = transfer

    def __call__(self, ticket: Ticket[V]) -> Any:
        """Call it with the ticket's item."""
        return self._transfer(self._fn(self._transfer(ticket.task)))


class TaskWork(_Unstreamed["TaskProtocol"]):
    """Calls tasks with the parameters as they are then, in one environment for all."""

    def __init__(self, params: Callable[[], Any], env: Environment, transfer: Callable[[Any], Any]) -> None:
        self._params = params
        self._env = env
        self._transfer = transfer

    def __call__(self, ticket: Ticket[TaskProtocol]) -> Any:
        """Call the ticket's task."""
        return self._transfer(call_task(self._transfer(ticket.task), self._params(), self._env))


class StreamedTaskWork:
    """Calls tasks, each with a queue of its own that a handler on the main side fills."""

    is_streamed = True

    def __init__(
        self,
        params: Callable[[], Any],
        make_env: Callable[[WorkerContext], Environment],
        transfer: Callable[[Any], Any],
        handler: TaskCommHandler,
        messages: SimpleWorkerQueue,
        stop: StopFlag,
    ) -> None:
        self._stop = stop
        self._params = params
        self._make_env = make_env
        self._transfer = transfer
        self._handler = handler
        self._messages = messages
        self._queues: dict[int, _StreamQueue] = {}  # of the tickets that are under way

    def prepare(self, ticket: Ticket[TaskProtocol]) -> None:
        """Make the ticket's queue."""
        self._queues[ticket.number] = _StreamQueue(self._stop)

    def feed(self, ticket: Ticket[TaskProtocol]) -> None:
        """Let the handler push the data of the ticket's task."""
        # The task may have failed before it was fed. Its data is taken from the source all the same, else the handler
        # would lose count of what belongs to which task.
        queue = self._queues.get(ticket.number) or _StreamQueue(self._stop)
        try:
            self._handler.handle_task(ticket.task, queue)
        except JobCancelledError:
            if not self._stop.is_set():
                raise
            return  # it is told with what it puts; the run itself knows why it ends
        queue.finish()

    def __call__(self, ticket: Ticket[TaskProtocol]) -> Any:
        """Call the ticket's task, and discard what it left in its queue."""
        queue = self._queues[ticket.number]
        try:
            env = self._make_env(WorkerContext(queue, self._messages))
            return self._transfer(call_task(self._transfer(ticket.task), self._params(), env))
        finally:
            self._queues.pop(ticket.number, None)

    def end(self) -> None:
        """Wake up the tasks that wait for data."""
        for queue in list(self._queues.values()):
            queue.interrupt()


class _StreamQueue(SimpleWorkerQueue):
    """A queue whose reader can be told that nothing more will come.

    Parameters
    ----------
    stop
        The run's flag: once it is set, nothing can be put any more.
    """

    def __init__(self, stop: StopFlag) -> None:
        super().__init__()
        self._stop = stop
        self._n_taken = 0
        self._has_end = False

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Append an item; JobCancelledError when the run has ended, ExecutorError when `handle_task` has returned."""
        self._check_open()
        super().put(header, payload)

    @contextmanager
    def put_nocopy(self, header: Any, size: int) -> Iterator[memoryview]:
        """Give out a buffer to be filled, and append it; raises as `put`."""
        self._check_open()
        with super().put_nocopy(header, size) as payload:
            yield payload
            self._check_open()

    def _check_open(self) -> None:
        self._stop.raise_if_set()
        if self._has_end:
            raise too_late()

    def finish(self) -> None:
        """Let a reader that waits for more than there is get an ExecutorError."""
        self._has_end = True
        super().put(_END)

    def size(self) -> int:
        """Return how many items there are."""
        return max(0, super().size() - self._has_end)

    def interrupt(self) -> None:
        """Let the reader, and whoever reads later, get a JobCancelledError once it has read everything else."""
        super().put(_INTERRUPT)

    @contextmanager
    def get(self, block: bool = True, timeout: float | None = None) -> Iterator[tuple[Any, bytes | memoryview | None]]:
        """Take the next item; JobCancelledError when the run has ended, ExecutorError when all was taken."""
        with super().get(block, timeout) as (header, payload):
            if header is _END:
                self.finish()
                if not block:
                    msg = "the queue is empty"
                    raise WorkerQueueEmpty(msg)
                raise no_more_data(self._n_taken)
            if header is _INTERRUPT:
                self.interrupt()
                msg = "the run has ended: no more data will come for this task"
                raise JobCancelledError(msg)
            self._n_taken += 1
            yield header, payload


class LocalStore(KeepingStore[Any]):
    """What is scattered: looked up by its handle, by whoever needs it.

    Parameters
    ----------
    transfer
        Returns what the other side gets when an object is sent there.
    """

    def __init__(self, transfer: Callable[[Any], Any]) -> None:
        super().__init__()
        self._transfer = transfer

    def _share(self, handle: str, obj: Any) -> Any:  # noqa: ARG002
        return self._transfer(obj)

    def update(self, handle: Any, obj: Any) -> None:
        """Let the handle stand for another object."""
        self.look_up(handle)
        self._shared[handle] = self._transfer(obj)

    def patch(self, handle: Any, patch: Any) -> None:
        """Call ``obj.patch(patch)``; TypeError when there is no such method."""
        patched(self.look_up(handle), self._transfer(patch))


def make_task_work(
    asked: TaskRun,
    params: Callable[[], Any],
    make_env: Callable[[WorkerContext], Environment],
    transfer: Callable[[Any], Any],
) -> Work[TaskProtocol]:
    """Return what is to be done for the tickets of a run of tasks.

    Parameters
    ----------
    asked
        The run.
    params
        Returns the parameters of the tasks as they are now.
    make_env
        Makes an environment around a task's line to the main side.
    transfer
        Returns what the other side gets when an object is sent there.
    """
    if is_streamed(asked.handler):
        return StreamedTaskWork(params, make_env, transfer, asked.handler, asked.messages, asked.control.flag)
    return TaskWork(params, make_env(WorkerContext(None, asked.messages)), transfer)


def workers_here(names: Iterable[str], threads: int) -> WorkerSet:
    """Return workers of this host, which have its CUDA device as well where this process uses one.

    Parameters
    ----------
    names
        Of the workers.
    threads
        How many tasks each can run at the same time.
    """
    resources: dict[Any, int] = {"CPU": 1, "compute": 1, "ndarray": 1}
    if get_use_cuda() is not None:
        resources["CUDA"] = 1
    return WorkerSet([Worker(name, "localhost", resources, threads) for name in names])


class LocalJobExecutor(StoringJobExecutor):
    """Everything but the threads. A subclass says how many there are, and opens the way to them.

    Parameters
    ----------
    main_process_gpu
        GPU for what runs in the main process; see `make_canonical`.
    """

    def __init__(self, main_process_gpu: GPUSpec = None) -> None:
        super().__init__(main_process_gpu)
        self._store = LocalStore(self._transfer)

    # ---- for subclasses ----

    @abstractmethod
    def _open_backend(self, work: Work[V], control: RunControl, priority: Priority) -> Backend[V]:
        """Return a new run's way to the workers."""

    @abstractmethod
    def _task_environment(self, stop: StopFlag, context: WorkerContext) -> Environment:
        """Return the environment for tasks of a run."""

    def _transfer(self, obj: Any) -> Any:
        """Return what the other side gets when `obj` is sent there: the same object."""
        return obj

    # ---- tasks and functions ----

    def _open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        work = make_task_work(
            asked,
            lambda: self._store.look_up(asked.params_handle),
            lambda context: self._task_environment(asked.control.flag, context),
            self._transfer,
        )
        return self._open_backend(work, asked.control, asked.options.priority)

    def _open_calls(self, fn: Callable[[V], Any], control: RunControl, options: RunOptions) -> Backend[V]:
        return self._open_backend(FunctionWork(fn, self._transfer), control, options.priority)

    def run_each_worker(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once for each process: on one of its threads, which share everything."""
        return {name: self.run_function(fn, *args, **kwargs) for name in self.get_available_workers().names()}
