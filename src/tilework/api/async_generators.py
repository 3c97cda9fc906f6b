"""Asynchronous iterators over the partial results of a run; apart, because asyncio is dear to import."""

from __future__ import annotations

from tilework.udf.async_steps import AsyncSteps

__all__ = ["ResultAsyncGenerator"]


class ResultAsyncGenerator(AsyncSteps):
    """Partial results of a run that goes on in the background; items are copies and do not change.

    Cancelling the asyncio task that waits for the next item cancels the run.
    """
