"""Who gets which tickets, without any I/O: the decisions of all runs of one executor on one Dask cluster.

::

    lanes, one for each run          stations, one for each worker
    ┌──────────────────────┐        ┌───────────────────────────────┐
    │ tickets, by need     │─Send──►│ batches: as many as it can run │
    │                      │◄─Recall│ at a time, and as many behind  │
    └──────────────────────┘        └───────────────────────────────┘

A worker has one batch that runs and one that waits, for each of its threads, so that it need not wait for us. A batch
is worth `BATCH_SECONDS` of work by the measure of the run's tasks so far, and one ticket as long as there is no
measure. What a worker has not begun can be recalled. That is done when another worker is idle while this one takes
longer than expected, so that a slow task delays only itself; and when a run of higher priority finds no room.

The threads of a worker may belong to somebody else's tasks, for as long as these like. It shows when the batch that
should run is recalled, which a worker that has begun it does not give back. Then the worker is held: others are
preferred until it has worked again, or a while has passed, which is longer each time. So a ticket that finds all
workers held goes from one to the other ever more rarely, and is done wherever a thread is free first for long enough.

Among runs of equal priority each gets a batch in turn; a lower number of priority always goes first. A ticket whose
data is on some hosts goes there as long as one of them has a worker that can do it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tilework.common.executor import Priority
from tilework.executor.dask.lanes import PATIENCE, Need, Sent, Station

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.executor.dask.lanes import Lane
    from tilework.executor.run import Ticket

__all__ = ["MAX_BATCH", "SHARE_SECONDS", "Dispatch", "Recall", "Send"]

MAX_BATCH: Final = 64

SHARE_SECONDS: Final = 0.004
"""Less work than this is not shared any further, in s: a message costs about as much as it takes."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this batch to its station."""

    sent: Sent


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask the station of this batch for what it has not begun of it."""

    sent: Sent


Action: TypeAlias = Send | Recall


class Dispatch:
    """The decisions. Not locked: it belongs to one thread."""

    def __init__(self) -> None:
        self.stations: dict[str, Station] = {}
        self._turns: dict[Priority, deque[Lane]] = {priority: deque() for priority in sorted(Priority)}
        self._fitting: dict[Need, list[Station]] = {}
        self._missed_hosts: set[str] = set()
        self._idents = count()

    # ---- workers ----

    def join(self, station: Station) -> None:
        """Take note of a new worker."""
        self.stations[station.address] = station
        self._missed_hosts.discard(station.worker.host)
        self._fitting.clear()

    def describe(self, station: Station) -> None:
        """Take note that a worker is something else than was thought; this changes nothing of what it has."""
        known = self.stations[station.address]
        known.worker, known.is_service = station.worker, station.is_service
        known.slots, known.is_tagged = station.slots, station.is_tagged
        self._fitting.clear()

    def leave(self, address: str) -> list[Sent]:
        """Take note that a worker is gone; returns what it had, in the order in which it got it."""
        station = self.stations.pop(address, None)
        self._fitting.clear()
        if station is None:
            return []
        if all(other.worker.host != station.worker.host for other in self.stations.values()):
            self._missed_hosts.add(station.worker.host)
        lost = list(station.sent.values())
        for sent in lost:
            sent.lane.sent.pop(sent.ident, None)
        return lost

    def give_up_host(self, host: str) -> None:
        """Do not wait any more for workers on a host that lost its last one: its tickets may go anywhere."""
        self._missed_hosts.discard(host)
        self._fitting.clear()

    def concurrency(self) -> int:
        """Return how many tasks can run at a time, services apart."""
        stations = list(self.stations.values())
        return sum(s.slots for s in stations if not s.is_service) or sum(s.slots for s in stations)

    def fitting(self, need: Need) -> list[Station]:
        """Return the workers that may get a ticket with this need."""
        found = self._fitting.get(need)
        if found is None:
            found = self._fitting[need] = self._find(need)
        return found

    def _find(self, need: Need) -> list[Station]:
        if need.addresses is not None:
            return [s for s in self.stations.values() if s.address in need.addresses]
        request: Any = dict(need.resources)
        found = [s for s in self.stations.values() if s.worker.can_run(request)]
        if need.hosts:
            local = [s for s in found if s.worker.host in need.hosts]
            if local or need.hosts & self._missed_hosts:
                found = local
        return [s for s in found if s.is_service is need.is_service] or found

    def _open_to(self, need: Need, now: float) -> list[Station]:
        """Return the workers that may get a ticket now: idle ones too when all that are for services take long."""
        fitting = self.fitting(need)
        if not need.is_service or any(s.is_idle() or not s.is_late(now) for s in fitting):
            return fitting
        others = self.fitting(replace(need, is_service=False))
        return fitting + [s for s in others if s not in fitting and s.is_idle() and not s.is_held(now)]

    # ---- tickets ----

    def put(self, lane: Lane, need: Need, tickets: Iterable[Ticket[Any]]) -> None:
        """Append tickets to a lane."""
        for ticket in tickets:
            lane.queue_for(need, ticket).append(ticket)
        self._give_turn(lane)

    def put_back(self, sent: Sent, numbers: Iterable[int]) -> None:
        """Put tickets that a worker did not begin back where they were: before all that came later."""
        tickets = [ticket for number in numbers if (ticket := sent.tickets.pop(number, None)) is not None]
        if tickets and not sent.lane.is_over:
            for ticket in reversed(tickets):
                queue = sent.lane.queue_for(sent.need, ticket)
                queue.insert(sum(other.number < ticket.number for other in queue), ticket)
            self._give_turn(sent.lane)

    def done(self, sent: Sent, now: float) -> None:
        """Take note that a worker has answered a batch."""
        sent.lane.sent.pop(sent.ident, None)
        sent.station.sent.pop(sent.ident, None)
        sent.station.since = now

    def note_unbegun(self, sent: Sent, now: float) -> None:
        """Take note that a worker which was asked for a batch had begun nothing of it."""
        if sent.station.is_overdue(sent, now):
            sent.station.hold(now)

    def drop(self, lane: Lane) -> list[Sent]:
        """Forget what waits in a lane; returns what the workers have of it."""
        lane.is_over = True
        lane.queues.clear()
        lane.suspected.clear()
        return list(lane.sent.values())

    def stranded(self) -> list[tuple[Lane, Need]]:
        """Return the lanes with tickets that none of the workers may get, and what they need."""
        return [
            (lane, need)
            for turns in self._turns.values()
            for lane in turns
            for need, _ in lane.waiting()
            if not self.fitting(need)
        ]

    def _give_turn(self, lane: Lane) -> None:
        if not lane.has_turn:
            lane.has_turn = True
            self._turns[lane.priority].append(lane)

    # ---- what to do ----

    def next(self, now: float) -> Action | None:
        """Return what to do now; None: nothing, until something happens or a little time has passed."""
        overtaking: Recall | None = None
        for turns in self._turns.values():
            for _ in range(len(turns)):
                lane = turns.popleft()
                if not lane.n_queued:
                    lane.has_turn = False
                    continue
                turns.append(lane)
                if self._must_wait(lane, now):
                    continue
                action = self._raise_above(lane, now) or self._place(lane, now)
                if action is not None:
                    return action
                overtaking = overtaking or self._overtake(lane, now)
        return overtaking or self._help(now)

    def is_restless(self) -> bool:
        """Return whether time alone can make a difference: one worker is idle, and another has something to spare."""
        stations = self.stations.values()
        idle = any(station.is_idle() for station in stations)
        return idle and any(
            s.spare() is not None or any(b.is_being_recalled for b in s.sent.values()) for s in stations
        )

    def _place(self, lane: Lane, now: float) -> Send | None:
        reserved: set[Station] = set()
        for need, queue in lane.suspected.items():
            if queue:
                station = self._place_suspect(lane, need, reserved, now)
                if station is not None:
                    return Send(self._take(lane, need, queue, station, 1, now))
        for need, queue in lane.queues.items():
            if not queue:
                continue
            fitting = self._open_to(need, now)
            stations = [s for s in fitting if s.room > 0 and s not in reserved]
            if stations:
                station = min(stations, key=lambda s: s.expected_order(now))
                # What waits is shared with those that are busy now: they will be back before a large batch is done.
                each = len(queue) / sum(s.slots for s in fitting)
                share = math.ceil(min(each, max(each / 2, self._worth(lane, SHARE_SECONDS))))
                n = min(self._worth(lane, station.batch_seconds), share)
                return Send(self._take(lane, need, queue, station, n, now))
        return None

    def _place_suspect(self, lane: Lane, need: Need, reserved: set[Station], now: float) -> Station | None:
        """Return an empty worker for a suspect, or let one become empty.

        One that has shown that it works is preferred: a new worker takes long for its first task, and would meet its
        end with the same task again where workers die for other reasons.
        """
        stations = sorted(self.fitting(need), key=lambda station: station.is_held(now))
        proven = [station for station in stations if station.is_proven]
        empty = [station for station in proven or stations if not station.sent]
        if empty:
            return empty[0]
        if proven:
            reserved.add(min(proven, key=lambda s: len(s.sent)))
            if any(lane.queues.values()):
                return None
        return next((station for station in stations if not station.sent), None)

    @staticmethod
    def _worth(lane: Lane, seconds: float) -> int:
        """Return how many tickets are work for so long, as far as is known."""
        mean = lane.mean_seconds
        if mean is None:
            return 1
        return max(1, MAX_BATCH if mean * MAX_BATCH <= seconds else int(seconds / mean))

    def _take(self, lane: Lane, need: Need, queue: deque[Ticket[Any]], station: Station, n: int, now: float) -> Sent:
        tickets: dict[int, Ticket[Any]] = {}
        while queue and len(tickets) < n:
            ticket = queue.popleft()
            tickets[ticket.number] = ticket
        sent = Sent(f"{lane.run}-{next(self._idents)}", lane, need, station, tickets, now)
        sent.is_suspect = next(iter(tickets.values())).index in lane.suspects
        lane.sent[sent.ident] = sent
        station.sent[sent.ident] = sent
        return sent

    def _overtake(self, lane: Lane, now: float) -> Recall | None:
        """Make room for a lane whose tickets find none."""
        for need, _ in lane.waiting():
            for station in self.fitting(need):
                spare = station.spare()
                if spare is not None and spare.lane.priority > lane.priority:
                    return self._recall(spare, now)
        return None

    def _raise_above(self, lane: Lane, now: float) -> Recall | None:
        """Recall what is before this lane, and waits behind others while there is a worker that could begin it."""
        idle = self._idle(now)
        for station in self.stations.values() if idle else ():
            waiting = list(station.sent.values())[station.slots :]
            spare = station.spare() if any(sent.lane.priority < lane.priority for sent in waiting) else None
            if spare in waiting and spare.lane.priority < lane.priority:
                need = spare.need
                if any(each is not station and each in self.fitting(need) for each in idle):
                    return self._recall(spare, now)
        return None

    def _must_wait(self, lane: Lane, now: float) -> bool:
        """Return whether something that goes before this lane is on its way back, and will find its place at once."""
        return any(
            sent.is_being_recalled and sent.lane.priority < lane.priority and now - sent.recall_time < PATIENCE
            for station in self.stations.values()
            for sent in station.sent.values()
        )

    def _help(self, now: float) -> Recall | None:
        """Find work for an idle worker where another one takes long."""
        idle = self._idle(now)
        for station in self.stations.values() if idle else ():
            sent = station.wants_help(now)
            if sent is None:
                continue
            open_to = self._open_to(sent.need, now)
            if any(s is not station and s in open_to for s in idle):
                return self._recall(sent, now)
        return None

    def _idle(self, now: float) -> list[Station]:
        return [station for station in self.stations.values() if station.is_idle() and not station.is_held(now)]

    @staticmethod
    def _recall(sent: Sent, now: float) -> Recall:
        sent.is_being_recalled = True
        sent.recall_time = now
        return Recall(sent)
