"""Which ticket goes to which worker, and when: decisions without I/O.

A worker takes the next ticket when it has room: so the quick ones do more, and a slow one delays nobody. It has room
for two tickets, one that it works on and one so that it need not wait for the next; for more while they are short.

Where there is a choice, a worker gets the data that it had before, which is in its page tables already.

What a worker has not begun can be taken back: when another worker is idle, or when something more urgent comes. Asking
the worker would take as long as the task that it works on, so that is done through memory (`ControlPage.revoke`).
A worker that begins nothing, because somebody stopped its process, loses what it has to an idle one (`relieve`).

::

    put ─► lanes (one for each run; by priority, then in turn) ─► stations (one for each worker)
                 ▲                                                   │ completed, lost
                 └────────────────── taken back ◄────────────────────┘

Every method returns what to send now, in this order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice, takewhile
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from tilework.executor.crew import LaneQueue
from tilework.executor.mean_time import mean_time

if TYPE_CHECKING:
    from tilework.common.executor import Priority
    from tilework.common.scheduler import ResourceDef, Worker

__all__ = ["Dispatch", "Item", "RunLane", "Station"]

_ROOM: Final = 2
_ROOM_SHORT: Final = 32
_SHORT_SECONDS: Final = 1e-3
"""Work that may be at a worker beyond the usual two tickets."""
_MOST_READERS: Final = 65536

Revoke: TypeAlias = Callable[["Station", int], int]
"""Take back all tickets of a worker up to a serial number; returns the last one that may have begun."""


class RunLane:
    """The tickets of one run that wait for a worker.

    Parameters
    ----------
    priority
        Lanes of a lower number go first, always.
    """

    __slots__ = ("is_over", "items", "lost", "mean_seconds", "priority")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.items: deque[Item] = deque()
        self.mean_seconds: float | None = None
        self.is_over = False
        self.lost: set[int] = set()
        """Places of bound tickets that have lost their worker, and will be put again."""

    def put_again(self, item: Item) -> None:
        """Put a ticket that was lost in its place among those that wait; there are some."""
        self.lost.remove(item.place)
        self.items.insert(sum(each.place < item.place for each in self.items), item)

    def note_seconds(self, seconds: float) -> None:
        """Take note of how long a ticket took."""
        self.mean_seconds = mean_time(self.mean_seconds, seconds)


@dataclass(eq=False, slots=True)
class Item:
    """A ticket on its way."""

    lane: RunLane
    ticket: Any
    requests: tuple[tuple[str, int], ...] = ()
    """Resources, with amounts."""
    target: str | None = None
    """The only worker that may have it; None: any."""
    is_bound: bool = False
    """Whether it stays where it was sent, because data was sent after it."""
    place: int = 0
    """Of a bound one, in the order in which data is sent: it must not wait for those behind it, whose data comes later,
    when there is room for it."""
    data: str | None = None
    """Name of the data that it reads; None: not known."""
    serial: int = 0
    station: Station | None = None

    def is_behind_others(self) -> bool:
        """Return whether tickets of its kind wait: then all that could do it are at work, and it can wait with them.

        Not so a bound one, for which those behind it may wait. Any thread may ask.
        """
        if self.is_bound:
            return False
        try:
            last = self.lane.items[-1]
        except IndexError:
            return False
        return self.target is last.target is None and self.requests == last.requests


@dataclass(eq=False, slots=True)
class Station:
    """A worker, as the dispatcher sees it."""

    worker: Worker
    owner: Any = None
    """What it stands for."""
    is_ready: bool = False
    """Whether it takes tickets."""
    items: deque[Item] = field(default_factory=deque)
    """What was sent and is not completed, in the order of their serial numbers."""
    serial: int = 0
    """Of the last ticket that was sent."""
    begun: int = 0
    """Serial number of a ticket that it is known to have begun."""
    unbegun: int = 0
    """Serial number of its first ticket, if that was not begun at the last look; else 0."""
    is_stalled: bool = False
    """Whether it began nothing for so long that its tickets were taken back, and has not answered since."""
    fits_requests: dict[tuple[tuple[str, int], ...], bool] = field(default_factory=dict)
    """Whether it can fulfil requests, for those that it was asked for; there are a few kinds of them."""

    def fits(self, item: Item) -> bool:
        """Return whether it can do this."""
        if item.target is not None and item.target != self.worker.name:
            return False
        fits = self.fits_requests.get(item.requests)
        if fits is None:
            fits = self.fits_requests[item.requests] = self.worker.can_run(cast("ResourceDef", dict(item.requests)))
        return fits

    def has_room(self) -> bool:
        """Return whether it should be sent one more."""
        n = len(self.items)
        if n < _ROOM:
            return True
        mean = self.items[-1].lane.mean_seconds
        return mean is not None and n < _ROOM_SHORT and n * mean < _SHORT_SECONDS


class Dispatch:
    """The decisions for one pool.

    Parameters
    ----------
    revoke
        How tickets are taken back.
    """

    def __init__(self, revoke: Revoke) -> None:
        self.stations: list[Station] = []
        self._revoke = revoke
        self._queue = LaneQueue()
        # All that were ever asked for: while all tickets are of one kind, a look at one station is enough.
        self._priorities: set[Priority] = set()
        self._kinds: set[tuple[tuple[tuple[str, int], ...], str | None]] = set()
        # Name of the worker that had some data last. A guess, no more: partitions of all datasets have the same names.
        self._readers: dict[str, str] = {}

    # ---- workers ----

    def add(self, station: Station) -> None:
        """Take a worker on, which gets nothing until it is ready."""
        self.stations.append(station)

    def ready(self, station: Station) -> list[Item]:
        """Take note that a worker takes tickets now."""
        station.is_ready = True
        return self._fill(station)

    def retire(self, station: Station) -> list[Item]:
        """Give a worker nothing more, and what it has not begun to others."""
        station.is_ready = False
        if len(station.items) > 1:
            self._take_back(station)
        return self._fill_all()

    def is_uneven(self) -> bool:
        """Return whether a worker is idle while another has tickets."""
        has_idle = has_busy = False
        for station in self.stations:  # without a generator, as this is asked for each turn of the hub
            if station.items:
                has_busy = True
            elif station.is_ready:
                has_idle = True
        return has_idle and has_busy

    def relieve(self, begun: Callable[[Station], int]) -> list[Item]:
        """Give to idle workers what others have had, and not begun, since this was called last.

        Somebody has stopped the process of such a worker, or it is starved. It gets nothing until it answers, as it
        does for each ticket that was taken back.
        """
        sent: list[Item] = []
        for station in self.stations:
            first = station.items[0].serial if station.items else 0
            before, station.unbegun = station.unbegun, first if first > begun(station) else 0
            if station.unbegun and station.unbegun == before:
                idle = next((each for each in self.stations if self._is_idle_for(each, station.items)), None)
                if idle is not None and self._take_back(station):
                    station.is_stalled = True
                    sent += self._fill(idle) + self._fill_all()
        return sent

    def answered(self, station: Station) -> list[Item]:
        """Take note that a worker that was stalled is not any more."""
        station.is_stalled = False
        return self._fill(station)

    def lost(self, station: Station) -> list[Item]:
        """Forget a worker; returns what it had, which the caller reports as lost."""
        station.is_ready = False
        self.stations.remove(station)
        had = list(station.items)
        station.items.clear()
        for item in had:
            if item.is_bound and not item.lane.is_over:
                item.lane.lost.add(item.place)
        return had

    # ---- tickets ----

    def put(self, items: Iterable[Item]) -> list[Item]:
        """Take new tickets."""
        for item in items:
            self._priorities.add(item.lane.priority)
            self._kinds.add((item.requests, item.target))
            if item.is_bound and item.place in item.lane.lost and item.lane.items:
                item.lane.put_again(item)
            else:
                item.lane.lost.discard(item.place)
                self._queue.put(item.lane, item)  # type: ignore[arg-type]
        sent = self._fill_all()
        if len(self._priorities) > 1:
            # Again where the room of one was taken by another of them, whose data that worker had before.
            left, before = self._waiting_of(items), math.inf
            while 0 < left < before:
                for item in items:
                    if item.station is None and self._make_way(item):
                        sent += self._fill_all()
                left, before = self._waiting_of(items), left
        return sent

    @staticmethod
    def _waiting_of(items: Iterable[Item]) -> int:
        return sum(item.station is None for item in items)

    def completed(self, station: Station, item: Item) -> list[Item]:
        """Take note that a ticket is done, one way or another."""
        station.items.remove(item)
        sent = self._fill(station)
        if not station.items and station.is_ready:
            sent += self._help(station)
        return sent

    def skipped(self, station: Station, item: Item) -> list[Item]:
        """Take note that a ticket on the edge was left alone by its worker."""
        station.items.remove(item)
        if not item.lane.is_over:
            self._put_back(item)
        return self._fill_all()

    def drop(self, lane: RunLane) -> list[Item]:
        """End a run: forget, and return, what waits. What was sent will see when it begins that its run is over."""
        lane.is_over = True
        waiting = list(lane.items)
        self._queue.drop(lane)  # type: ignore[arg-type]
        return waiting

    def has_sent(self, lane: RunLane) -> bool:
        """Return whether a worker has a ticket of a run, begun or not."""
        return any(item.lane is lane for station in self.stations for item in station.items)

    def at_work(self, lane: RunLane, begun: Callable[[Station], int]) -> list[Station]:
        """Return the workers that have begun a ticket of a run, and have not reported its end."""
        return [
            station
            for station in self.stations
            for item in station.items
            if item.lane is lane and item.serial <= begun(station)
        ]

    def behind(self, item: Item) -> Station | None:
        """Return a worker on whose tickets a bound one waits, though they come after it; None if it need not wait."""
        found: list[tuple[int, Station]] = []
        for station in self.stations if item.station is None else [item.station]:
            if station.is_ready and station.fits(item):
                before = takewhile(lambda i: i is not item, station.items)
                places = [i.place for i in before if i.lane is item.lane and i.place > item.place]
                if not places:
                    return None
                found.append((max(places), station))
        return max(found, key=itemgetter(0))[1] if found else None

    def take_out(self, stays: Callable[[Item], bool]) -> list[Item]:
        """Return, and forget, what waits for a worker, but for what stays."""
        waiting: list[Item] = []
        while (taken := self._queue.take()) is not None:
            waiting.append(taken[1])
        out = []
        for item in waiting:
            if stays(item):
                self._queue.put(item.lane, item)  # type: ignore[arg-type]
            else:
                out.append(item)
        return out

    def has_stock(self) -> bool:
        """Whether every worker has more than the usual tickets to do: short ones, of which there are many."""
        sizes = [len(station.items) for station in self.stations if station.is_ready]
        return bool(sizes) and min(sizes) > _ROOM

    # ---- inside ----

    def _fill_all(self) -> list[Item]:
        sent: list[Item] = []
        if not self._queue:
            return sent
        skipped: set[int] = set()
        while True:
            open_ones = [
                s for s in self.stations if s.is_ready and not s.is_stalled and id(s) not in skipped and s.has_room()
            ]
            if not open_ones or not self._queue:
                return sent
            station = min(open_ones, key=lambda s: len(s.items))
            if self._send_next(station, sent):
                skipped.clear()  # what is at the head of a lane now may fit where the last did not
            else:
                skipped.add(id(station))

    def _fill(self, station: Station) -> list[Item]:
        if len(self._priorities) > 1:
            # It may take over something urgent from another worker, and what that loses must not all end up here.
            return self._fill_all()
        sent: list[Item] = []
        while station.is_ready and self._queue and station.has_room() and self._send_next(station, sent):
            pass
        if self._queue and len(self._kinds) > 1:
            sent += self._fill_all()
        return sent

    def _send_next(self, station: Station, sent: list[Item]) -> bool:
        taken = self._take(station)
        if taken is None:
            return False
        item: Item = taken[1]
        holder = self._find_more_urgent(item, station)
        if holder is not None:
            self._put_back(item)
            if station.items:
                return False  # it takes that over when it has nothing to do
            self._take_back(holder)
            taken = self._take(station)
            if taken is None:  # it had begun that, and what came back, for which no other fits, is in front of the rest
                return False
            item = taken[1]
        station.serial += 1
        item.serial = station.serial
        item.station = station
        station.items.append(item)
        sent.append(item)
        if item.data is not None:
            if len(self._readers) >= _MOST_READERS:
                self._readers.clear()
            self._readers[item.data] = station.worker.name
        return True

    def _take(self, station: Station) -> tuple[Any, Any] | None:
        def rank(item: Item) -> int:
            reader = self._readers.get(item.data) if item.data is not None else None
            return 0 if reader == station.worker.name else 1 if reader is None else 2

        def may_go(item: Item) -> bool:
            # not to one behind another that was lost, and will need a worker before it
            lost = item.lane.lost
            return station.fits(item) and not (lost and min(lost) < item.place)

        return self._queue.take(may_go, rank)

    def _find_more_urgent(self, item: Item, station: Station) -> Station | None:
        """Return a worker at which something more urgent waits, that this one could take over instead."""
        if len(self._priorities) == 1:
            return None
        for holder in self.stations:
            if holder is not station and not any(i.is_bound for i in holder.items):
                for i in islice(holder.items, 1, None):
                    is_urgent = i.lane.priority < item.lane.priority
                    if is_urgent and i.serial > holder.begun and station.fits(i):
                        return holder
        return None

    def _help(self, idle: Station) -> list[Item]:
        """Take from the worker that has most what it has not begun, so that an idle one does some of it."""
        loaded = [s for s in self.stations if any(idle.fits(i) and not i.is_bound for i in islice(s.items, 1, None))]
        if not loaded:
            return []
        self._take_back(max(loaded, key=lambda s: len(s.items)))
        return self._fill(idle) + self._fill_all()

    @staticmethod
    def _is_idle_for(station: Station, items: Iterable[Item]) -> bool:
        is_idle = station.is_ready and not station.is_stalled and not station.items
        return is_idle and any(station.fits(item) for item in items)

    def _make_way(self, item: Item) -> bool:
        """Take back less urgent tickets that were not begun, for a more urgent one."""
        priority = item.lane.priority
        for station in self.stations:
            if station.is_ready and station.fits(item):
                later = list(islice(station.items, 1, None))
                if later and all(i.lane.priority > priority for i in later):
                    return self._take_back(station)
        return False

    def _take_back(self, station: Station) -> bool:
        """Put what a worker has not begun back where it came from; returns whether there was something."""
        # Everything up to a number is taken back; what has data on its way to it must not be.
        if any(item.is_bound for item in station.items):
            return False
        begun = station.begun = self._revoke(station, station.serial)
        # What belongs to a run that is over stays listed, until the worker says that it has left it alone.
        back = [item for item in station.items if item.serial > begun and not item.lane.is_over]
        for item in reversed(back):
            station.items.remove(item)
            self._put_back(item)
        return bool(back)

    def _put_back(self, item: Item) -> None:
        item.station = None
        item.serial = 0
        self._queue.put_back(item.lane, item)  # type: ignore[arg-type]
