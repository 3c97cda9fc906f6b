"""The seats of runs at Dask workers, and the batches that are fed to them; see `seat` for what they are.

Belongs to the client's event loop. A run has at most as many seats at a worker as that has threads. Dask knows nothing
of batches: when it gives a seat up (its worker is gone, somebody cancelled it), the worker is told, and refuses what
waits for that seat.

To claim a seat takes main process and worker several milliseconds of processor time each. A run that ends therefore
leaves its seats to the next one of the same name, which has a moment to come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from tilework.common.async_utils import ignore_outcome
from tilework.executor.dask.extra import submit
from tilework.executor.dask.seat import close_seats, end_run, feed, sit
from tilework.executor.dask.table import LINGER_SECONDS, Feed
from tilework.executor.remote import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tilework.executor.dask.sealed import SharedSealed
    from tilework.executor.dask.worker import Batch, BatchReport

__all__ = ["Claim", "Seating"]

log = logging.getLogger(__name__)

HEIR_SECONDS: Final = 0.7 * LINGER_SECONDS
"""How long the seats of a run wait for the next; not quite as long as they keep their threads."""

SEAT_SECONDS: Final = 0.2
"""How long the end of an executor waits for seats that have nothing to do."""


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

    @property
    def kind(self) -> tuple[str, str, Mapping[str, Any]]:
        """What runs must have in common to inherit each other's seats."""
        return self.address, self.name, self.options


@dataclass(eq=False)
class _Seat:
    """A Dask task, from when it is claimed until it ends or is not wanted any more."""

    name: str
    kind: tuple[str, str, Mapping[str, Any]]
    place: _Place | None
    """Whose it is; None: it waits for an heir, or is not wanted any more."""
    watch: asyncio.Task[None] = field(init=False)
    """It holds the future: Dask stops what nobody wants any more."""
    free_since: float = 0.0

    @property
    def address(self) -> str:
        """Of its worker."""
        return self.kind[0]

    def give_up(self) -> None:
        """Do not want it any more; nothing holds it then, nor what it has brought to its worker."""
        self.place = None
        self.watch.cancel()
        del self.watch  # else they would hold each other, and the future, until the garbage collector comes


@dataclass(eq=False)
class _Place:
    """A run at a worker."""

    run: str
    seats: set[str] = field(default_factory=set)
    """Those that are there or on their way."""
    held: dict[str, _Seat] = field(default_factory=dict)
    """Those that Dask has, by name; some may not be of use any more."""
    contents: set[str] = field(default_factory=set)
    """The parameters that are known there for certain."""
    in_seats: str | None = None
    """The parameters that come with the seats."""
    n_fed: int = 0
    """How many batches are there."""
    latest: str | None = None
    """The batch that was sent last, if it was not answered yet."""

    def give_up(self) -> None:
        """Want none of its seats any more."""
        for seat in self.held.values():
            seat.give_up()
        self.held.clear()


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
        self._free: list[_Seat] = []  # they wait for heirs, the latest at the end
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
        place = self._places.setdefault(claim.run, {}).setdefault(claim.address, _Place(claim.run))
        gone = self._claim(claim, place)
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
            gone,
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

    def _claim(self, claim: Claim, place: _Place) -> frozenset[str]:
        """See to it that there is a seat; returns those that have to go for it."""
        in_seats = None if claim.params_future is None else claim.content
        if in_seats is not None and in_seats != place.in_seats:
            place.in_seats = in_seats
            place.seats.clear()  # they have others; and go when they have nothing to do
        if place.seats and place.n_fed < len(place.seats):
            return frozenset()  # one of them has nothing to do
        if len(place.seats) >= claim.slots:
            return frozenset()
        if in_seats is None and (seat := self._inherit(claim)) is not None:
            seat.place = place
            place.seats.add(seat.name)
            place.held[seat.name] = seat
            return frozenset()
        gone = self._clear(claim.address)
        name = f"{claim.run}-s{next(self._numbers)}"
        place.seats.add(name)
        future = submit(
            self._client,
            sit,
            name,
            claim.run,
            claim.options["priority"],
            in_seats,
            claim.params_future,
            key=f"{claim.name}-{name}",
            workers=[claim.address],
            **claim.options,
        )
        seat = place.held[name] = _Seat(name, claim.kind, place)
        seat.watch = asyncio.ensure_future(self._watch(seat, future))
        return gone

    def _inherit(self, claim: Claim) -> _Seat | None:
        """Return a seat that an earlier run has left, which is no longer free then."""
        since = time.monotonic() - HEIR_SECONDS
        fitting = [seat for seat in self._free if seat.free_since > since and seat.kind == claim.kind]
        if not fitting:
            return None
        self._free.remove(fitting[-1])
        return fitting[-1]

    def _clear(self, address: str) -> frozenset[str]:
        """Give up the seats at a worker that wait for heirs; returns their names."""
        gone = [seat for seat in self._free if seat.address == address]
        for seat in gone:
            self._free.remove(seat)
            seat.give_up()
        return frozenset(seat.name for seat in gone)

    async def _watch(self, seat: _Seat, future: Any) -> None:
        """Wait for the end of a seat."""
        state = getattr(future, "_state", None)
        if state is not None:
            await state.wait()
        place = seat.place
        if place is None:
            self._free.remove(seat)
            return
        del place.held[seat.name]
        if seat.name in place.seats:
            place.seats.discard(seat.name)
            place.contents.clear()
        if future.status != "finished":
            self._on_failure(place.run)
            await self._tell(seat.address, close_seats, frozenset({seat.name}))

    def lose(self, address: str) -> None:
        """Forget a worker that is gone."""
        self._clear(address)
        for places in self._places.values():
            if address in places:
                places.pop(address).give_up()

    def end(self, run: str) -> tuple[set[str], frozenset[str]]:
        """Leave all seats of a run, those that have nothing to do to the next run.

        Returns
        -------
        addresses, seats
            The workers that are to be told so by `end_run`, and which seats are no more.
        """
        places = self._places.pop(run, {})
        gone = set()
        for place in places.values():
            can_be_left = place.n_fed == 0 and place.in_seats is None
            for seat in place.held.values():
                if can_be_left and seat.name in place.seats:
                    seat.place, seat.free_since = None, time.monotonic()
                    self._free.append(seat)
                else:
                    seat.give_up()
                    gone.add(seat.name)
            place.held.clear()
        return set(places), frozenset(gone)

    def tell_end(self, run: str, addresses: set[str], seats: frozenset[str]) -> None:
        """Tell workers of the end of a run that has nothing there but seats."""
        for address in addresses:
            self._spawn(self._tell(address, end_run, run, seats))

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
        ignore_outcome(call)  # whoever waits for it has it

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
        # Seats that end by themselves leave nothing in the log of a worker that is closed next.
        addresses = {seat.address for seat in self._free}
        names = frozenset(seat.name for seat in self._free)
        for address in addresses:
            self._spawn(self._tell(address, close_seats, names))
        if self._free:
            await asyncio.wait([seat.watch for seat in self._free], timeout=min(seconds, SEAT_SECONDS))
        for address in addresses:
            self._clear(address)
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
