"""Runs of executors that know of no options: ``run_tasks`` of LiberTEM's interface has four parameters.

Such an executor mostly derives from one of ours, counts or changes something, and calls ``run_tasks`` of its base:
there the options are taken up again. One that does everything by itself is not told of them. What it leaves open of
order and time limit is seen to here, with the results that it yields; it has no priorities.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from tilework.common.environment import StopFlag, deadline_after
from tilework.common.run_options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from tilework.common.comm_handler import TaskCommHandler
    from tilework.common.executor import JobExecutor
    from tilework.common.tasks import TaskProtocol

__all__ = ["options_of", "run_tasks_with"]

_NOTHING: Final = object()


@dataclass(eq=False, slots=True)
class _Held:
    """The options of a run that begins."""

    params_handle: Any
    options: RunOptions
    is_taken: bool = False


_held: ContextVar[_Held | None] = ContextVar("_held", default=None)


def options_of(params_handle: Any, options: RunOptions) -> RunOptions:
    """Return the options of a run: those given, or those of the run with this handle that somebody left out.

    Parameters
    ----------
    params_handle
        The parameters of the run, by which it is known: each has its own.
    options
        What `run_tasks` was given.
    """
    held = _held.get()
    if held is None or held.params_handle is not params_handle or options != RunOptions():
        return options
    held.is_taken = True
    return held.options


def run_tasks_with(
    executor: JobExecutor,
    tasks: Iterable[TaskProtocol],
    params_handle: Any,
    cancel_id: Any,
    task_comm_handler: TaskCommHandler,
    options: RunOptions,
) -> Generator[tuple[Any, TaskProtocol], None, None]:
    """Run tasks on any executor, see `JobExecutor.run_tasks`: also on one that takes no options."""
    method = executor.run_tasks
    if _takes_options(getattr(method, "__func__", method)):
        return executor.run_tasks(tasks, params_handle, cancel_id, task_comm_handler, options=options)
    return _run_without(executor, list(tasks), params_handle, cancel_id, task_comm_handler, options)


@functools.lru_cache(maxsize=64)
def _takes_options(run_tasks: Callable[..., Any]) -> bool:
    parameters = inspect.signature(run_tasks).parameters.values()
    return any(each.name == "options" or each.kind is each.VAR_KEYWORD for each in parameters)


def _run_without(
    executor: JobExecutor,
    tasks: list[TaskProtocol],
    params_handle: Any,
    cancel_id: Any,
    task_comm_handler: TaskCommHandler,
    options: RunOptions,
) -> Generator[tuple[Any, TaskProtocol], None, None]:
    flag = StopFlag(deadline_after(options.timeout))
    held = _Held(params_handle, options)
    parts = _while_held(held, lambda: executor.run_tasks(tasks, params_handle, cancel_id, task_comm_handler))
    try:
        steps = iter(parts)
        # a generator calls that of its base with its first step
        first = _while_held(held, lambda: next(steps, _NOTHING))
        if first is _NOTHING:
            return
        results: Iterator[Any] = chain((first,), steps)
        if not held.is_taken:
            results = _in_time(results, flag)
            if options.ordered:
                results = _in_order(results, tasks)
        yield from results
    finally:
        if hasattr(parts, "close"):  # it need not be a generator
            parts.close()


def _while_held(held: _Held, call: Callable[[], Any]) -> Any:
    token = _held.set(held)
    try:
        return call()
    finally:
        _held.reset(token)


def _in_time(results: Iterator[Any], flag: StopFlag) -> Generator[Any, None, None]:
    for result in results:
        flag.raise_if_set()
        yield result


def _in_order(results: Iterator[Any], tasks: list[TaskProtocol]) -> Generator[Any, None, None]:
    waiting: dict[int, Any] = {}
    upcoming = iter(tasks)
    awaited = next(upcoming, None)
    for result in results:
        waiting[id(result[1])] = result
        while awaited is not None and id(awaited) in waiting:
            yield waiting.pop(id(awaited))
            awaited = next(upcoming, None)
    yield from waiting.values()
