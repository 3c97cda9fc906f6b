"""`DaskJobExecutor` for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from tilework.executor.async_adapter import MakingAsyncAdapter
from tilework.executor.dask.executor import DaskJobExecutor

if TYPE_CHECKING:
    from tilework.common.executor import GPUSpec

__all__ = ["AsyncDaskJobExecutor"]


class AsyncDaskJobExecutor(MakingAsyncAdapter):
    """A `DaskJobExecutor` for asyncio.

    Parameters
    ----------
    wrapped
        The executor; by default one is made of the other arguments.
    *args, **kwargs
        For `DaskJobExecutor`.
    """

    _kind = DaskJobExecutor

    @classmethod
    async def connect(
        cls, scheduler_uri: Any, *args: Any, client_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> Self:
        """Connect to a scheduler; see `DaskJobExecutor.connect`."""
        return cls(
            await asyncio.to_thread(
                DaskJobExecutor.connect, scheduler_uri, *args, client_kwargs=client_kwargs, **kwargs
            )
        )

    @classmethod
    async def make_local(
        cls,
        spec: dict[str, Any] | None = None,
        cluster_kwargs: dict[str, Any] | None = None,
        client_kwargs: dict[str, Any] | None = None,
        preload: tuple[str, ...] | None = None,
        snooze_timeout: float | None = None,
        main_process_gpu: GPUSpec = None,
    ) -> Self:
        """Start a cluster on this machine; see `DaskJobExecutor.make_local`."""
        return cls(
            await asyncio.to_thread(
                DaskJobExecutor.make_local,
                spec,
                cluster_kwargs,
                client_kwargs,
                preload,
                snooze_timeout,
                main_process_gpu,
            )
        )
