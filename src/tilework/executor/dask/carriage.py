"""Brings one batch to its worker, and what became of it back: I/O without decisions.

There are two ways. Where the client can reach the worker, a batch is a message to a seat of its run there, and its
results are the answer (`Seating`). Else it is a Dask task, and its results come by way of the scheduler.

Belongs to the client's event loop.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tilework.common.async_utils import ignore_outcome
from tilework.common.executor import Priority
from tilework.executor.dask.extra import submit
from tilework.executor.dask.lanes import DIRECT_SECONDS
from tilework.executor.dask.reach import Reach
from tilework.executor.dask.scattered import SCATTER_SECONDS
from tilework.executor.dask.sealed import seal
from tilework.executor.dask.seating import Claim, Seating
from tilework.executor.dask.worker import Batch, BatchReport, run_batch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tilework.executor.dask.lanes import Sent, Station
    from tilework.executor.dask.scattered import Content
    from tilework.executor.dask.shipment import Shipment

__all__ = ["Carriage"]

LARGE_BYTES: Final = 1 << 20
"""What is larger than this does not travel in a message or a graph, which are for small things, but as Dask's data."""

MESSAGE_SECONDS: Final = 2.0
"""How long results wait for the messages of their tasks."""

_PRIORITIES: Final = {Priority.LIVE: 10, Priority.INTERACTIVE: 0, Priority.BATCH: -10}
"""Priorities of Dask, where the higher number goes first; what has none is taken for interactive, and takes turns."""


class Carriage:
    """The ways to the workers of one executor.

    Parameters
    ----------
    client
        The Dask client.
    topic
        Where messages of tasks go.
    on_seat_failure
        Called with the name of a run one of whose seats was given up by Dask.
    """

    def __init__(self, client: Any, topic: str, on_seat_failure: Callable[[str], None]) -> None:
        self._client = client
        self._topic = topic
        self.reach = Reach(client)
        self.seating = Seating(client, on_seat_failure)
        self._turns: dict[tuple[str, str], asyncio.Event] = {}  # by run and worker: its last batch is on its way

    async def run_batch(self, sent: Sent, shipment: Shipment) -> BatchReport:
        """Take a batch to its worker, and return what became of it.

        Raises
        ------
        OSError, concurrent.futures.CancelledError
            When Dask gave it up; in most cases the worker is gone.
        ExecutorError
            When Dask gives up again and again.
        """
        if await self.reach.is_direct(sent.station):
            sent.station.batch_seconds = DIRECT_SECONDS
            return await self._feed(sent, shipment)
        future = await self._submit(sent, shipment)
        await _finished(future)
        sent.is_arriving = True
        report: BatchReport = await self._client.gather(future, direct=False, asynchronous=True)
        return report

    async def _feed(self, sent: Sent, shipment: Shipment) -> BatchReport:
        """Send a batch straight to its worker, to a seat of its run there."""
        address, name = sent.station.address, shipment.name_of(next(iter(sent.tickets.values())).task)
        state = None if shipment.params is None else shipment.params.state
        async with self._in_turn(sent):
            batch, items = await self._prepare(sent, shipment, state, direct=True)
            claim = Claim(shipment.lane.run, address, sent.station.slots, name, self._options(sent))
            if state is not None:
                content = state[0]
                is_large = content.sealed.nbytes > LARGE_BYTES
                future = await self._scatter(content, sent, direct=True) if is_large else None
                claim = replace(claim, content=content.name, params=content.sealed, params_future=future)
        report = await self.seating.carry(claim, batch, None if items is None else items.key)
        if report is not None:
            await self.messages_of(sent, report)
            return report
        shipment.check_returns(f"there is no place for {claim.name} at {address}")
        return BatchReport((), batch.numbers)

    async def _submit(self, sent: Sent, shipment: Shipment) -> Any:
        """Hand a batch to Dask, as a task."""
        state = None if shipment.params is None else shipment.params.state
        async with self._in_turn(sent):
            batch, items = await self._prepare(sent, shipment, state, direct=False)
            params = None if state is None else await self._scatter(state[0], sent, direct=False)
        return submit(
            self._client,
            run_batch,
            batch,
            params,
            items,
            key=self._key(sent, shipment),
            workers=[sent.station.address],
            **self._options(sent),
        )

    @asynccontextmanager
    async def _in_turn(self, sent: Sent) -> AsyncIterator[None]:
        """Prepare a batch inside the block; what follows comes after what the worker was sent of the same run before.

        Other runs need not wait for what is large to get there.
        """
        whose = sent.lane.run, sent.station.address
        before, mine = self._turns.get(whose), asyncio.Event()
        self._turns[whose] = mine
        try:
            yield
            if before is not None:
                await before.wait()
        finally:
            mine.set()
            if self._turns.get(whose) is mine:
                del self._turns[whose]

    def _options(self, sent: Sent) -> dict[str, Any]:
        resources = dict(sent.need.resources) if sent.station.is_tagged and sent.need.resources else None
        return {
            "priority": _PRIORITIES[sent.lane.priority] + 5 * sent.need.is_service,
            "resources": resources,
        }

    async def _scatter(self, content: Content, sent: Sent, *, direct: bool) -> Any:
        """Return the future of parameters, which all workers share."""
        return await _scattered(content.future(self._client, sent.station.address, direct))

    async def _prepare(
        self, sent: Sent, shipment: Shipment, state: tuple[Content, tuple[bytes, ...]] | None, *, direct: bool
    ) -> tuple[Batch, Any]:
        """Return a batch, and the future of its items, if it does not carry those itself."""
        items: Any = seal([ticket.task for ticket in sent.tickets.values()]).apart(sent.station.address)
        is_large = items.nbytes > LARGE_BYTES
        batch = Batch(
            sent.ident,
            sent.lane.run,
            tuple(sent.tickets),
            None if is_large else items,
            shipment.fn,
            () if state is None else state[1],
            None if shipment.deadline is None else max(0.0, shipment.deadline - time.monotonic()),
            self._topic,
        )
        if not is_large:
            return batch, None
        scattering = asyncio.ensure_future(
            self._client.scatter(
                items,
                workers=[sent.station.address],
                direct=direct,
                hash=False,
                timeout=SCATTER_SECONDS,
                asynchronous=True,
            )
        )
        scattering.add_done_callback(ignore_outcome)
        # Dask would keep for ever what it was sent when this is broken off, as at the end of a run.
        return batch, await _scattered(asyncio.shield(scattering))

    @staticmethod
    def _key(sent: Sent, shipment: Shipment) -> str:
        # Dask takes what stands before the last "-" for the name of a group of tasks.
        return f"{shipment.name_of(next(iter(sent.tickets.values())).task)}-{sent.ident}"

    async def messages_of(self, sent: Sent, report: BatchReport) -> None:
        """Wait for the messages of a batch, which come by way of the scheduler: they are told before its results."""
        until = time.monotonic() + MESSAGE_SECONDS
        while sent.n_messages < report.n_messages and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def lose(self, station: Station) -> None:
        """Take note that a worker is gone."""
        self.reach.forget(station.worker.host)
        self.seating.lose(station.address)

    async def close(self, seconds: float) -> None:
        """Give everything up, and wait for what is on its way, for so long."""
        self.reach.close()
        await self.seating.close(seconds)


async def _scattered(future: Awaitable[Any]) -> Any:
    """Wait until something is scattered. When a worker leaves meanwhile, Dask says so in many ways."""
    try:
        return await future
    except Exception as error:
        msg = f"data could not be sent to the workers: {error!r}"
        raise ConnectionError(msg) from error


async def _finished(future: Any) -> None:
    """Wait for the end of a Dask future: a gather that is cancelled while it waits leaves errors in the log."""
    state = getattr(future, "_state", None)
    if state is not None:
        await state.wait()
