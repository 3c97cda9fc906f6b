"""Executors whose runs are carried out by `drive`: what the interface asks for, in terms of a way to the workers.

::

    run_tasks, run_function, map, …          checked here, when they are called
      Run + drive                            one for each call, in the thread of the consumer
        backend = _open_tasks / _open_calls  a subclass: how a ticket gets to a worker, and its result back

Who owns what: a run's control, its backend and its queue of messages belong to its generator. A subclass owns the
workers and what is scattered to them.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tilework.common.executor import (
    ChoosyExecutor,
    RunOptions,
    SimpleWorkerQueue,
    TaskCommHandler,
)
from tilework.common.without_options import options_of
from tilework.exceptions import ExecutorError, ResourceError
from tilework.executor.base import BaseJobExecutor
from tilework.executor.calling import Call, function_name, item_name, partition_name
from tilework.executor.driver import RunControl, drive
from tilework.executor.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from tilework.common.executor import PartitionLike, TaskProtocol
    from tilework.common.scheduler import Worker
    from tilework.executor.driver import Backend
    from tilework.executor.run import Bounds, Ticket

__all__ = ["DrivenJobExecutor", "TaskRun", "is_streamed", "no_such_handle", "results_of"]

T = TypeVar("T")
V = TypeVar("V")

_FUNCTION_GRACE_SECONDS: Final = 1.0
"""Functions have no flag to look at, and so waiting for them is only worth while when they are short."""


class _OfFunction:
    """Names a run that nobody else can cancel."""

    def __repr__(self) -> str:
        return "of a function"


class _Discarded(SimpleWorkerQueue):
    """Messages that nobody is subscribed to, of which a long run may have many."""

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class TaskRun:
    """What a run of tasks was asked for with, but for the tasks themselves, which come one by one."""

    params_handle: Any
    """Stands for the parameters of the tasks."""
    control: RunControl
    """The run, as others see it."""
    options: RunOptions
    handler: TaskCommHandler
    """Says what begins and ends with the run, and may stream data to the tasks; see `is_streamed`."""
    messages: SimpleWorkerQueue = field(default_factory=SimpleWorkerQueue)
    """Where the tasks' messages go."""


class DrivenJobExecutor(BaseJobExecutor):
    """Everything but the workers. A subclass says how many there are, and opens the way to them.

    Parameters
    ----------
    main_process_gpu
        GPU for what runs in the main process; see `make_canonical`.
    """

    # ---- for subclasses ----

    @abstractmethod
    def _open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        """Return a new run's way to the workers, where each ticket's task is called.

        Of the options, only the priority is its business.
        """

    @abstractmethod
    def _open_calls(self, fn: Callable[[V], Any], control: RunControl, options: RunOptions) -> Backend[V]:
        """Return a new run's way to the workers, where `fn` is called with each ticket's item."""

    @abstractmethod
    def _bounds(self, *, is_streamed: bool) -> Bounds:
        """Return how much of a run may be under way."""

    def _limits(self) -> dict[str, Any]:
        bounds = self._bounds(is_streamed=False)
        return {
            "workers": bounds.workers,
            "threads_per_worker": 1,
            "tasks_under_way": bounds.workers * bounds.prefetch,
            "short_tasks_under_way": bounds.workers * bounds.prefetch_short,
        }

    @abstractmethod
    def _check_handle(self, handle: Any) -> None:
        """Raise ExecutorError when nothing is scattered under this handle; see `no_such_handle`."""

    # ---- tasks ----

    def run_tasks(
        self,
        tasks: Iterable[TaskProtocol],
        params_handle: Any,
        cancel_id: Any,
        task_comm_handler: TaskCommHandler,
        *,
        options: RunOptions = RunOptions(),
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        """Run tasks, and yield what each returned; see `JobExecutor.run_tasks`."""
        options = options_of(params_handle, options)
        handler: object = task_comm_handler
        if not isinstance(handler, TaskCommHandler):
            msg = f"task_comm_handler must be a TaskCommHandler, such as NoopCommHandler(), not {task_comm_handler!r}"
            raise TypeError(msg)
        self._check_open()
        if isinstance(self, ChoosyExecutor):
            self.check_handler(task_comm_handler)
        self._check_handle(params_handle)
        asked = TaskRun(params_handle, RunControl(cancel_id, options.timeout), options, task_comm_handler)
        self._begin(asked.control)
        return self._run_tasks(self._fitting(iter(tasks)), asked)

    def _run_tasks(
        self, tasks: Iterator[TaskProtocol], asked: TaskRun
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        try:
            self._check_process()
            asked.handler.start()
            try:
                if not asked.handler.subscriptions:
                    asked = replace(asked, messages=_Discarded())
                with asked.handler.monitor(asked.messages):
                    yield from self._drive(tasks, asked)
            finally:
                asked.handler.done()
        finally:
            self._end(asked.control)

    def _drive(self, tasks: Iterator[TaskProtocol], asked: TaskRun) -> Generator[tuple[Any, TaskProtocol], None, None]:
        control, options = asked.control, asked.options
        run = Run(
            tasks,
            self._bounds(is_streamed=is_streamed(asked.handler)),
            ordered=options.ordered,
            deadline=control.deadline,
            name=lambda ticket: f"the task of partition {partition_name(ticket.task)}",
        )
        self._note_start(control)
        try:
            backend = self._open_tasks(asked)
            yield from drive(run, backend, control, options.meanwhile, self._check_process)
        finally:
            run.close()  # there may have been no way to the workers
            self._note_end(control, run)

    def _workers_to_fit(self) -> list[Worker]:
        """Return the workers of which one must be able to run each task."""
        return list(self.get_available_workers())

    def _fitting(self, tasks: Iterator[TaskProtocol]) -> Generator[TaskProtocol, None, None]:
        """Pass the tasks on that one of the workers can run; ResourceError for the first that none can."""
        workers = self._workers_to_fit()
        fitting: set[frozenset[tuple[str, int]]] = set()
        before: object = object()  # equal to no request
        for task in tasks:
            request = task.get_resources()
            if request != before:  # mostly all tasks of a run ask for the same
                before = dict(request)
                key = frozenset(request.items())
                if key not in fitting:
                    if not any(worker.can_run(request) for worker in workers):
                        offers = "; ".join(f"{worker.name} offers {worker.resources}" for worker in workers)
                        msg = f"no worker can run the task of {partition_name(task)}: it needs {request}, {offers}"
                        raise ResourceError(msg)
                    fitting.add(key)
            yield task

    # ---- functions ----

    def _call_each(
        self,
        fn: Callable[[V], T],
        items: Iterable[V],
        options: RunOptions,
        name_item: Callable[[Ticket[Any]], str] = item_name,
    ) -> Generator[tuple[T, V], None, None]:
        """Call a function with each item; in messages, the call is called by the function and `name_item`."""
        control = RunControl(_OfFunction(), grace=_FUNCTION_GRACE_SECONDS)
        self._begin(control)
        self._count("functions")
        return self._drive_calls(iter(items), fn, control, options, name_item)

    def _drive_calls(
        self,
        items: Iterator[V],
        fn: Callable[[V], T],
        control: RunControl,
        options: RunOptions,
        name_item: Callable[[Ticket[Any]], str],
    ) -> Generator[tuple[T, V], None, None]:
        def name(ticket: Ticket[V]) -> str:
            return f"the function {function_name(fn)}{name_item(ticket)}"

        try:
            self._check_process()
            run = Run(items, self._bounds(is_streamed=False), ordered=options.ordered, name=name)
            yield from drive(run, self._open_calls(fn, control, options), control, check_process=self._check_process)
        finally:
            self._end(control)

    def run_function(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``fn(*args, **kwargs)`` on some worker; see `JobExecutor.run_function`."""
        call: Callable[[Any], T] = Call(fn, args, kwargs)
        ((result, _),) = list(self._call_each(call, (None,), RunOptions(), lambda _: ""))
        return result

    def map(self, fn: Callable[[V], T], iterable: Iterable[V]) -> list[T]:
        """Run ``fn(item)`` for each item, and return the results in the order of the items."""
        return [result for result, _ in self._call_each(fn, iterable, RunOptions(ordered=True))]

    def run_each_host(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on this host: it is the only one."""
        return {host: self.run_function(fn, *args, **kwargs) for host in self.get_available_workers().hosts()}

    def run_each_partition(
        self, partitions: Iterable[PartitionLike], fn: Callable[[Any], T], all_nodes: bool = False
    ) -> Generator[T, None, None]:
        """Run ``fn(partition)`` for each partition; see `JobExecutor.run_each_partition`. This host is all nodes."""
        chosen = (p for p in partitions if not all_nodes or p.get_locations())
        return results_of(
            self._call_each(fn, chosen, RunOptions(), lambda ticket: f" for partition {ticket.task.get_ident()}")
        )


def results_of(calls: Generator[tuple[T, V], None, None]) -> Generator[T, None, None]:
    """Yield the results of calls without their items; closing it ends the calls."""
    with closing(calls):
        for result, _ in calls:
            yield result


def no_such_handle(handle: object) -> ExecutorError:
    """Return the error for a handle that nothing is scattered under."""
    msg = f"no object is scattered as {handle!r}: handles are made by scatter(), and end with its block"
    return ExecutorError(msg)


def is_streamed(handler: TaskCommHandler) -> bool:
    """Return whether a handler pushes data to tasks."""
    return getattr(handler.handle_task, "__func__", None) is not TaskCommHandler.handle_task
