"""The contract of all but `run_tasks`: functions, scattered objects, what an executor tells of itself, asyncio."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from contextlib import aclosing
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tilework.common.executor import (
    AsyncJobExecutor,
    Environment,
    JobExecutor,
    NoopCommHandler,
    RunOptions,
    TaskProtocol,
)
from tilework.common.scheduler import Worker, WorkerSet
from tilework.exceptions import DeadlineExceededError, ExecutorError, JobCancelledError, MyStopIteration
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import (
    CallTask,
    EchoTask,
    EndlessTask,
    FakePartition,
    FakeTask,
    RaiseTask,
    StreamHandler,
    StreamTask,
    raise_here,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping

    from tilework.testing.faults import Signals

__all__ = ["AsyncContract", "Patched", "ServiceContract"]


class Patched:
    """An object that can be patched."""

    def __init__(self, value: int) -> None:
        self.value = value

    def patch(self, patch: int) -> None:
        """Add to the value."""
        if patch < 0:
            msg = f"{patch} is less than nothing"
            raise ValueError(msg)
        self.value += patch


class GenericCall:
    """A task for `run_process_local`."""

    def __call__(self, args: Iterable[Any], kwargs: Mapping[str, Any], environment: Environment) -> Any:
        """Return everything."""
        return list(args), dict(kwargs), environment, threading.get_ident()

    def get_tracing_span_context(self) -> Any:
        """Return None."""
        return None


def _fail(*_: Any) -> None:
    raise_here(lambda: ValueError("on purpose"))


def _no_more(_: Any) -> None:
    raise StopIteration("empty")


class ServiceContract(ExecutorHarness):
    """Functions, scattered objects, workers, report."""

    # ---- functions ----

    def test_run_function(self, executor: JobExecutor) -> None:
        """Arguments, result and error of a function pass unchanged; lambdas and closures may be sent."""
        offset = 5
        assert executor.run_function(lambda a, *, b: a + b + offset, 1, b=2) == 8
        assert executor.run_function(os.path.join, "a", "b") == "a" + os.sep + "b"
        with pytest.raises(ValueError, match="on purpose") as caught:
            executor.run_function(_fail)
        assert any(entry.name == raise_here.__name__ for entry in caught.traceback) or not self.shares_memory
        self.assert_usable(executor)

    def test_a_function_that_ends_iteration(self, executor: JobExecutor) -> None:
        """A StopIteration that a function raises is an error with its name; nobody takes it for an end of results."""
        with pytest.raises(MyStopIteration, match=r"^the function .*_no_more.* raised StopIteration\('empty'\)"):
            executor.run_function(_no_more, 0)
        with pytest.raises(MyStopIteration, match=r"_no_more .* raised StopIteration"):
            list(executor.map(_no_more, range(3)))
        with pytest.raises(MyStopIteration, match=r"the task of partition part-1 raised StopIteration"):
            self.run(executor, [FakeTask(0), RaiseTask(1, make_error=StopIteration)])
        self.assert_usable(executor)

    def test_items_may_be_anything(self, executor: JobExecutor) -> None:
        """Whatever attributes they have."""
        items = [SimpleNamespace(target_worker="beamline-3", worker="nobody", index=7)] * 3
        assert executor.map(vars, items) == [vars(items[0])] * 3

    def test_map(self, executor: JobExecutor) -> None:
        """Results come in the order of the items, which may be an iterator; there may be none."""
        assert list(executor.map(lambda x: x * x, (i for i in range(200)))) == [i * i for i in range(200)]
        assert list(executor.map(abs, [])) == []

    def test_map_is_parallel(self, executor: JobExecutor, signals: Signals) -> None:
        """All workers work on the items at the same time."""
        n = self.parallelism

        def meet(i: int) -> int:
            signals.add("in")
            signals.wait("in", n)
            return i

        assert list(executor.map(meet, range(n))) == list(range(n))

    def test_error_in_map(self, executor: JobExecutor) -> None:
        """The first error is raised, and an endless iterator is not pulled any further."""

        def fail_at_7(i: int) -> int:
            return 1 // (7 - i)

        with pytest.raises(ZeroDivisionError):
            list(executor.map(fail_at_7, count()))
        self.assert_usable(executor)

    def test_run_each_host_and_worker(self, executor: JobExecutor) -> None:
        """Once for each, by name."""
        assert executor.run_each_host(lambda a, b: a + b, 1, b=2) == dict.fromkeys(self.hosts, 3)
        assert executor.run_each_worker(lambda a, b: a + b, 1, b=2) == dict.fromkeys(self.worker_names, 3)
        with pytest.raises(ValueError, match="on purpose"):
            executor.run_each_host(_fail)
        with pytest.raises(ValueError, match="on purpose"):
            executor.run_each_worker(_fail)

    def test_run_each_partition(self, executor: JobExecutor) -> None:
        """Every partition once; with all_nodes only those that have a location."""
        here = WorkerSet([Worker(self.worker_names[0], self.hosts[0], {}, 1)])
        partitions = [FakePartition(f"part-{i}", here if i % 2 else None) for i in range(10)]
        got = executor.run_each_partition(partitions, FakePartition.get_ident)
        assert sorted(got) == sorted(p.ident for p in partitions)
        got = executor.run_each_partition(partitions, FakePartition.get_ident, all_nodes=True)
        assert sorted(got) == sorted(p.ident for p in partitions if p.locations)
        with pytest.raises(ValueError, match="on purpose"):
            list(executor.run_each_partition(partitions, _fail))
        one = executor.run_each_partition((FakePartition(f"part-{i}") for i in count()), FakePartition.get_ident)
        assert next(one).startswith("part-")
        one.close()
        self.assert_usable(executor)

    def test_run_process_local(self, executor: JobExecutor) -> None:
        """It runs in this thread, with an environment of the main process."""
        args, kwargs, env, thread = executor.run_process_local(GenericCall(), args=(1, 2), kwargs={"a": 3})
        assert (args, kwargs, thread) == ([1, 2], {"a": 3}, threading.get_ident())
        assert isinstance(env, Environment)
        assert env.device_class == "cpu" or env.gpu_id is not None
        assert executor.run_process_local(GenericCall())[:2] == ([], {})

    def test_calls_from_inside(self, executor: JobExecutor) -> None:
        """What a function or task asks of its own executor is done, however many do so at once."""
        self.require("shares_memory")

        def inner(i: int) -> int:
            assert sorted(self.run(executor, [FakeTask(k) for k in range(3)], cancel_id=i)) == [0, 1, 2]
            return executor.run_function(lambda: i) + sum(executor.map(lambda x: x, [0, 0]))

        try:
            assert list(executor.map(inner, range(10))) == list(range(10))
        except (TypeError, AttributeError) as error:
            if "pickle" not in str(error):
                raise
            pytest.skip("this executor pickles functions, and itself cannot be pickled")

    # ---- scattered objects ----

    def test_scatter_update(self, executor: JobExecutor) -> None:
        """Tasks that start after an update see the new object, in the same run and in the next."""
        with executor.scatter("old") as handle:
            run = executor.run_tasks((EchoTask(i) for i in count()), handle, "run", NoopCommHandler())
            assert next(run)[0][1] == "old"
            executor.scatter_update(handle, "new")
            seen = [params for (_, params), _ in (next(run) for _ in range(200 * self.parallelism))]
            run.close()
            assert set(seen) <= {"old", "new"}
            assert seen[-1] == "new"
            after = [r[1] for r, _ in executor.run_tasks([EchoTask(0)] * 5, handle, "run", NoopCommHandler())]
            assert after == ["new"] * 5

    def test_scatter_update_patch(self, executor: JobExecutor) -> None:
        """Every worker's copy is patched, each once."""

        def look(params: Any, env: Environment) -> int:
            value: int = params.value
            return value

        tasks = [CallTask(i, fn=look) for i in range(10)]
        with executor.scatter(Patched(1)) as handle:
            for total in (11, 21):
                executor.scatter_update_patch(handle, 10)
                assert {r for r, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())} == {total}
        with executor.scatter(Patched(1)) as handle:
            for i in range(300):
                executor.scatter_update_patch(handle, 1)
                if i % 50 == 0:
                    assert {r for r, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())} == {2 + i}
            assert {r for r, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())} == {301}
        with executor.scatter(7) as handle, pytest.raises(TypeError, match="patch"):
            executor.scatter_update_patch(handle, 10)

    def test_a_patch_that_fails(self, executor: JobExecutor) -> None:
        """Whoever gives it gets the error; the object is what it was, and can be patched again."""

        def look(params: Any, env: Environment) -> int:
            value: int = params.value
            return value

        with executor.scatter(Patched(1)) as handle:
            for patch, total in ((10, 11), (-1, 11), (5, 16)):
                if patch < 0:
                    with pytest.raises(ValueError, match="-1 is less than nothing"):
                        executor.scatter_update_patch(handle, patch)
                else:
                    executor.scatter_update_patch(handle, patch)
                tasks = [CallTask(i, fn=look) for i in range(4)]
                assert {r for r, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())} == {total}

    def test_scattered_objects_are_independent(self, executor: JobExecutor) -> None:
        """Several may be scattered at a time; a handle is good for its own block only."""
        with executor.scatter("a") as a, executor.scatter("b") as b:
            for handle, value in ((a, "a"), (b, "b")):
                assert [r for r, _ in executor.run_tasks([EchoTask(0)], handle, 0, NoopCommHandler())] == [(0, value)]
        for misuse in (executor.scatter_update, executor.scatter_update_patch):
            with pytest.raises(ExecutorError, match="scatter"):
                misuse(a, "c")

    def test_error_in_a_scatter_block(self, executor: JobExecutor) -> None:
        """An error leaves the block as it is."""
        with pytest.raises(LookupError, match="mine"), executor.scatter(1):
            raise LookupError("mine")
        self.assert_usable(executor)

    # ---- what an executor tells of itself ----

    def test_workers(self, executor: JobExecutor) -> None:
        """The workers are the declared ones, and each is described with its host."""
        workers = executor.get_available_workers()
        assert workers.names() == list(self.worker_names)
        assert workers.hosts() == set(self.hosts)
        assert {details["host"] for details in executor.get_resource_details()} == set(self.hosts)

    def test_report(self, executor: JobExecutor) -> None:
        """The report is plain data, and counts what happened."""
        self.run(executor, [FakeTask(i) for i in range(7)])
        with pytest.raises(ValueError, match="on purpose"):
            self.run(executor, [RaiseTask(0)])
        executor.run_function(abs, -1)
        report = executor.report()
        assert json.loads(json.dumps(report)) == report
        assert [worker["name"] for worker in report["workers"]] == list(self.worker_names)
        assert report["runs"] == {"active": 0, "finished": 1, "failed": 1}
        assert report["tasks"] == 7
        assert report["functions"] == 1
        assert [event["event"] for event in report["events"]] == ["run_start", "run_end"] * 2
        assert report["limits"]

    def test_events(self, executor: JobExecutor) -> None:
        """Subscribers hear of the beginning and end of runs, until they unsubscribe; their errors harm nobody."""
        heard: list[tuple[str, Any]] = []

        def listen(topic: str, message: dict[str, Any]) -> None:
            heard.append((topic, message["cancel_id"]))
            raise ValueError(topic)

        keys = [executor.subscribe(topic, listen) for topic in ("run_start", "run_end")]
        self.run(executor, [FakeTask(0)], cancel_id="mine")
        assert heard == [("run_start", "mine"), ("run_end", "mine")]
        assert [executor.unsubscribe(key) for key in keys] == [True, True]
        assert executor.unsubscribe(keys[0]) is False
        self.run(executor, [FakeTask(0)])
        assert len(heard) == 2

    def test_small_things(self, executor: JobExecutor) -> None:
        """Defaults of the interface that executors of this kind do not change."""
        buffer = object()
        assert executor.modify_buffer_type(buffer) is buffer
        assert executor.ensure_sync() is executor
        assert executor.snooze_manager is None


class AsyncContract(ExecutorHarness):
    """The same executor for asyncio."""

    def in_loop(self, executor: JobExecutor, steps: Any) -> Any:
        """Run ``steps(async executor)`` in an event loop, and close the executor there."""

        async def main() -> Any:
            adapter = executor.ensure_async()
            assert isinstance(adapter, AsyncJobExecutor)
            assert adapter.ensure_async() is adapter
            assert adapter.ensure_sync() is executor
            async with adapter:
                return await steps(adapter)

        coroutine: Coroutine[Any, Any, Any] = main()
        return asyncio.run(coroutine)

    async def run_async(
        self,
        adapter: AsyncJobExecutor,
        tasks: Iterable[TaskProtocol],
        params: Any = None,
        cancel_id: Any = "run",
        options: RunOptions | None = None,
    ) -> list[Any]:
        """Run tasks to the end."""
        async with adapter.scatter(params) as handle:
            results = adapter.run_tasks(tasks, handle, cancel_id, NoopCommHandler(), options=options or RunOptions())
            return [result async for result, _ in results]

    def test_async_runs(self, executor: JobExecutor) -> None:
        """Runs, several at a time, functions and scattered objects work in an event loop that is never blocked."""

        async def steps(adapter: AsyncJobExecutor) -> None:
            tasks = [EchoTask(i) for i in range(30)]
            assert await self.run_async(adapter, tasks, "p", options=RunOptions(ordered=True)) == [
                (i, "p") for i in range(30)
            ]
            runs = [self.run_async(adapter, tasks, n, cancel_id=n) for n in range(8)]
            for n, got in enumerate(await asyncio.gather(*runs)):
                assert sorted(got) == [(i, n) for i in range(30)]
            assert await adapter.run_function(divmod, 17, 5) == (3, 2)
            assert list(await adapter.map(lambda x: -x, range(5))) == [0, -1, -2, -3, -4]
            assert await adapter.run_each_host(abs, -1) == dict.fromkeys(self.hosts, 1)
            assert await adapter.run_each_worker(abs, -1) == dict.fromkeys(self.worker_names, 1)
            partitions = [FakePartition(f"part-{i}") for i in range(5)]
            got = [r async for r in adapter.run_each_partition(partitions, FakePartition.get_ident)]
            assert sorted(got) == [p.ident for p in partitions]
            assert (await adapter.run_process_local(GenericCall(), (1,)))[0] == [1]
            assert (await adapter.get_available_workers()).names() == list(self.worker_names)
            assert {details["host"] for details in await adapter.get_resource_details()} == set(self.hosts)
            assert (await adapter.report())["closed"] is False
            assert adapter.unsubscribe(adapter.subscribe("run_end", lambda *_: None))
            assert adapter.snooze_manager is None

        self.in_loop(executor, steps)
        assert executor.report()["closed"] is True

    def test_async_scatter_update(self, executor: JobExecutor) -> None:
        """Updates and patches pass through the adapter."""

        async def steps(adapter: AsyncJobExecutor) -> None:
            async with adapter.scatter(Patched(1)) as handle:
                await adapter.scatter_update(handle, Patched(5))
                await adapter.scatter_update_patch(handle, 2)
                tasks = [CallTask(0, fn=lambda params, env: params.value)]
                assert [r async for r, _ in adapter.run_tasks(tasks, handle, 0, NoopCommHandler())] == [7]

        self.in_loop(executor, steps)

    def test_async_handler(self, executor: JobExecutor) -> None:
        """The task_comm_handler is passed on."""
        self.require("streams")
        handler = StreamHandler()

        async def steps(adapter: AsyncJobExecutor) -> None:
            async with adapter.scatter(None) as handle:
                results = adapter.run_tasks([StreamTask(i) for i in range(5)], handle, 0, handler)
                assert sorted([r async for r, _ in results]) == [(i, StreamHandler.expected(i)) for i in range(5)]

        self.in_loop(executor, steps)
        assert (handler.calls[0], handler.calls[-1]) == ("start", "done")

    def test_async_errors(self, executor: JobExecutor) -> None:
        """Errors arrive with their type; the executor stays usable."""

        async def steps(adapter: AsyncJobExecutor) -> None:
            with pytest.raises(ValueError, match="on purpose"):
                await self.run_async(adapter, [FakeTask(0), RaiseTask(1)])
            with pytest.raises(ValueError, match="on purpose"):
                await adapter.run_function(_fail)
            with pytest.raises(ExecutorError, match="scatter"):
                adapter.run_tasks([FakeTask(0)], "no handle", 0, NoopCommHandler())
            assert await self.run_async(adapter, [FakeTask(3)]) == [3]

        self.in_loop(executor, steps)

    def test_async_cancel(self, executor: JobExecutor, signals: Signals) -> None:
        """cancel(), and a deadline, end a run that is awaited."""

        async def steps(adapter: AsyncJobExecutor) -> None:
            endless = (EndlessTask(i, signals=signals) for i in count())
            run = asyncio.create_task(self.run_async(adapter, endless, cancel_id="mine"))
            await asyncio.to_thread(signals.wait, "started", self.parallelism)
            assert await adapter.cancel("mine")
            with pytest.raises(JobCancelledError):
                await run
            assert not await adapter.cancel("mine")
            with pytest.raises(DeadlineExceededError):
                await self.run_async(adapter, (EndlessTask(i, signals=signals) for i in count()), options=limit)
            assert signals.count("started") == signals.count("stopped")
            assert await self.run_async(adapter, [FakeTask(3)]) == [3]

        limit = RunOptions(timeout=0.2)
        self.in_loop(executor, steps)

    def test_async_task_is_cancelled(self, executor: JobExecutor, signals: Signals) -> None:
        """Cancelling the asyncio task that consumes a run stops the run before the cancellation is through."""

        async def steps(adapter: AsyncJobExecutor) -> None:
            endless = (EndlessTask(i, signals=signals) for i in count())
            run = asyncio.create_task(self.run_async(adapter, endless, cancel_id="mine"))
            await asyncio.to_thread(signals.wait, "started", self.parallelism)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert signals.count("started") == signals.count("stopped")
            assert await self.run_async(adapter, [FakeTask(3)]) == [3]

        self.in_loop(executor, steps)

    def test_async_consumer_leaves(self, executor: JobExecutor) -> None:
        """Closing the asynchronous generator ends the run."""

        async def steps(adapter: AsyncJobExecutor) -> None:
            async with adapter.scatter(None) as handle:
                run = adapter.run_tasks((FakeTask(i) for i in count()), handle, "mine", NoopCommHandler())
                async with aclosing(run) as results:
                    async for _ in results:
                        break
            assert not await adapter.cancel("mine")
            assert await self.run_async(adapter, [FakeTask(3)]) == [3]

        self.in_loop(executor, steps)
