"""Which workers can be reached from here without the scheduler in between. Belongs to the client's event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tilework.executor.dask.lanes import Station

__all__ = ["Reach"]

TRY_SECONDS: Final = 1.0
"""How long a batch waits until it is known that its worker can be reached."""

LATER_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""When no answer came in time: how long until it is tried again, and how long an answer may take then."""


class Reach:
    """What is known of each host; found out once, by whoever asks first.

    A worker that is just starting, on a machine that is busy, may answer too late, and would be taken for one that
    cannot be reached. So it is tried again later, while its batches go by way of the scheduler.

    Parameters
    ----------
    client
        The Dask client.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._known: dict[str, asyncio.Future[bool]] = {}  # by host
        self._later: dict[str, asyncio.Task[None]] = {}  # by host
        self._greetings: set[asyncio.Task[bool]] = set()

    async def is_direct(self, station: Station) -> bool:
        """Return whether results can come straight from a worker, which is twice as fast as through the scheduler."""
        host = station.worker.host
        if host not in self._known:
            self._known[host] = asyncio.ensure_future(self._try(station.address, TRY_SECONDS))
            self._later[host] = asyncio.ensure_future(self._try_later(host, station.address))
        return await asyncio.shield(self._known[host])

    async def _try_later(self, host: str, address: str) -> None:
        """Try again until it succeeds, for a while."""
        if await self._known[host]:
            return
        for seconds in LATER_SECONDS:
            await asyncio.sleep(seconds)
            attempt = asyncio.ensure_future(self._try(address, seconds))
            if await attempt:
                self._known[host] = attempt
                return

    async def _try(self, address: str, seconds: float) -> bool:
        """Return whether a worker answers in time. What takes longer goes on: broken off, it leaves its socket open.

        Dask limits how long it takes to connect, but not the handshake.
        """
        greeting = asyncio.ensure_future(self._greet(address, seconds))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)
        await asyncio.wait({greeting}, timeout=seconds)
        return greeting.done() and greeting.result()

    async def _greet(self, address: str, seconds: float) -> bool:
        from distributed.comm import connect

        try:
            comm = await connect(address, timeout=seconds, **self._client.connection_args)
            await comm.close()
        except OSError:
            return False
        return True

    def forget(self, host: str) -> None:
        """Find out again: something has changed there."""
        self._known.pop(host, None)
        later = self._later.pop(host, None)
        if later is not None:
            later.cancel()

    def close(self) -> None:
        """Break off what is being found out."""
        for attempt in self._known.values():
            attempt.cancel()
        for later in self._later.values():
            later.cancel()
