"""A run as an asynchronous iterator.

Who does what: one thread of its own drives the run (all of it: preparing, merging, closing), so the event loop never
waits; the event loop only receives copies. Cancelling the asyncio task that waits for the next result cancels the run
on the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tilework.common.async_utils import ignore_outcome, kept_awake
from tilework.udf.results import copied

if TYPE_CHECKING:
    from tilework.udf.results import UDFResults, UDFResultsLazy

__all__ = ["AsyncSteps"]

T = TypeVar("T")
StepsT = TypeVar("StepsT", bound="Steps")


class Steps(Protocol):
    """A run that is driven step by step."""

    def __next__(self) -> UDFResultsLazy:
        """Go on to the next partial result."""
        ...

    def close(self) -> None:
        """End the run."""
        ...

    def throw(self, exc: BaseException) -> Any:
        """End the run with an exception."""
        ...

    def cancel(self) -> None:
        """Cancel the run; called from another thread than the rest."""
        ...

    def update_parameters_experimental(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Change parameters."""
        ...


class AsyncSteps(AsyncIterator["UDFResults"], Generic[StepsT]):
    """Partial results of a run that is driven by a thread of its own.

    Parameters
    ----------
    start
        Prepares the run; called in that thread at the first step.
    """

    def __init__(self, start: Callable[[], StepsT]) -> None:
        self._start = start
        self._pool: ThreadPoolExecutor | None = None
        self._steps: StepsT | None = None
        self._over = False

    def __aiter__(self) -> AsyncSteps[StepsT]:
        return self

    async def __anext__(self) -> UDFResults:
        if self._over:
            raise StopAsyncIteration
        try:
            result = await self._call(self._next)
        except BaseException:
            with contextlib.suppress(Exception):  # there is an error already
                await self.aclose()
            raise
        if result is None:
            await self.aclose()
            raise StopAsyncIteration
        return result

    async def aclose(self) -> None:
        """End the run; returns when nothing of it is left.

        Raises
        ------
        Exception
            What its end raises, as of a function that could not finish what is complete.
        """
        self._over = True
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if self._steps is not None:
            self._steps.cancel()
        closing = asyncio.wrap_future(pool.submit(self._close))
        pool.shutdown(wait=False)
        closing.add_done_callback(ignore_outcome)
        await asyncio.shield(closing)

    async def athrow(self, exc: BaseException) -> None:
        """End the run with an exception, which is raised again."""
        self._over = True
        try:
            if self._steps is not None:
                await self._call(lambda: self._steps.throw(exc))  # type: ignore[union-attr]
        finally:
            with contextlib.suppress(Exception):  # there is an error already
                await self.aclose()
        raise exc

    async def update_parameters_experimental(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Change parameters while the run goes on; see `ResultsForDataSet.update_parameters_experimental`."""
        steps = self._prepared()
        try:
            await self._call(lambda: steps.update_parameters_experimental(parameters))
        finally:
            if self._over:  # the thread is one that was started for this
                await self.aclose()

    async def _call(self, fn: Callable[[], T]) -> T:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tilework-run")
        # What belongs to the caller, such as the span that it is in, is there as well.
        with kept_awake():
            return await asyncio.wrap_future(self._pool.submit(contextvars.copy_context().run, fn))

    def _prepared(self) -> StepsT:
        if self._steps is None:
            msg = "the run has not started: take a first partial result before"
            raise RuntimeError(msg)
        return self._steps

    def _begin(self) -> StepsT:
        """Prepare the run, unless that is done; in its thread."""
        if self._steps is None:
            self._steps = self._start()
            if self._over:  # since nobody could cancel it before
                self._steps.cancel()
        return self._steps

    def _next(self) -> UDFResults | None:
        try:
            results = next(self._begin())
        except StopIteration:
            return None
        return copied(results)

    def _close(self) -> None:
        if self._steps is not None:
            self._steps.close()
