"""The decisions of one run, without any I/O: events go in, instructions come out.

::

    tasks ──pulled lazily──►  Run  ──Submit──►  a driver gives the ticket to a worker
                               ▲   ──Deliver─►  a driver gives the result to the consumer
         Completed, Failed,    │   ──Wait────►  a driver waits for events, until the deadline at most
         Lost, Cancelled, … ───┘   ──Finish──►  a driver stops what still runs, and raises the error if there is one

A driver asks `Run.next` what to do, does it, and tells `Run.handle` what happened. Nothing here knows threads, clocks
or queues, so that all of it can be tested without a worker, and means the same for every executor.

What is guaranteed:

- Each task is delivered exactly once, or the run does not end as FINISHED; there can be no gap.
- Never more than the limit (workers x a small number) is under way, but for a while after workers were taken away. A
  task that lost its worker is submitted again at once, even above the limit, if a later task is under way: that one may
  be waiting for it. Results that nobody took yet are bounded as well: what was pulled is at most one reorder window
  ahead of what was delivered when the run is ordered, and otherwise at most twice the limit.
- After the end nothing is submitted or delivered, and whatever still arrives is ignored.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from tilework.exceptions import DeadlineExceededError, JobCancelledError, WorkerLostError
from tilework.executor.calling import stopped_iteration
from tilework.executor.mean_time import mean_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Bounds",
    "Cancelled",
    "Completed",
    "Deliver",
    "Event",
    "Failed",
    "Finish",
    "Instruction",
    "Lost",
    "Run",
    "RunState",
    "Submit",
    "Ticket",
    "Wait",
    "WorkersChanged",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


SHARE_SECONDS: Final = 1e-3
"""Work per worker that should be under way, where handing out more takes microseconds."""


class RunState(Enum):
    """Where a run stands. All states but the first are final."""

    RUNNING = "running"  # there are, or may be, tasks that have not been delivered
    FINISHED = "finished"  # every task was delivered
    FAILED = "failed"  # a task raised, was lost with its worker too often, or the tasks themselves could not be had
    CANCELLED = "cancelled"  # somebody asked for it
    EXPIRED = "expired"  # its deadline passed
    CLOSED = "closed"  # its consumer did not want more


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a run may be under way at a time.

    Parameters
    ----------
    workers
        How many tasks can run at the same time.
    prefetch
        Tickets per worker that are under way: one runs, the others wait so that the worker need not.
    prefetch_short
        The same for short tasks: while a worker's share of tickets is worth less than `share_seconds`, it may have
        up to this many.
    share_seconds
        Work per worker that should be under way: much longer than what it takes to hand out more.
    windows
        How many times the tickets under way a reorder window holds. A slow task stops the others when it is full.
    losses
        How often a task may lose its worker until the run is given up.
    deliver_first
        Whether a result is delivered before new tickets are submitted: where submitting takes long, or nothing would
        run meanwhile anyway.
    """

    workers: int
    prefetch: int = 2
    prefetch_short: int = 32
    windows: int = 4
    losses: int = 3
    deliver_first: bool = False
    share_seconds: float = SHARE_SECONDS

    def __post_init__(self) -> None:
        if self.workers < 0 or min(self.prefetch, self.windows, self.losses) < 1 or self.prefetch_short < self.prefetch:
            msg = f"bounds of a run must be positive, and prefetch_short at least prefetch: {self}"
            raise ValueError(msg)


_UNORDERED_WINDOWS: Final = 2
"""What of an unordered run may be under way or undelivered, in units of what may be under way."""

# Of `Ticket`, `Submit`, `Deliver`, `Wait` and `Completed` there is one for each task, or more. They are not frozen,
# which would take three times as long to make; nobody changes them.


@dataclass(slots=True)
class Ticket(Generic[T_co]):
    """One attempt at one task."""

    number: int
    """Unique within the run: an attempt that was given up is not mistaken for the next."""
    index: int
    """Position of the task in the run."""
    task: T_co


# ---- instructions ----


@dataclass(slots=True)
class Submit(Generic[T]):
    """Give this ticket to a worker."""

    ticket: Ticket[T]


@dataclass(slots=True)
class Deliver(Generic[T]):
    """Give this result to the consumer."""

    result: Any
    task: T


@dataclass(slots=True)
class Wait:
    """Wait for an event, or until a point in time; None is never."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over: stop what still runs, and raise the error when there is one."""

    error: BaseException | None


Instruction: TypeAlias = Submit[T] | Deliver[T] | Wait | Finish


# ---- events ----


@dataclass(slots=True)
class Completed:
    """A ticket's task returned."""

    number: int
    result: Any
    seconds: float
    """How long it took on its worker."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A ticket's task raised."""

    number: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class Lost:
    """A ticket's worker is gone."""

    number: int
    cause: str
    """How the worker ended, for people."""
    is_started: bool = True
    """Whether the task had begun, and so may be what killed the worker."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody cancelled the run."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkersChanged:
    """There are now more or fewer workers; none at all is allowed for a while."""

    workers: int


Event: TypeAlias = Completed | Failed | Lost | Cancelled | WorkersChanged

_END: Final = object()


class Run(Generic[T]):
    """What to do next for one run.

    Parameters
    ----------
    tasks
        Pulled one by one, when there is room for the next.
    bounds
        How much may be under way.
    ordered
        Whether results are delivered in task order instead of as they are completed.
    deadline
        The point in time (of the clock that the driver passes to `next`, in seconds) at which the run is over.
    name
        What the task of a ticket is called in messages, for example ``the task of partition (0, 10)``. It must be short
        whatever the task is.
    """

    def __init__(
        self,
        tasks: Iterable[T],
        bounds: Bounds,
        *,
        ordered: bool = False,
        deadline: float | None = None,
        name: Callable[[Ticket[T]], str] = lambda ticket: f"task {ticket.index}",
    ) -> None:
        self.state = RunState.RUNNING
        self.delivered = 0
        self.losses = 0
        self._tasks = iter(tasks)
        self._is_exhausted = False
        self._bounds = bounds
        self._workers = bounds.workers
        self._limit = bounds.workers * bounds.prefetch
        self._mean_seconds: float | None = None
        self._ordered = ordered
        self._windows = bounds.windows if ordered else _UNORDERED_WINDOWS
        self._deadline = deadline
        self._name = name
        self._error: BaseException | None = None

        self._n_tickets = 0
        self._n_pulled = 0
        self._under_way: dict[int, Ticket[T]] = {}  # by number
        self._again: deque[Ticket[T]] = deque()  # lost with their workers, to be submitted once more
        self._lost: dict[int, int] = {}  # how often, by index
        self._held: dict[int, tuple[Any, T]] = {}  # results that wait for an earlier task, by index
        self._next_index = 0  # of the next result in task order
        self._ready: deque[tuple[Any, T]] = deque()  # results to deliver now

    @property
    def limit(self) -> int:
        """How many tickets may be under way now."""
        return self._limit

    @property
    def n_under_way(self) -> int:
        """How many tickets are under way."""
        return len(self._under_way)

    @property
    def n_undelivered(self) -> int:
        """How many results are held here."""
        return len(self._held) + len(self._ready)

    # ---- instructions ----

    def next(self, now: float) -> Instruction[T]:
        """Return what to do now; the error of a run that is over is given once.

        Parameters
        ----------
        now
            The time, in seconds of the same clock as the deadline.
        """
        if self.state is RunState.RUNNING:
            if self._ready and self._bounds.deliver_first:
                return self._deliver()
            ticket = self._take_ticket(now)
            if ticket is not None:
                return Submit(ticket)
            if self._ready:
                return self._deliver()
        if self.state is RunState.RUNNING:
            if self._under_way or self._again or not self._is_exhausted:
                if not self._expire_if_due(now):
                    return Wait(self._deadline)
            else:
                # held is empty: what it held waited for a task that was pulled and neither delivered nor under way
                self._end(RunState.FINISHED, None)
        error, self._error = self._error, None
        return Finish(error)

    def _deliver(self) -> Deliver[T]:
        result, task = self._ready.popleft()
        self.delivered += 1
        return Deliver(result, task)

    def _take_ticket(self, now: float) -> Ticket[T] | None:
        """Return the next ticket when there is one, and room for it; ends the run when it cannot be had."""
        is_full = len(self._under_way) >= self._limit
        if self._again and (not is_full or self._is_awaited()):
            lost = min(self._again, key=attrgetter("index"))
            self._again.remove(lost)
            index, task = lost.index, lost.task
        else:
            if is_full or self._is_exhausted:
                return None
            if self._n_pulled - self.delivered >= self._limit * self._windows:
                return None
            pulled = self._pull()
            if pulled is _END:
                return None
            index, task = self._n_pulled, pulled
            self._n_pulled += 1
        # after pulling, because a run whose last task was delivered in time is not late
        if self._expire_if_due(now):
            return None
        ticket = Ticket(self._n_tickets, index, task)
        self._n_tickets += 1
        self._under_way[ticket.number] = ticket
        return ticket

    def _is_awaited(self) -> bool:
        """Return whether something is under way that comes after a ticket which has lost its worker."""
        last = max((each.index for each in self._under_way.values()), default=-1)
        return bool(self._limit) and any(lost.index < last for lost in self._again)

    def _pull(self) -> Any:
        try:
            task = next(self._tasks, _END)
        except Exception as error:  # noqa: BLE001  (the driver raises it)
            self._end(RunState.FAILED, error)
            return _END
        if task is _END:
            self._is_exhausted = True
        return task

    def _expire_if_due(self, now: float) -> bool:
        """End the run if its deadline has passed; returns whether it did."""
        if self._deadline is None or now < self._deadline:
            return False
        msg = f"the run took longer than the time it was given; {self.delivered} of its tasks were done"
        self._end(RunState.EXPIRED, DeadlineExceededError(msg))
        return True

    def _end(self, state: RunState, error: BaseException | None) -> None:
        self.state = state
        self._error = error
        self._tasks = iter(())
        for container in (self._under_way, self._again, self._held, self._ready):
            container.clear()

    # ---- events ----

    def handle(self, event: Event) -> None:
        """Take note of what happened. Events of a run that is over, or of a ticket that was given up, are ignored."""
        if self.state is not RunState.RUNNING:
            return
        if isinstance(event, Completed):
            self._on_completed(event)
        elif isinstance(event, Failed):
            if event.number in self._under_way:
                self._end(RunState.FAILED, self._as_error(event))
        elif isinstance(event, Lost):
            self._on_lost(event)
        elif isinstance(event, Cancelled):
            self._end(RunState.CANCELLED, JobCancelledError(event.reason))
        else:
            self._workers = event.workers
            self._set_limit()

    def _as_error(self, event: Failed) -> BaseException:
        if not isinstance(event.error, StopIteration):
            return event.error
        return stopped_iteration(self._name(self._under_way[event.number]), event.error)

    def close(self) -> None:
        """End the run because its consumer wants no more; nothing when it is over already."""
        if self.state is RunState.RUNNING:
            self._end(RunState.CLOSED, None)

    def _on_completed(self, event: Completed) -> None:
        ticket = self._under_way.pop(event.number, None)
        if ticket is None:
            return
        self._mean_seconds = mean_time(self._mean_seconds, event.seconds)
        self._set_limit()
        item = (event.result, ticket.task)
        if not self._ordered:
            self._ready.append(item)
        elif ticket.index != self._next_index:
            self._held[ticket.index] = item
        else:
            self._ready.append(item)
            self._next_index += 1
            while self._next_index in self._held:
                self._ready.append(self._held.pop(self._next_index))
                self._next_index += 1

    def _on_lost(self, event: Lost) -> None:
        ticket = self._under_way.pop(event.number, None)
        if ticket is None:
            return
        self.losses += 1
        times = self._lost[ticket.index] = self._lost.get(ticket.index, 0) + event.is_started
        if times < self._bounds.losses:
            self._again.append(ticket)
            return
        msg = (
            f"{self._name(ticket)} lost its worker {times} times, the last one so: {event.cause}. Either it kills its "
            f"worker (memory, a crash in a library), or something outside does"
        )
        self._end(RunState.FAILED, WorkerLostError(msg))

    def _set_limit(self) -> None:
        bounds = self._bounds
        each = bounds.prefetch
        if self._mean_seconds is not None and bounds.prefetch_short > each:
            short = bounds.prefetch_short
            share = bounds.share_seconds
            fitting = short if self._mean_seconds * short <= share else int(share / self._mean_seconds)
            each = max(each, min(short, fitting))
        self._limit = self._workers * each
