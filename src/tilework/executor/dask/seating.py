"""The seats of runs at Dask workers, and the batches that are fed to them; see `seat` for what they are.

Belongs to the client's event loop. A run has at most as many seats at a worker as that has threads. Dask knows nothing
of batches: when it gives a seat up (its worker is gone, somebody cancelled it), the worker is told, and refuses what
waits for that seat.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from tilework.executor.dask.seat import close_seats, feed, leave, sit
from tilework.executor.dask.table import Feed
from tilework.executor.remote import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tilework.executor.dask.sealed import SharedSealed
    from tilework.executor.dask.worker import Batch, BatchReport

__all__ = ["Claim", "Seating"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a batch needs of its seat.

    Parameters
    ----------
    run
        Names the run.
    address
        Of the worker.
    slots
        How many seats the run may have there.
    name
        What Dask calls a seat.
    options
        For ``Client.submit``, ``priority`` among them.
    content
        Names the parameters of tasks; None: there are none.
    params
        The parameters, for a batch that brings them.
    params_future
        The parameters, where Dask holds them.
    """

    run: str
    address: str
    slots: int
    name: str
    options: Mapping[str, Any]
    content: str | None = None
    params: SharedSealed | None = None
    params_future: Any = None


@dataclass(eq=False)
class _Place:
    """A run at a worker."""

    seats: set[str] = field(default_factory=set)
    """Those that are there or on their way."""
    contents: set[str] = field(default_factory=set)
    """The parameters that are known there for certain."""
    in_seats: str | None = None
    """The parameters that come with the seats."""
    n_fed: int = 0
    """How many batches are there."""
    latest: str | None = None
    """The batch that was sent last, if it was not answered yet."""
    watches: set[asyncio.Task[None]] = field(default_factory=set)
    """They hold the futures of seats until these end: Dask stops what nobody wants any more."""

    def give_up(self) -> None:
        """Want none of its seats any more."""
        for watch in list(self.watches):
            watch.cancel()


class Seating:
    """The seats of all runs of one executor.

    Parameters
    ----------
    client
        The Dask client.
    on_failure
        Called with the name of a run one of whose seats was given up by Dask.
    """

    def __init__(self, client: Any, on_failure: Callable[[str], None]) -> None:
        self._client = client
        self._on_failure = on_failure
        self._places: dict[str, dict[str, _Place]] = {}  # by run, by address
        self._numbers = count()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._calls: set[asyncio.Task[Any]] = set()

    async def carry(self, claim: Claim, batch: Batch, items_key: str | None = None) -> BatchReport | None:
        """Feed a batch to a seat of its run, which is claimed if need be; None: it was refused.

        Raises
        ------
        OSError
            When the worker cannot be reached, or is lost meanwhile.
        """
        place = self._places.setdefault(claim.run, {}).setdefault(claim.address, _Place())
        self._claim(claim, place)
        is_known = claim.content is None or claim.content in place.contents or claim.params_future is not None
        params = None if is_known else claim.params
        priority = claim.options["priority"]
        order = Feed(
            batch,
            frozenset(place.seats),
            priority,
            claim.content,
            next(self._numbers),
            place.latest,
            params,
            items_key,
        )
        place.n_fed += 1
        place.latest = batch.ident
        try:
            report: BatchReport | None = await self._call(claim.address, feed, order)
        finally:
            place.n_fed -= 1
            if place.latest == batch.ident:
                place.latest = None
        if report is None:
            place.contents.clear()
            place.seats -= order.seats
        elif claim.content is not None:
            place.contents.add(claim.content)
        return report

    def _claim(self, claim: Claim, place: _Place) -> None:
        in_seats = None if claim.params_future is None else claim.content
        if in_seats is not None and in_seats != place.in_seats:
            place.in_seats = in_seats
            place.seats.clear()  # they have others; and go when they have nothing to do
        if place.seats and place.n_fed < len(place.seats):
            return  # one of them has nothing to do
        if len(place.seats) >= claim.slots:
            return
        seat = f"{claim.run}-s{next(self._numbers)}"
        place.seats.add(seat)
        future = self._client.submit(
            sit,
            seat,
            claim.run,
            claim.options["priority"],
            in_seats,
            claim.params_future,
            key=f"{claim.name}-{seat}",
            workers=[claim.address],
            pure=False,
            **claim.options,
        )
        watch = asyncio.ensure_future(self._watch(claim, place, seat, future))
        place.watches.add(watch)
        watch.add_done_callback(place.watches.discard)

    async def _watch(self, claim: Claim, place: _Place, seat: str, future: Any) -> None:
        """Wait for the end of a seat."""
        state = getattr(future, "_state", None)
        if state is not None:
            await state.wait()
        if seat in place.seats:
            place.seats.discard(seat)
            place.contents.clear()
        if future.status != "finished":
            self._on_failure(claim.run)
            await self._tell(claim.address, close_seats, frozenset({seat}))

    def lose(self, address: str) -> None:
        """Forget a worker that is gone."""
        for places in self._places.values():
            if address in places:
                places.pop(address).give_up()

    def end(self, run: str) -> set[str]:
        """Give up all seats of a run; returns the workers, which are to be told so by `leave`."""
        places = self._places.pop(run, {})
        for place in places.values():
            place.give_up()
        return set(places)

    def tell_end(self, run: str, addresses: set[str]) -> None:
        """Tell workers of the end of a run that has nothing there but seats."""
        for address in addresses:
            self._spawn(self._tell(address, leave, run))

    async def _tell(self, address: str, fn: Callable[..., Any], *args: Any) -> None:
        try:
            await self._call(address, fn, *args)
        except Exception as error:  # noqa: BLE001  (the worker is gone; or it finds out by itself)
            log.debug("could not tell %s: %r", address, error)

    async def _call(self, address: str, fn: Callable[..., Any], *args: Any) -> Any:
        """Call a function at a worker. The call goes on when nobody waits for it any more.

        For one that is broken off while it connects leaves an open socket behind, for good.
        """
        call = asyncio.ensure_future(_call_worker(self._client, address, fn, *args))
        self._calls.add(call)
        call.add_done_callback(self._on_called)
        return await asyncio.shield(call)

    def _on_called(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # which is that of whoever waits for it, if anybody does

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, seconds: float) -> None:
        """Give everything up, and wait for what is on its way, for so long."""
        for task in list(self._tasks):
            task.cancel()
        for run in list(self._places):
            self.end(run)
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)


async def _call_worker(client: Any, address: str, fn: Callable[..., Any], *args: Any) -> Any:
    """Call a function, or a coroutine function, in a worker's event loop, without the scheduler in between."""
    reply = await client.rpc(address).run(function=dumps(fn), args=dumps(args), kwargs=dumps({}), wait=True)
    if reply["status"] == "OK":
        return reply["result"]
    from distributed.core import clean_exception

    _, error, traceback = clean_exception(**reply)
    assert error is not None
    raise error.with_traceback(traceback)
