"""Executors that were written for LiberTEM's interface: their ``run_tasks`` takes no options."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.common.executor import Environment, NoopCommHandler, RunOptions
from tilework.common.scheduler import Worker, WorkerSet
from tilework.common.without_options import options_of, run_tasks_with
from tilework.exceptions import DeadlineExceededError, UDFRunCancelled
from tilework.executor.base import BaseJobExecutor
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.delayed import DelayedJobExecutor
from tilework.executor.inline import InlineJobExecutor
from tilework.testing.faults import CallTask, SleepTask
from tilework.udf import SumUDF

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tilework.common.executor import JobExecutor

DATA = np.arange(4 * 4 * 8 * 8, dtype=np.float32).reshape(4, 4, 8, 8)


class Counting:
    """Counts results, as a generator."""

    n = 0

    def run_tasks(self, tasks: Any, params_handle: Any, cancel_id: Any, task_comm_handler: Any) -> Generator[Any]:
        for each in super().run_tasks(tasks, params_handle, cancel_id, task_comm_handler):  # type: ignore[misc]
            self.n += 1
            yield each


class Passing:
    """Calls that of its base, and returns what it returned."""

    n = 1

    def run_tasks(self, *args: Any) -> Any:
        return super().run_tasks(*args)  # type: ignore[misc]


class Alone(BaseJobExecutor):
    """Does everything by itself, the last task first."""

    def __init__(self) -> None:
        super().__init__()
        self.scattered: dict[str, Any] = {}

    @contextmanager
    def scatter(self, obj: Any) -> Iterator[str]:
        self.scattered["it"] = obj
        yield "it"

    def scatter_update(self, handle: str, obj: Any) -> None:
        self.scattered[handle] = obj

    def scatter_update_patch(self, handle: str, patch: Any) -> None:
        self.scattered[handle].patch(patch)

    def run_tasks(self, tasks: Any, params_handle: Any, cancel_id: Any, task_comm_handler: Any) -> Any:  # type: ignore[override]
        env = Environment(threads_per_worker=1, threaded_executor=False)
        return ((task(env=env, params=self.scattered[params_handle]), task) for task in reversed(list(tasks)))

    def run_function(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def run_each_partition(self, partitions: Any, fn: Any, all_nodes: bool = False) -> Any:
        return (fn(each) for each in partitions)

    def map(self, fn: Any, iterable: Any) -> Any:
        return [fn(each) for each in iterable]

    def run_each_host(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return {"localhost": fn(*args, **kwargs)}

    def run_each_worker(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return {"alone": fn(*args, **kwargs)}

    def get_available_workers(self) -> WorkerSet:
        return WorkerSet([Worker("alone", "localhost", {"CPU": 1, "compute": 1, "ndarray": 1}, 1)])


def threads(cls: type) -> ConcurrentJobExecutor:
    """Make an executor of threads of a class that derives from another one, too."""
    kind = type("Threads", (cls, ConcurrentJobExecutor), {})
    executor = kind.make_local(4)  # type: ignore[attr-defined]
    assert isinstance(executor, ConcurrentJobExecutor)
    return executor


@pytest.fixture(params=["counting", "passing", "alone"])
def executor(request: pytest.FixtureRequest) -> Iterator[JobExecutor]:
    """One that results of tasks reach in another order than that of the tasks."""
    kinds = {"counting": lambda: threads(Counting), "passing": lambda: threads(Passing), "alone": Alone}
    with kinds[request.param]() as made:
        yield made


def run(executor: JobExecutor, tasks: list[SleepTask], options: RunOptions) -> list[Any]:
    """Return results as they come."""
    with executor.scatter(None) as handle:
        return [result for result, _ in run_tasks_with(executor, tasks, handle, "x", NoopCommHandler(), options)]


def test_functions_run(executor: JobExecutor) -> None:
    """In runs, step by step, and for asyncio."""
    ctx = Context(executor=executor)
    ds = ctx.load("memory", data=DATA, num_partitions=4)
    udf = SumUDF()
    whole = ctx.run_udf(dataset=ds, udf=udf)["intensity"].data
    assert np.array_equal(whole, DATA.sum(axis=(0, 1)))
    assert len(list(ctx.run_udf_iter(dataset=ds, udf=udf))) == 4

    async def later() -> Any:
        return await ctx.run_udf(dataset=ds, udf=udf, sync=False)

    assert np.array_equal(asyncio.run(later())["intensity"].data, whole)
    assert getattr(executor, "n", 1) > 0


def test_order(executor: JobExecutor) -> None:
    """Results come in the order of the tasks where that is wanted."""
    tasks = [SleepTask(i, seconds=0.02 * (4 - i)) for i in range(4)]
    assert run(executor, tasks, RunOptions(ordered=True)) == [0, 1, 2, 3]
    assert run(executor, tasks, RunOptions()) == [3, 2, 1, 0]


def test_time_limit(executor: JobExecutor) -> None:
    """It is kept, at the latest with the next result."""
    with pytest.raises(DeadlineExceededError):
        run(executor, [SleepTask(i, seconds=0.06) for i in range(9)], RunOptions(timeout=0.05))


def test_time_limit_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of few digits is added to a time that has more, on a machine that has run for a day."""
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 86400)
    timeout: Any = np.float16(0.05)
    with Alone() as executor, pytest.raises(DeadlineExceededError):
        run(executor, [SleepTask(i, seconds=0.06) for i in range(3)], RunOptions(timeout=timeout))


def test_options_are_those_of_one_run() -> None:
    """A run that a task of its first step begins has none of them."""

    class Inline(Passing, InlineJobExecutor):  # type: ignore[misc]
        pass

    def begin(params: Any, env: Environment) -> RunOptions:
        return options_of("another", RunOptions())

    with Inline() as executor, executor.scatter(None) as handle:
        options = RunOptions(ordered=True, timeout=60)
        parts = run_tasks_with(executor, [CallTask(fn=begin)], handle, "x", NoopCommHandler(), options)
        assert [each for each, _ in parts] == [RunOptions()]


def test_cancelled(executor: JobExecutor) -> None:
    """Also where the executor does not know how: with the next result."""
    ctx = Context(executor=executor)
    parts = ctx.run_udf_iter(dataset=ctx.load("memory", data=DATA, num_partitions=4), udf=SumUDF())
    next(parts)
    parts.run.cancel()
    with pytest.raises(UDFRunCancelled):
        next(parts)


def test_graphs() -> None:
    """Tasks that become parts of a Dask graph."""

    class Delayed(Counting, DelayedJobExecutor):  # type: ignore[misc]
        pass

    with Delayed() as executor:
        ctx = Context(executor=executor)
        result: Any = ctx.run_udf(dataset=ctx.load("memory", data=DATA, num_partitions=2), udf=SumUDF())
        assert np.array_equal(result["intensity"].data, DATA.sum(axis=(0, 1)))
        assert executor.n == 2
        with pytest.raises(ValueError, match="time limit"):
            run(executor, [SleepTask()], RunOptions(timeout=1))
