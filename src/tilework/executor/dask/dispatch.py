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
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tilework.common.executor import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.common.scheduler import Worker
    from tilework.executor.run import Ticket

__all__ = [
    "BATCH_SECONDS",
    "DIRECT_SECONDS",
    "MAX_BATCH",
    "SHARE_SECONDS",
    "Dispatch",
    "Lane",
    "Need",
    "Recall",
    "Send",
    "Sent",
    "Station",
]

BATCH_SECONDS: Final = 0.03
"""Work that is sent at a time, in seconds: well above the 10 ms that Dask takes from one task to the next."""

DIRECT_SECONDS: Final = 0.015
"""The same for workers that get messages straight, in about 1 ms."""

MAX_BATCH: Final = 64

PATIENCE: Final = 0.05
"""How much longer than expected a worker may take until what it has not begun is recalled for an idle one, in s."""

HELD_SECONDS: Final = (1.0, 60.0)
"""How long a worker is taken to be held by others, in s: at first, twice as long each time, and at most."""

SHARE_SECONDS: Final = 0.004
"""Less work than this is not shared any further, in s: a message costs about as much as it takes."""

_SMOOTHING: Final = 0.25


@dataclass(frozen=True, slots=True)
class Need:
    """What a worker must be to get a ticket.

    Parameters
    ----------
    resources
        What it must offer.
    hosts
        Where it must be, as long as there is one that can do it at any of them; none: anywhere.
    addresses
        Which it must be; None: any.
    is_service
        Whether workers that are reserved for services should do it, where there are any; else they do not, unless
        there is nobody else.
    """

    resources: frozenset[tuple[str, int]] = frozenset()
    hosts: frozenset[str] = frozenset()
    addresses: frozenset[str] | None = None
    is_service: bool = False


@dataclass(eq=False)
class Lane:
    """One run.

    Parameters
    ----------
    run
        Its name on the workers.
    priority
        Which run goes first.
    """

    run: str
    priority: Priority
    queues: dict[Need, deque[Ticket[Any]]] = field(default_factory=dict)
    suspected: dict[Need, deque[Ticket[Any]]] = field(default_factory=dict)
    """The tickets of suspects, apart from the others."""
    sent: dict[str, Sent] = field(default_factory=dict)
    """What is on its way or running, by ident."""
    suspects: set[int] = field(default_factory=set)
    """Tasks, by index, that were lost with a worker: each has a worker for itself, so that it shows which one kills."""
    mean_seconds: float | None = None
    has_turn: bool = False
    is_over: bool = False

    @property
    def n_queued(self) -> int:
        """How many tickets wait here."""
        return sum(map(len, self.queues.values())) + sum(map(len, self.suspected.values()))

    def waiting(self) -> list[tuple[Need, deque[Ticket[Any]]]]:
        """Return the queues that are not empty."""
        return [(need, q) for queues in (self.suspected, self.queues) for need, q in queues.items() if q]

    def queue_for(self, need: Need, ticket: Ticket[Any]) -> deque[Ticket[Any]]:
        """Return the queue for a ticket."""
        queues = self.suspected if ticket.index in self.suspects else self.queues
        return queues.setdefault(need, deque())

    def learn(self, seconds: float) -> None:
        """Take note of how long a task took."""
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean is None else mean + (seconds - mean) * _SMOOTHING


@dataclass(eq=False)
class Sent:
    """A batch that a worker has got."""

    ident: str
    lane: Lane
    need: Need
    station: Station
    tickets: dict[int, Ticket[Any]]
    """What is not answered yet, by number."""
    time: float
    is_recalled: bool = False
    """Whether its worker is being asked for what it has not begun."""
    recall_time: float = -math.inf
    is_begun: bool = False
    """Whether it is known to have nothing that could be recalled."""
    is_arriving: bool = False
    """Whether what became of it is on its way back."""
    is_suspect: bool = False
    """Whether it must have its worker for itself."""
    n_messages: int = 0
    """How many messages of its tasks have come."""


@dataclass(eq=False)
class Station:
    """One worker.

    Parameters
    ----------
    address
        Of the worker, for Dask.
    worker
        What it is, for everybody else.
    is_service
        Whether it is reserved for services.
    slots
        How many tasks it runs at a time.
    pid
        The number of its process, if it tells that.
    is_tagged
        Whether its resources are what Dask knows of it, too.
    """

    address: str
    worker: Worker
    is_service: bool
    slots: int
    pid: int | None = None
    is_tagged: bool = False
    sent: dict[str, Sent] = field(default_factory=dict)
    batch_seconds: float = BATCH_SECONDS
    """Work that is sent to it at a time."""
    since: float = 0.0
    """When it last answered, or began to have work."""
    is_proven: bool = False
    """Whether it has done a task."""
    held_until: float = -math.inf
    """Until when its threads are taken to be somebody else's."""
    held_seconds: float = HELD_SECONDS[0]
    """How long they will be taken to be that the next time."""

    @property
    def room(self) -> int:
        """How many more batches it can get."""
        if any(sent.is_suspect for sent in self.sent.values()):
            return 0
        return 2 * self.slots - len(self.sent)

    def expected_order(self, now: float) -> tuple[bool, float, float]:
        """Sort stations by when they will have time: how much they have, and since when; those that are held last."""
        since = min((sent.time for sent in self.sent.values()), default=0.0)
        return self.is_held(now), len(self.sent) / self.slots, since

    def is_held(self, now: float) -> bool:
        """Return whether its threads are taken to be somebody else's."""
        return now < self.held_until

    def hold(self, now: float) -> None:
        """Take note that it has not begun what should run there."""
        self.held_until = now + self.held_seconds
        self.held_seconds = min(2 * self.held_seconds, HELD_SECONDS[1])

    def prove(self) -> None:
        """Take note that it has done a task."""
        self.is_proven = True
        self.held_until, self.held_seconds = -math.inf, HELD_SECONDS[0]

    def is_idle(self) -> bool:
        """Return whether one of its threads has nothing to do."""
        return len(self.sent) < self.slots

    def is_late(self, now: float) -> bool:
        """Return whether it takes longer for what it has begun than could be expected."""
        head = next(iter(self.sent.values()), None)
        if head is None:
            return False
        expected = PATIENCE + len(head.tickets) * (head.lane.mean_seconds or 0.0)
        return now - max(self.since, head.time) > expected

    def is_overdue(self, sent: Sent, now: float) -> bool:
        """Return whether a batch should have begun a while ago, because there is a thread for it."""
        should_run = sent.ident in list(self.sent)[: self.slots]
        return should_run and now - max(self.since, sent.time) > PATIENCE

    def spare(self) -> Sent | None:
        """Return the batch that can best be recalled; None when there is none, or one is being recalled."""
        batches = list(self.sent.values())
        if any(sent.is_recalled for sent in batches):
            return None
        return next((sent for sent in reversed(batches) if not sent.is_begun), None)

    def wants_help(self, now: float) -> Sent | None:
        """Return the batch that another worker should rather do, if there is one that it can be asked for.

        That is one that waits for those that take longer than expected; or one that should have begun, and may not.
        """
        spare = self.spare()
        if spare is None:
            return None
        if self.is_late(now) and spare.ident in list(self.sent)[self.slots :]:
            return spare
        return next((sent for sent in self.sent.values() if not sent.is_begun and self.is_overdue(sent, now)), None)


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
        return idle and any(s.spare() is not None or any(b.is_recalled for b in s.sent.values()) for s in stations)

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
            fitting = self.fitting(need)
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
            sent.is_recalled and sent.lane.priority < lane.priority and now - sent.recall_time < PATIENCE
            for station in self.stations.values()
            for sent in station.sent.values()
        )

    def _help(self, now: float) -> Recall | None:
        """Find work for an idle worker where another one takes long."""
        idle = self._idle(now)
        for station in self.stations.values() if idle else ():
            sent = station.wants_help(now)
            if sent is not None and any(s is not station and s in self.fitting(sent.need) for s in idle):
                return self._recall(sent, now)
        return None

    def _idle(self, now: float) -> list[Station]:
        return [station for station in self.stations.values() if station.is_idle() and not station.is_held(now)]

    @staticmethod
    def _recall(sent: Sent, now: float) -> Recall:
        sent.is_recalled = True
        sent.recall_time = now
        return Recall(sent)
