"""What `dispatch` decides about: the runs of an executor, the workers of its cluster, and the batches between them.

All of it belongs to one thread.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tilework.executor.mean_time import mean_time

if TYPE_CHECKING:
    from tilework.common.executor import Priority
    from tilework.common.scheduler import Worker
    from tilework.executor.run import Ticket

__all__ = [
    "BATCH_SECONDS",
    "DIRECT_SECONDS",
    "FIRST_PATIENCE",
    "HELD_SECONDS",
    "PATIENCE",
    "Lane",
    "Need",
    "Sent",
    "Station",
]

BATCH_SECONDS: Final = 0.03
"""Work that is sent at a time, in seconds: well above the 10 ms that Dask takes from one task to the next."""

DIRECT_SECONDS: Final = 0.015
"""The same for workers that get messages straight, in about 1 ms."""

PATIENCE: Final = 0.05
"""How much longer than expected a worker may take until what it has not begun is recalled for an idle one, in s;
and how long it may take to begin what nothing is before."""

FIRST_PATIENCE: Final = 0.5
"""How long it may take to begin its first batch, in s: it may have to import what that needs, as any other would."""

HELD_SECONDS: Final = (1.0, 60.0)
"""How long a worker is taken to be held by others, in s: at first, twice as long each time, and at most."""


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
        Whether workers that are reserved for services should do it, where there are any, and while they do not take
        long; else they do not, unless there is nobody else.
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
    mean_seconds
        How long its tasks take; None: not known yet.
    suspects
        Tasks, by index, that were lost with a worker: each has a worker for itself, so that it shows which one kills.
    """

    run: str
    priority: Priority
    queues: dict[Need, deque[Ticket[Any]]] = field(default_factory=dict, init=False)
    suspected: dict[Need, deque[Ticket[Any]]] = field(default_factory=dict, init=False)
    """The tickets of suspects, apart from the others."""
    sent: dict[str, Sent] = field(default_factory=dict, init=False)
    """What is on its way or running, by ident."""
    suspects: set[int] = field(default_factory=set)
    mean_seconds: float | None = None
    has_turn: bool = field(default=False, init=False)
    is_over: bool = field(default=False, init=False)

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
        self.mean_seconds = mean_time(self.mean_seconds, seconds)


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
    is_being_recalled: bool = False
    """Whether its worker is being asked for what it has not begun."""
    recall_time: float = -math.inf
    was_recalled: bool = False
    """Whether it was asked for once: it is not asked for again."""
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
    sent: dict[str, Sent] = field(default_factory=dict, init=False)
    batch_seconds: float = field(default=BATCH_SECONDS, init=False)
    """Work that is sent to it at a time."""
    since: float = field(default=0.0, init=False)
    """When it last answered, or began to have work."""
    is_proven: bool = field(default=False, init=False)
    """Whether it has done a task."""
    held_until: float = field(default=-math.inf, init=False)
    """Until when its threads are taken to be somebody else's."""
    held_seconds: float = field(default=HELD_SECONDS[0], init=False)
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
        patience = PATIENCE if self.is_proven or self.is_held(now) else FIRST_PATIENCE
        return should_run and now - max(self.since, sent.time) > patience

    def spare(self) -> Sent | None:
        """Return the batch that can best be recalled; None when there is none, or one is being recalled."""
        batches = list(self.sent.values())
        if any(sent.is_being_recalled for sent in batches):
            return None
        return next((sent for sent in reversed(batches) if not sent.was_recalled), None)

    def wants_help(self, now: float) -> Sent | None:
        """Return the batch that another worker should rather do, if there is one that it can be asked for.

        That is one that waits for those that take longer than expected; or one that should have begun, and may not.
        """
        spare = self.spare()
        if spare is None:
            return None
        if self.is_late(now) and spare.ident in list(self.sent)[self.slots :]:
            return spare
        return next((sent for sent in self.sent.values() if not sent.was_recalled and self.is_overdue(sent, now)), None)
