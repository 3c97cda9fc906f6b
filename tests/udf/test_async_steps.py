"""The end of a run that is driven from asyncio: what waits for it can be cancelled, and hears what went wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.exceptions import UDFException
from tilework.udf.async_steps import AsyncSteps


class SlowToClose:
    """A run that needs a while to end."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def __next__(self) -> Any:
        raise StopIteration

    def close(self) -> None:
        self.may_end.wait(5)

    def throw(self, exc: BaseException) -> Any:
        raise exc

    def cancel(self) -> None:
        pass

    def update_parameters_experimental(self, parameters: Any) -> None:
        pass


def test_the_wait_for_the_end_can_be_cancelled() -> None:
    """Who gives up to wait hears that it is not over."""
    run = SlowToClose()

    async def main() -> None:
        steps: AsyncSteps[Any] = AsyncSteps(lambda: run)
        await steps._call(steps._begin)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(steps.aclose(), 0.05)
        run.may_end.set()

    asyncio.run(main())


class Refuses(FrameMax):
    """Cannot finish what it began."""

    def end_run(self, is_complete: bool) -> None:
        msg = "cannot be finished"
        raise ZeroDivisionError(msg)


def test_what_goes_wrong_at_the_end_of_a_complete_run() -> None:
    """It is raised, as in blocking code, also when the run is left after the last partial result."""
    with Context.make_with("inline") as ctx:
        ds = ctx.load("memory", data=counts(), num_partitions=1)

        async def leave() -> None:
            steps = ctx.run_udf_iter(dataset=ds, udf=Refuses(), sync=False)
            await anext(steps)
            await steps.aclose()

        with pytest.raises(ZeroDivisionError, match="cannot be finished"):
            asyncio.run(leave())


def test_a_change_of_parameters_after_the_end_leaves_no_thread() -> None:
    with Context.make_with("inline") as ctx:

        async def main() -> Any:
            steps = ctx.run_udf_iter(dataset=ctx.load("memory", data=counts()), udf=FrameMax(), sync=False)
            async for _ in steps:
                pass
            with pytest.raises(UDFException, match="while the run goes on"):
                await steps.update_parameters_experimental([{}])
            return steps

        steps = asyncio.run(main())
        until = time.monotonic() + 5
        while any(t.name.startswith("tilework-run") for t in threading.enumerate()) and time.monotonic() < until:
            time.sleep(0.01)
        assert not any(t.name.startswith("tilework-run") for t in threading.enumerate())
        assert steps.run.done()
