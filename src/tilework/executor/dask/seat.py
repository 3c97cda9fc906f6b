"""What runs in a Dask worker for a run whose client can reach it: one Dask task, and batches that come to it straight.

::

      main side                          worker process
    ┌─────────────┐   Dask task       ┌─────────────────────────────────────────────────┐
    │ Seating     ├──────────────────►│ sit          task thread: does what is fed, as   │
    │             │                   │   ▲          long as more comes and nobody waits │
    │             │                   │   │                                              │
    │             │                   │ _Table       batches that wait for a thread      │
    │             │   a message       │   ▲                                              │
    │             │──────────────────►│ feed         event loop: answers when the batch  │
    │             │◄──────────────────┤              is done                             │
    └─────────────┘   BatchReport     └─────────────────────────────────────────────────┘

A Dask task costs some milliseconds of the client, the scheduler and the worker, and takes as long again to arrive, and
its result another few. A message costs a tenth of that. So a seat is what Dask knows of: it has a place among the
tasks of all others, with priority, resources and a name. It gives its thread up as soon as another task is ready there,
after the batches that it has; then its run needs another seat, behind that one.

Who owns what: the table is one for each process, and locked. A batch that was fed belongs to whoever takes it from the
queue: a seat, or who refuses it. It is answered exactly once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tilework.executor.dask.orphans import is_released
from tilework.executor.dask.worker import BatchReport, has_ended, run_batch, stop_run, take_back

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.executor.dask.sealed import Sealed, SharedSealed
    from tilework.executor.dask.worker import Batch

__all__ = ["Feed", "close_seats", "feed", "leave", "sit"]

LINGER_SECONDS: Final = 1.0
"""How long a seat without work keeps its thread, when nobody else wants it."""

FIRST_SECONDS: Final = 0.02
"""How long it waits for its first batch, which is on its way: else two runs could chase each other away."""

POLL_SECONDS: Final = 0.005
"""How often it looks whether somebody wants it."""

_REMEMBERED: Final = 4096
"""How many seats that were given up are remembered."""

_KEPT_RUNS: Final = 16
"""Of how many runs parameters are kept; those of a run are dropped with its end, unless nobody tells of that."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A batch, and what it needs: the argument of `feed`."""

    batch: Batch
    seats: frozenset[str]
    """The seats of the run at this worker: which are there, or on their way."""
    priority: int
    """As of Dask: the higher number goes first."""
    content: str | None
    """Names the parameters of the tasks; None: there are none."""
    params: SharedSealed | None = None
    """The parameters, unless they have been here before, or come with the seats."""
    items_key: str | None = None
    """Where Dask holds the items, if they do not come along."""


@dataclass(eq=False)
class _Fed:
    """A batch that waits."""

    order: Feed
    items: Sealed | None
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[BatchReport | None]

    def tell(self, report: BatchReport | None) -> None:
        """Answer it; from any thread."""
        try:
            self.loop.call_soon_threadsafe(self._set, report)
        except RuntimeError:  # the worker ends, and its event loop with it
            return

    def _set(self, report: BatchReport | None) -> None:
        if not self.answer.done():
            self.answer.set_result(report)


@dataclass(eq=False)
class _Table:
    """The seats and batches of this process."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: dict[str, deque[_Fed]] = field(default_factory=dict)  # by run
    taken: set[str] = field(default_factory=set)  # seats that sit
    given_up: OrderedDict[str, None] = field(default_factory=OrderedDict)
    contents: OrderedDict[str, dict[str, SharedSealed]] = field(default_factory=OrderedDict)  # by run

    # Everything here is called with the lock held.

    def give_up(self, seats: Iterable[str]) -> list[_Fed]:
        """Take note that these seats are no more; returns what waited for nobody else."""
        for seat in seats:
            self.taken.discard(seat)
            self.given_up[seat] = None
        while len(self.given_up) > _REMEMBERED:
            self.given_up.popitem(last=False)
        refused: list[_Fed] = []
        for run, queue in list(self.waiting.items()):
            gone = [fed for fed in queue if self.is_hopeless(fed.order.seats)]
            refused += gone
            kept = deque(fed for fed in queue if fed not in gone)
            if kept:
                self.waiting[run] = kept
            else:
                del self.waiting[run]
        return refused

    def take(self, run: str, seat: str) -> _Fed | None:
        """Take the next batch that is for this seat; one that came later may be for its successor only."""
        queue = self.waiting.get(run, ())
        fed = next((fed for fed in queue if seat in fed.order.seats), None)
        if fed is not None:
            self._remove(fed)
        return fed

    def is_outranked(self, priority: int) -> bool:
        """Return whether something waits that goes before this, and for a seat that is about to come."""
        return any(
            fed.order.priority > priority and fed.order.seats.isdisjoint(self.taken)
            for queue in self.waiting.values()
            for fed in queue
        )

    def take_back(self, ident: str) -> BatchReport | None:
        """Take a batch back that waits; None when it does not."""
        for queue in self.waiting.values():
            for fed in queue:
                if fed.order.batch.ident == ident:
                    self._remove(fed)
                    report = BatchReport((), fed.order.batch.numbers)
                    fed.tell(report)
                    return report
        return None

    def _remove(self, fed: _Fed) -> None:
        run = fed.order.batch.run
        self.waiting[run].remove(fed)
        if not self.waiting[run]:
            del self.waiting[run]

    def is_hopeless(self, seats: frozenset[str]) -> bool:
        """Return whether none of these seats will ever sit."""
        return all(seat in self.given_up for seat in seats)

    def keep(self, run: str, content: str, params: SharedSealed) -> None:
        """Keep parameters; the first that come are those that stay, with what was made of them."""
        self.contents.setdefault(run, {}).setdefault(content, params)
        self.contents.move_to_end(run)
        while len(self.contents) > _KEPT_RUNS:
            self.contents.popitem(last=False)

    def params_of(self, order: Feed) -> SharedSealed | None:
        return None if order.content is None else self.contents.get(order.batch.run, {}).get(order.content)

    def forget(self, run: str) -> list[_Fed]:
        """Forget a run; returns what waited."""
        self.contents.pop(run, None)
        return list(self.waiting.pop(run, ()))


_table: Final = _Table()


def _refuse(batches: Iterable[_Fed]) -> None:
    for fed in batches:
        fed.tell(None)


# ---- messages: in the worker's event loop ----


async def feed(order: Feed, dask_worker: Any = None) -> BatchReport | None:
    """Do a batch when a seat of its run has time; returns what became of it. None: nobody will, it needs a new seat."""
    batch = order.batch
    loop = asyncio.get_running_loop()
    items = None if order.items_key is None else dask_worker.data.get(order.items_key)
    if order.items_key is not None and items is None:
        return None
    fed = _Fed(order, items, loop, loop.create_future())
    with _table.changed:
        if has_ended(batch.run):
            return BatchReport((), batch.numbers)
        is_sitting = not order.seats.isdisjoint(_table.taken)
        if _table.is_hopeless(order.seats) or (is_sitting and _others_wait(dask_worker)):
            return None
        if order.content is not None and order.params is not None:
            _table.keep(batch.run, order.content, order.params)
        _table.waiting.setdefault(batch.run, deque()).append(fed)
        _table.changed.notify_all()
    return await fed.answer


def leave(run: str) -> list[str]:
    """End a run: its tasks stop at their next tile, its seats are given up; returns the batches that are running."""
    running = stop_run(run, "the run has ended")
    with _table.changed:
        gone = _table.forget(run)
        _table.changed.notify_all()
    _refuse(gone)
    return running


def recall(ident: str) -> BatchReport | None:
    """Take back what a batch has not begun, with the outcomes so far; None: all of it, it is not here yet."""
    with _table.changed:
        report = _table.take_back(ident)
    return take_back(ident) if report is None else report


def close_seats(seats: frozenset[str]) -> None:
    """Do not expect these seats any more: Dask has given them up."""
    with _table.changed:
        refused = _table.give_up(seats)
    _refuse(refused)


# ---- seats: in task threads ----


def sit(seat: str, run: str, priority: int, content: str | None, params: SharedSealed | None = None) -> None:
    """Do the batches that a run feeds to this worker; called by Dask, in a thread of the worker.

    Parameters
    ----------
    seat
        Unique.
    run
        Names the run.
    priority
        As of Dask.
    content, params
        Parameters of tasks, and their name, when they are too large to travel with a batch.
    """
    from distributed import get_worker

    worker = get_worker()
    here = _Seat(seat, run, priority, worker, worker.get_current_task())
    with _table.changed:
        if seat in _table.given_up:
            return
        _table.taken.add(seat)
        if content is not None and params is not None:
            _table.keep(run, content, params)
    patience = FIRST_SECONDS
    while (fed := here.next_batch(patience)) is not None:
        patience = 0.0
        with _table.changed:
            known = _table.params_of(fed.order)
        if fed.order.content is not None and known is None:
            fed.tell(None)  # dropped meanwhile: it comes again, with its parameters
            continue
        report = run_batch(fed.order.batch, known, fed.items)
        fed.tell(report)
        del fed, report, known


@dataclass(frozen=True, slots=True)
class _Seat:
    """One that sits."""

    name: str
    run: str
    priority: int
    worker: Any
    key: str
    """Of the Dask task."""

    def is_over(self) -> bool:
        """Return whether the run has ended, or the program that it belongs to is gone."""
        return has_ended(self.run) or is_released(self.worker, self.key)

    def next_batch(self, patience: float) -> _Fed | None:
        """Wait for the next batch, for some time (s) even while others wait; None: the seat is given up."""
        begin = time.monotonic()
        with _table.changed:
            while True:
                is_over = self.is_over()
                is_outranked = _table.is_outranked(self.priority)
                fed = None if is_over or is_outranked else _table.take(self.run, self.name)
                if fed is not None:
                    return fed
                waited = time.monotonic() - begin
                is_late = waited >= LINGER_SECONDS
                if is_over or is_outranked or is_late or (waited >= patience and _others_wait(self.worker)):
                    refused = _table.give_up((self.name,))
                    if is_over or is_late:
                        refused += _table.forget(self.run)
                    break
                _table.changed.wait(POLL_SECONDS)
        _refuse(refused)
        return None


def _others_wait(worker: Any) -> bool:
    """Return whether a task is ready that a thread of this worker could do."""
    state = worker.state
    return bool(len(state.ready) or len(state.constrained))
