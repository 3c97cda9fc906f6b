"""What runs in a Dask worker for a run whose client can reach it: one Dask task, and batches that come to it straight.

::

      main side                          worker process
    ┌─────────────┐   Dask task       ┌─────────────────────────────────────────────────┐
    │ Seating     ├──────────────────►│ sit          task thread: does what is fed, as   │
    │             │                   │   ▲          long as more comes and nobody waits │
    │             │                   │   │                                              │
    │             │                   │ Table        batches that wait for a thread      │
    │             │   a message       │   ▲                                              │
    │             │──────────────────►│ feed         event loop: answers when the batch  │
    │             │◄──────────────────┤              is done                             │
    └─────────────┘   BatchReport     └─────────────────────────────────────────────────┘

A Dask task costs some milliseconds of the client, the scheduler and the worker, and takes as long again to arrive, and
its result another few. A message costs a tenth of that. So a seat is what Dask knows of: it has a place among the
tasks of all others, with priority, resources and a name. It gives its thread up as soon as another task is ready there,
after the batches that it has; then its run needs another seat, behind that one. After the end of its run it stays for a
moment, for the next run of that name.

Who owns what: the `Table` is one for each process, and locked here; it decides, and what is here does it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tilework.executor.dask.orphans import is_released
from tilework.executor.dask.table import FIRST_SECONDS, Fed, Table
from tilework.executor.dask.worker import BatchReport, has_ended, run_batch, stop_run, take_back

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.executor.dask.sealed import SharedSealed
    from tilework.executor.dask.table import Feed

__all__ = ["close_seats", "end_run", "feed", "recall", "sit"]

POLL_SECONDS: Final = 0.005
"""How often a seat looks whether somebody wants its thread."""

_table: Final = Table()
_changed: Final = threading.Condition()
"""Locks the table; is told of what is new there."""


def _refuse(batches: Iterable[Fed]) -> None:
    for fed in batches:
        fed.tell(None)


# ---- messages: in the worker's event loop ----


async def feed(order: Feed, dask_worker: Any = None) -> BatchReport | None:
    """Do a batch when a seat of its run has time; returns what became of it. None: nobody will, it needs a new seat."""
    batch = order.batch
    items = None if order.items_key is None else dask_worker.data.get(order.items_key)
    if order.items_key is not None and items is None:
        with _changed:
            _table.expect_no_more(batch.ident)
        return None
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[BatchReport | None] = loop.create_future()

    def set_answer(report: BatchReport | None) -> None:
        if not answer.done():
            answer.set_result(report)

    def tell(report: BatchReport | None) -> None:
        try:
            loop.call_soon_threadsafe(set_answer, report)
        except RuntimeError:  # the worker ends, and its event loop with it
            return

    with _changed:
        refused = _table.give_up(order.gone)
        if has_ended(batch.run):
            answer.set_result(BatchReport((), batch.numbers))
        elif not _table.accept(Fed(order, items, tell), others_wait=_others_wait(dask_worker)):
            answer.set_result(None)
        _changed.notify_all()
    _refuse(refused)
    return await answer


def end_run(run: str, seats: frozenset[str] = frozenset()) -> list[str]:
    """End a run: its tasks stop at their next tile, and these seats are given up; returns the batches that run."""
    running = stop_run(run, "the run has ended")
    with _changed:
        refused = _table.forget(run) + _table.give_up(seats)
        _changed.notify_all()
    _refuse(refused)
    return running


def recall(ident: str) -> BatchReport | None:
    """Take back what a batch has not begun, with the outcomes so far; None: all of it, it is not here yet."""
    with _changed:
        fed = _table.take_back(ident)
        _table.expect_no_more(ident)
    if fed is None:
        return take_back(ident)
    report = BatchReport((), fed.order.batch.numbers)
    fed.tell(report)
    return report


def close_seats(seats: frozenset[str]) -> None:
    """Give these seats up: Dask has done so, or there is no more work for them."""
    with _changed:
        refused = _table.give_up(seats)
        _changed.notify_all()
    _refuse(refused)


# ---- seats: in task threads ----


def sit(seat: str, run: str, priority: int, content: str | None, params: SharedSealed | None = None) -> None:
    """Do the batches that runs feed to this worker; called by Dask, in a thread of the worker.

    Parameters
    ----------
    seat
        Unique.
    run
        Names the run that has claimed it.
    priority
        As of Dask.
    content, params
        Parameters of tasks, and their name, when they are too large to travel with a batch.
    """
    from distributed import get_worker

    worker = get_worker()
    here = _Seat(seat, priority, worker, worker.get_current_task())
    with _changed:
        if not _table.sit_down(seat, run, content, params):
            return
    patience = FIRST_SECONDS
    while (fed := here.next_batch(patience)) is not None:
        patience = 0.0
        with _changed:
            known = _table.params_of(fed.order)
        if fed.order.content is not None and known is None:
            fed.tell(None)  # dropped meanwhile: it comes again, with its parameters
            continue
        report = run_batch(fed.order.batch, known, fed.items)
        fed.tell(report)
        del fed, report, known


@dataclass(frozen=True, slots=True)
class _Seat:
    """A Dask task that occupies a thread of this worker for one run, and is fed with its batches."""

    name: str
    priority: int
    worker: Any
    key: str
    """Of the Dask task."""

    def next_batch(self, patience: float) -> Fed | None:
        """Wait for the next batch, for some time (s) even while others wait; None: the seat is given up."""
        begin = time.monotonic()
        with _changed:
            while True:
                found = _table.look(
                    self.name,
                    self.priority,
                    time.monotonic() - begin,
                    patience,
                    is_over=is_released(self.worker, self.key),
                    others_wait=_others_wait(self.worker),
                )
                if found is not None:
                    break
                _changed.wait(POLL_SECONDS)
        if isinstance(found, Fed):
            return found
        _refuse(found.refused)
        return None


def _others_wait(worker: Any) -> bool:
    """Return whether a task is ready that a thread of this worker could do."""
    state = worker.state
    return bool(len(state.ready) or len(state.constrained))
