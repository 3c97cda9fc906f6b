"""The interface of executors: complete, abstract, and with defaults that do no harm."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from tilework import exceptions
from tilework.common import executor as interface
from tilework.common.executor import AsyncJobExecutor, JobExecutor, Priority, RunOptions

METHODS = {
    "cancel",
    "close",
    "ensure_async",
    "ensure_sync",
    "get_available_workers",
    "get_resource_details",
    "map",
    "report",
    "run_each_host",
    "run_each_partition",
    "run_each_worker",
    "run_function",
    "run_process_local",
    "run_tasks",
    "scatter",
    "scatter_update",
    "scatter_update_patch",
    "snooze_manager",
    "subscribe",
    "unsubscribe",
}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_methods() -> None:
    """Both interfaces have every documented method, described, and nothing else."""
    assert public(JobExecutor) == METHODS | {"modify_buffer_type"}
    assert public(AsyncJobExecutor) == METHODS
    for cls in (JobExecutor, AsyncJobExecutor):
        assert all(inspect.getdoc(getattr(cls, name)) for name in public(cls))


def test_same_arguments() -> None:
    """The asynchronous methods take what the blocking ones take."""
    for name in METHODS - {"snooze_manager"}:
        blocking, awaited = (inspect.signature(getattr(cls, name)) for cls in (JobExecutor, AsyncJobExecutor))
        assert list(blocking.parameters.items()) == list(awaited.parameters.items()), name


def test_abstract() -> None:
    """An executor must have all that has no harmless default."""
    classes: list[type] = [JobExecutor, AsyncJobExecutor]
    for cls in classes:
        with pytest.raises(TypeError, match="abstract"):
            cls()
    assert public(JobExecutor) - JobExecutor.__abstractmethods__ == {
        "close",
        "ensure_sync",
        "modify_buffer_type",
        "snooze_manager",
    }


def complete(cls: type) -> Any:
    """Return an instance of a subclass in which every abstract method is there."""
    names = cls.__abstractmethods__  # type: ignore[attr-defined]
    return type("Complete", (cls,), dict.fromkeys(names, lambda *_: None))()


def test_defaults() -> None:
    """An executor that overrides nothing else is a context manager, its own blocking form, and changes no buffers."""
    buffer = object()
    with complete(JobExecutor) as executor:
        assert executor.ensure_sync() is executor
        assert executor.modify_buffer_type(buffer) is buffer
        assert executor.snooze_manager is None

    async def main() -> None:
        async with complete(AsyncJobExecutor) as executor:
            assert executor.ensure_async() is executor
            assert executor.snooze_manager is None
            assert await executor.cancel("x") is False

    asyncio.run(main())


def test_closed_at_the_end_of_the_block() -> None:
    """Leaving the block closes, also with an error."""
    closed = []

    class Closing(JobExecutor):
        def close(self) -> None:
            closed.append(1)

    with pytest.raises(LookupError), complete(Closing):
        raise LookupError
    assert closed == [1]


def test_names() -> None:
    """Everything that users import from here is here; errors are those of the one tree."""
    for name in interface.__all__:
        assert hasattr(interface, name)
    assert interface.ExecutorError is exceptions.ExecutorError
    assert interface.JobCancelledError is exceptions.JobCancelledError
    assert interface.WorkerQueueEmpty is exceptions.WorkerQueueEmpty


def test_priorities() -> None:
    """Live before interactive before batch."""
    assert sorted(Priority) == [Priority.LIVE, Priority.INTERACTIVE, Priority.BATCH]
    assert [int(priority) for priority in sorted(Priority)] == [0, 1, 2]


def test_run_options() -> None:
    """Options have defaults, cannot be changed, and refuse what makes no sense."""
    options = RunOptions()
    assert (options.ordered, options.priority, options.timeout) == (False, Priority.INTERACTIVE, None)
    with pytest.raises(AttributeError):
        options.ordered = True  # type: ignore[misc]
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            RunOptions(timeout=timeout)
    with pytest.raises(ValueError, match="priority"):
        RunOptions(priority=7)  # type: ignore[arg-type]
