"""What the contract does not ask of AsyncAdapter: its pool, and being cancelled twice."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tilework.common.executor import NoopCommHandler
from tilework.exceptions import ExecutorError, JobCancelledError
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset import load
from tilework.testing.faults import BlockTask, CallTask, EndlessTask, Signals
from tilework.udf.runner import UDFRunner
from tilework.udf.sum import SumUDF

if TYPE_CHECKING:
    from pathlib import Path

variable = contextvars.ContextVar("variable", default="nothing")


def test_pool_of_the_caller_stays_open() -> None:
    """A pool that was given is used, and left open."""

    async def main() -> None:
        async with InlineJobExecutor().ensure_async(pool) as adapter:
            assert await adapter.run_function(abs, -1) == 1

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main())
        assert pool.submit(abs, -1).result() == 1


def test_context_variables() -> None:
    """Functions and the generators of runs see the context of whoever awaits them."""

    async def main() -> None:
        variable.set("mine")
        async with InlineJobExecutor().ensure_async() as adapter:
            assert await adapter.run_function(variable.get) == "mine"
            async with adapter.scatter(None) as handle:
                tasks = [CallTask(i, fn=lambda params, env: variable.get()) for i in range(3)]
                assert [r async for r, _ in adapter.run_tasks(tasks, handle, 0, NoopCommHandler())] == ["mine"] * 3

    asyncio.run(main())


def test_cancelled_twice(tmp_path: Path) -> None:
    """A second cancellation does not wait for a task that ignores the first; the run is over when that task is."""
    signals = Signals(str(tmp_path))

    async def consume(executor: ConcurrentJobExecutor) -> None:
        adapter = executor.ensure_async(pool)
        async with adapter.scatter(None) as handle:
            stubborn = (BlockTask(i, signals=signals, stubborn=True) for i in count())
            async for _ in adapter.run_tasks(stubborn, handle, "mine", NoopCommHandler()):
                pass

    async def main() -> None:
        with ConcurrentJobExecutor.make_local(1) as executor:
            consumer = asyncio.create_task(consume(executor))
            await asyncio.to_thread(signals.wait, "started")
            consumer.cancel()
            await asyncio.sleep(0.1)
            assert not consumer.done(), "it did not wait for the run"
            consumer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consumer
            assert signals.count("done") == 0
            signals.add("release")

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(main())


def test_closed_while_a_run_is_awaited(tmp_path: Path) -> None:
    """Closing the adapter ends the runs that occupy its pool, however many there are."""
    signals = Signals(str(tmp_path))

    async def main() -> None:
        adapter = ConcurrentJobExecutor.make_local(2).ensure_async(pool)

        async def consume() -> None:
            async with adapter.scatter(None) as handle:
                endless = (EndlessTask(i, signals=signals) for i in count())
                async for _ in adapter.run_tasks(endless, handle, "mine", NoopCommHandler()):
                    pass

        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        await asyncio.to_thread(signals.wait, "started", 2)
        await adapter.close()
        outcomes = await asyncio.gather(*consumers, return_exceptions=True)
        assert all("closed" in str(outcome) for outcome in outcomes), outcomes

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(main())


def test_closed_between_two_results() -> None:
    """The run ends, whose generator has not been told yet; what is asked for later is refused by the executor."""
    ended: list[int] = []

    class Handler(NoopCommHandler):
        def done(self) -> None:
            ended.append(1)

    async def main() -> None:
        adapter = ConcurrentJobExecutor.make_local(2).ensure_async()
        async with adapter.scatter(None) as handle:
            tasks = (CallTask(i, fn=lambda params, env: None) for i in count())
            run = adapter.run_tasks(tasks, handle, "mine", Handler())
            await anext(run)
            await adapter.close()
            with pytest.raises(JobCancelledError, match="closed"):
                async for _ in run:
                    pass
            assert ended == [1]
        with pytest.raises(ExecutorError, match="closed"):
            await adapter.run_function(abs, -1)

    asyncio.run(main())


def test_runs_take_it_in_the_place_of_an_executor() -> None:
    """A program with asyncio need not keep both."""

    async def main() -> list[np.ndarray]:
        async with InlineJobExecutor().ensure_async() as adapter:
            dataset = load("memory", executor=adapter.ensure_sync(), data=np.ones((3, 4, 5, 6)), num_partitions=3)
            parts = UDFRunner([SumUDF()]).run_for_dataset_async(dataset, adapter, "any name")
            return [part.buffers[0]["intensity"].data async for part in parts]

    sums = asyncio.run(main())
    assert [part[0, 0] for part in sums[:3]] == [4, 8, 12]
    assert sums[-1].shape == (5, 6)
