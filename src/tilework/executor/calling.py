"""Calling a task or a function, wherever that is: what workers of every kind need of the executors, and no more."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tilework.common.tracing import add_partition_to_span, attach_to_parent, errors_recorded, get_tracer, is_tracing
from tilework.exceptions import ExecutorError, MyStopIteration, ended_iteration

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.executor import Environment, TaskProtocol
    from tilework.executor.run import Ticket

__all__ = [
    "Call",
    "OnWorker",
    "call_task",
    "function_name",
    "item_name",
    "no_more_data",
    "note_unpicklable",
    "note_unpicklable_result",
    "note_unusable",
    "partition_name",
    "stopped_iteration",
    "task_is_over",
    "too_late",
]

_tracer = get_tracer(__name__)


def call_task(task: TaskProtocol, params: Any, env: Environment) -> Any:
    """Call a task, in a span of its own when spans are recorded."""
    if not is_tracing():
        return task(params=params, env=env)
    parent = attach_to_parent(task.get_tracing_span_context())
    new_span = partial(_tracer.start_as_current_span, record_exception=False, set_status_on_exception=False)
    with parent, new_span("task") as span, errors_recorded(span):
        add_partition_to_span(task.get_partition())
        return task(params=params, env=env)


def partition_name(task: TaskProtocol) -> str:
    """Return the name that stands in messages about this task."""
    return task.get_partition().get_ident()


def function_name(fn: Any) -> str:
    """Return the name of a function in messages, without its module; what has none is called by what it wraps."""
    while not hasattr(fn, "__qualname__"):
        wrapped = getattr(fn, "fn", None) or getattr(fn, "func", None)  # ours, and functools.partial
        if wrapped is None:
            return type(fn).__qualname__
        fn = wrapped
    return str(fn.__qualname__)


def item_name(ticket: Ticket[Any]) -> str:
    """Return what follows the name of a function in messages: the worker that it was for, or the item's position.

    Never the item itself, which may be a large array.
    """
    item: object = ticket.task
    return f" on worker {item.worker}" if isinstance(item, OnWorker) else f" for item {ticket.index}"


def stopped_iteration(name: str, error: StopIteration) -> MyStopIteration:
    """Return what is raised for a StopIteration."""
    stopped = MyStopIteration(ended_iteration(name, error))
    stopped.__cause__ = error
    return stopped


def too_late() -> ExecutorError:
    """Return the error for data that is put for a task when its `handle_task` has returned."""
    return ExecutorError("handle_task has returned for this task, which gets no more data: wait for whoever still puts")


def no_more_data(n: int) -> ExecutorError:
    """Return the error for a task that waits for data when its handler has given everything, which were `n` items."""
    return ExecutorError(
        f"this task waits for more data than was streamed to it: TaskCommHandler.handle_task returned after {n} items. "
        "It must put all that the task reads, also what tells the task that nothing follows"
    )


def task_is_over() -> ExecutorError:
    """Return the error for who reads the queue of a task that has ended."""
    return ExecutorError(
        "this queue belongs to a task that is over, and no more data comes: each task has a queue of its own, from "
        "env.worker_context, and threads that read for it must end with it"
    )


def note_unpicklable(error: Exception, obj: Any) -> None:
    """Add to an error of pickling what was scattered that it was that, and what to do."""
    error.add_note(
        f"the parameters of the run, a {type(obj).__name__}, cannot be sent to the workers: something in them is not "
        "picklable. Give a UDF plain values and arrays, and let get_task_data() make locks, open files and the like on "
        "the worker; or use the executor 'threads', which sends nothing"
    )


def note_unusable(error: BaseException, what: str = "be unpickled") -> None:
    """Add to an error of a worker, which cannot have what was scattered, that it was that."""
    error.add_note(
        f"the parameters of the run arrived at a worker, but cannot {what} there: everything in them must be "
        "picklable, and what its pickle refers to must be there on the worker"
    )


def note_unpicklable_result(error: BaseException, result: Any) -> None:
    """Add to an error of pickling what a task or a function returned that it was that."""
    error.add_note(f"the result, a {type(result).__name__}, cannot be sent to the main process: it is not picklable")


class OnWorker(NamedTuple):
    """The item of a call that one worker alone must do."""

    worker: str


class Call:
    """A function and its arguments, as a function of one argument that does not matter."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs

    def __call__(self, _item: Any) -> Any:
        """Call it."""
        return self.fn(*self.args, **self.kwargs)
