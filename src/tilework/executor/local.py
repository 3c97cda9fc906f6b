"""Executors whose workers see the memory of the main side: nothing is copied, what is scattered is looked up.

Who owns what: the dict of scattered objects belongs to the executor; a `scatter` block adds to it and takes away,
tasks look their parameters up when they start. A run's `Work` belongs to its generator, and is called by the workers;
the queue of a streamed task is filled by the consumer's thread and emptied by the task.
"""

from __future__ import annotations

import uuid
from abc import abstractmethod
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from tilework.common.executor import (
    NoopCommHandler,
    Priority,
    RunOptions,
    SimpleWorkerQueue,
    StopFlag,
    TaskCommHandler,
    WorkerContext,
)
from tilework.common.tracing import attach_to_parent, get_tracer, is_tracing
from tilework.exceptions import ExecutorError, JobCancelledError, ResourceError
from tilework.executor.base import BaseJobExecutor
from tilework.executor.driver import RunControl, drive
from tilework.executor.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from tilework.common.executor import Environment, GPUSpec, PartitionLike, TaskProtocol
    from tilework.executor.driver import Backend
    from tilework.executor.run import Bounds, Ticket

__all__ = ["LocalJobExecutor", "Work"]

T = TypeVar("T")
V = TypeVar("V")
T_contra = TypeVar("T_contra", contravariant=True)

_tracer = get_tracer(__name__)

_INTERRUPT: Final = object()

_FUNCTION_GRACE_SECONDS: Final = 1.0
"""Functions have no flag to look at, and so waiting for them is only worth while when they are short."""


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
        return self._transfer(_call_task(self._transfer(ticket.task), self._params(), self._env))


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
    ) -> None:
        self._params = params
        self._make_env = make_env
        self._transfer = transfer
        self._handler = handler
        self._messages = messages
        self._queues: dict[int, _StreamQueue] = {}  # of the tickets that are under way

    def prepare(self, ticket: Ticket[TaskProtocol]) -> None:
        """Make the ticket's queue."""
        self._queues[ticket.number] = _StreamQueue()

    def feed(self, ticket: Ticket[TaskProtocol]) -> None:
        """Let the handler push the data of the ticket's task."""
        # The task may have failed before it was fed. Its data is taken from the source all the same, else the handler
        # would lose count of what belongs to which task.
        queue = self._queues.get(ticket.number)
        self._handler.handle_task(ticket.task, SimpleWorkerQueue() if queue is None else queue)

    def __call__(self, ticket: Ticket[TaskProtocol]) -> Any:
        """Call the ticket's task, and discard what it left in its queue."""
        queue = self._queues[ticket.number]
        try:
            env = self._make_env(WorkerContext(queue, self._messages))
            return self._transfer(_call_task(self._transfer(ticket.task), self._params(), env))
        finally:
            self._queues.pop(ticket.number, None)

    def end(self) -> None:
        """Wake up the tasks that wait for data."""
        for queue in list(self._queues.values()):
            queue.interrupt()


class _StreamQueue(SimpleWorkerQueue):
    """A queue whose reader can be told that nothing more will come."""

    def interrupt(self) -> None:
        """Let the reader, and whoever reads later, get a JobCancelledError once it has read everything else."""
        super().put(_INTERRUPT)

    @contextmanager
    def get(self, block: bool = True, timeout: float | None = None) -> Iterator[tuple[Any, memoryview | None]]:
        """Take the next item; JobCancelledError when the run has ended."""
        with super().get(block, timeout) as (header, payload):
            if header is _INTERRUPT:
                self.interrupt()
                msg = "the run has ended: no more data will come for this task"
                raise JobCancelledError(msg)
            yield header, payload


class LocalJobExecutor(BaseJobExecutor):
    """Everything but the workers. A subclass says how many there are, and opens the way to them.

    Parameters
    ----------
    main_process_gpu
        GPU for what runs in the main process; see `make_canonical`.
    """

    def __init__(self, main_process_gpu: GPUSpec = None) -> None:
        super().__init__(main_process_gpu)
        self._scattered: dict[str, Any] = {}

    # ---- for subclasses ----

    @abstractmethod
    def _open_backend(self, work: Work[V], control: RunControl, priority: Priority) -> Backend[V]:
        """Return a new run's way to the workers."""

    @abstractmethod
    def _bounds(self, *, is_streamed: bool) -> Bounds:
        """Return how much of a run may be under way."""

    @abstractmethod
    def _task_environment(self, stop: StopFlag, context: WorkerContext) -> Environment:
        """Return the environment for tasks of a run."""

    def _transfer(self, obj: Any) -> Any:
        """Return what the other side gets when `obj` is sent there: the same object."""
        return obj

    # ---- tasks ----

    def run_tasks(
        self,
        tasks: Iterable[TaskProtocol],
        params_handle: Any,
        cancel_id: Any,
        task_comm_handler: TaskCommHandler,
        *,
        options: RunOptions = RunOptions(),  # noqa: B008
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        """Run tasks, and yield what each returned; see `JobExecutor.run_tasks`."""
        handler: object = task_comm_handler
        if not isinstance(handler, TaskCommHandler):
            msg = f"task_comm_handler must be a TaskCommHandler, such as NoopCommHandler(), not {task_comm_handler!r}"
            raise TypeError(msg)
        self._look_up(params_handle)
        control = RunControl(cancel_id, options.timeout)
        self._begin(control)
        return self._run_tasks(self._fitting(iter(tasks)), params_handle, control, task_comm_handler, options)

    def _run_tasks(
        self,
        tasks: Iterator[TaskProtocol],
        params_handle: str,
        control: RunControl,
        handler: TaskCommHandler,
        options: RunOptions,
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        def params() -> Any:
            return self._look_up(params_handle)

        def make_env(context: WorkerContext) -> Environment:
            return self._task_environment(control.flag, context)

        messages = SimpleWorkerQueue()
        work: Work[TaskProtocol]
        is_streamed = type(handler) is not NoopCommHandler
        if is_streamed:
            work = StreamedTaskWork(params, make_env, self._transfer, handler, messages)
        else:
            work = TaskWork(params, make_env(WorkerContext(None, messages)), self._transfer)
        try:
            handler.start()
            try:
                with handler.monitor(messages):
                    yield from self._drive(tasks, work, control, options, name=_partition_name)
            finally:
                handler.done()
        finally:
            self._end(control)

    def _drive(
        self, items: Iterable[V], work: Work[V], control: RunControl, options: RunOptions, name: Callable[[V], str]
    ) -> Generator[tuple[Any, V], None, None]:
        run = Run(
            items,
            self._bounds(is_streamed=work.is_streamed),
            ordered=options.ordered,
            deadline=control.deadline,
            name=name,
        )
        self._note_start(control)
        try:
            yield from drive(run, self._open_backend(work, control, options.priority), control)
        finally:
            self._note_end(control, run)

    def _fitting(self, tasks: Iterator[TaskProtocol]) -> Generator[TaskProtocol, None, None]:
        """Pass the tasks on that one of the workers can run; ResourceError for the first that none can."""
        workers = list(self.get_available_workers())
        fitting: set[frozenset[tuple[str, int]]] = set()
        for task in tasks:
            request = task.get_resources()
            key = frozenset(request.items())
            if key not in fitting:
                if not any(worker.can_run(request) for worker in workers):
                    offers = "; ".join(f"{worker.name} offers {worker.resources}" for worker in workers)
                    msg = f"no worker can run the task of {_partition_name(task)}: it needs {request}, {offers}"
                    raise ResourceError(msg)
                fitting.add(key)
            yield task

    # ---- functions ----

    def _call_each(
        self, fn: Callable[[V], T], items: Iterable[V], options: RunOptions
    ) -> Generator[tuple[T, V], None, None]:
        control = RunControl(object(), grace=_FUNCTION_GRACE_SECONDS)
        self._begin(control)
        self._count("functions")
        return self._drive_calls(iter(items), fn, control, options)

    def _drive_calls(
        self, items: Iterator[V], fn: Callable[[V], T], control: RunControl, options: RunOptions
    ) -> Generator[tuple[T, V], None, None]:
        try:
            run = Run(items, self._bounds(is_streamed=False), ordered=options.ordered)
            work = FunctionWork(fn, self._transfer)
            yield from drive(run, self._open_backend(work, control, options.priority), control)
        finally:
            self._end(control)

    def run_function(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``fn(*args, **kwargs)`` on some worker; see `JobExecutor.run_function`."""
        call: Callable[[None], T] = _Call(fn, args, kwargs)
        ((result, _),) = list(self._call_each(call, (None,), RunOptions()))
        return result

    def map(self, fn: Callable[[V], T], iterable: Iterable[V]) -> list[T]:
        """Run ``fn(item)`` for each item, and return the results in the order of the items."""
        return [result for result, _ in self._call_each(fn, iterable, RunOptions(ordered=True))]

    def run_each_host(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on this host."""
        return {host: self.run_function(fn, *args, **kwargs) for host in self.get_available_workers().hosts()}

    def run_each_worker(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once for each process: on one of its threads, which share everything."""
        return {name: self.run_function(fn, *args, **kwargs) for name in self.get_available_workers().names()}

    def run_each_partition(
        self, partitions: Iterable[PartitionLike], fn: Callable[[Any], T], all_nodes: bool = False
    ) -> Generator[T, None, None]:
        """Run ``fn(partition)`` for each partition; see `JobExecutor.run_each_partition`. This host is all nodes."""
        chosen = (p for p in partitions if not all_nodes or p.get_locations())
        return _results(self._call_each(fn, chosen, RunOptions()))

    # ---- scattered objects ----

    @contextmanager
    def scatter(self, obj: Any) -> Iterator[str]:
        """Give all workers an object, for the duration of the block; yields its handle."""
        self._check_open()
        handle = f"scattered-{uuid.uuid4().hex}"
        self._scattered[handle] = self._transfer(obj)
        try:
            yield handle
        finally:
            self._scattered.pop(handle, None)

    def scatter_update(self, handle: Any, obj: Any) -> None:
        """Let `handle` stand for another object; tasks that start later see it."""
        self._check_open()
        self._look_up(handle)
        self._scattered[handle] = self._transfer(obj)

    def scatter_update_patch(self, handle: Any, patch: Any) -> None:
        """Call ``obj.patch(patch)`` on the object that `handle` stands for."""
        self._check_open()
        obj = self._look_up(handle)
        if not callable(getattr(obj, "patch", None)):
            msg = f"only an object with a method patch(patch) can be patched, not a {type(obj).__name__}"
            raise TypeError(msg)
        obj.patch(self._transfer(patch))

    def _look_up(self, handle: Any) -> Any:
        try:
            return self._scattered[handle]
        except (KeyError, TypeError):
            msg = f"no object is scattered as {handle!r}: handles are made by scatter(), and end with its block"
            raise ExecutorError(msg) from None


def _results(calls: Generator[tuple[T, V], None, None]) -> Generator[T, None, None]:
    with closing(calls):
        for result, _ in calls:
            yield result


class _Call:
    """A function and its arguments, as a function of one argument that does not matter."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs

    def __call__(self, _item: None) -> Any:
        return self.fn(*self.args, **self.kwargs)


def _call_task(task: TaskProtocol, params: Any, env: Environment) -> Any:
    """Call a task, in a span of its own when spans are recorded."""
    if not is_tracing():
        return task(params=params, env=env)
    parent = attach_to_parent(task.get_tracing_span_context())
    with parent, _tracer.start_as_current_span("task", attributes={"tilework.partition.ident": _partition_name(task)}):
        return task(params=params, env=env)


def _partition_name(task: TaskProtocol) -> str:
    return task.get_partition().get_ident()
