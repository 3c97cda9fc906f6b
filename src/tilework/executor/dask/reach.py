"""Which workers can be reached from here without the scheduler in between. Belongs to the client's event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilework.executor.dask.dispatch import Station

__all__ = ["Reach"]


class Reach:
    """What is known of each host; found out once, by whoever asks first.

    Parameters
    ----------
    client
        The Dask client.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._attempts: dict[str, asyncio.Task[bool]] = {}  # by host

    async def is_direct(self, station: Station) -> bool:
        """Return whether results can come straight from a worker, which is twice as fast as through the scheduler."""
        host = station.worker.host
        if host not in self._attempts:
            self._attempts[host] = asyncio.ensure_future(self._try(station.address))
        return await asyncio.shield(self._attempts[host])

    async def _try(self, address: str) -> bool:
        from distributed.comm import connect

        try:
            comm = await connect(address, timeout=1.0, **self._client.connection_args)
            await comm.close()
        except OSError:
            return False
        return True

    def forget(self, host: str) -> None:
        """Find out again: something has changed there."""
        self._attempts.pop(host, None)

    def close(self) -> None:
        """Break off what is being found out."""
        for attempt in self._attempts.values():
            attempt.cancel()
