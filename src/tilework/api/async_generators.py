"""Asynchronous iterators over the partial results of a run; apart, because asyncio is dear to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.api.generators import ResultGenerator
from tilework.udf.async_steps import AsyncSteps

if TYPE_CHECKING:
    from tilework.api.runs import UDFRun

__all__ = ["ResultAsyncGenerator"]


class ResultAsyncGenerator(AsyncSteps[ResultGenerator]):
    """Partial results of a run that goes on in the background; items are copies and do not change.

    Cancelling the asyncio task that waits for the next item cancels the run.
    """

    @property
    def run(self) -> UDFRun[Any]:
        """The run as others see it, see `ResultGenerator`; RuntimeError before it is prepared."""
        return self._prepared().run

    async def finish(self) -> Any:
        """Go on to the end, and return what `Context.run_udf` returns."""
        try:
            return await self._call(lambda: self._begin().finish())
        finally:
            await self.aclose()
