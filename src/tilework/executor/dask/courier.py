"""Carries batches of tickets to Dask workers and brings back what became of them: I/O without decisions.

::

      consumers' threads (one for each run)         the Dask client's event loop             scheduler and workers
    ┌─────────────────────────────────┐     ┌──────────────────────────────────────┐
    │ drive ── DaskBackend.submit ────┼──►  │ Shipment.incoming ─► Dispatch (decides)│
    │   ▲                             │     │      Send ─► Carriage: one coroutine ─┼──► Dask task, or message to a seat
    │   └───── DaskBackend.wait ◄─ inbox ◄──┼──────── (or Seating) for each batch ◄─┼─── BatchReport
    │                                 │     │      Recall, end of a run ────────────┼──► client.run: recall, end_run
    └─────────────────────────────────┘     │ Roster: who came, who left ◄──────────┼─── events of the scheduler
                                            └──────────────────────────────────────┘

Who owns what: everything of the courier belongs to the event loop's thread, and so nothing is locked. A consumer
touches two things only: it appends tickets to its shipment, and reads its inbox.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ExecutorError, WorkerLostError
from tilework.executor.dask.carriage import Carriage
from tilework.executor.dask.demand import ask_for_worker
from tilework.executor.dask.dispatch import Dispatch, Send
from tilework.executor.dask.seat import end_run, recall
from tilework.executor.dask.worker import note_missing
from tilework.executor.remote import loads, unpack_error
from tilework.executor.run import Failed, Lost, WorkersChanged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tilework.executor.dask.lanes import Sent, Station
    from tilework.executor.dask.shipment import Shipment
    from tilework.executor.dask.worker import BatchReport

__all__ = ["NO_WORKER_SECONDS", "Courier"]

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.02

NO_WORKER_SECONDS: Final = 30.0
"""How long a run waits for a worker that can do its tasks, when there was one at its beginning."""

HOST_SECONDS: Final = 5.0
"""How long tasks wait for a new worker on the host that has their data, when it lost its last one."""

CLOSE_SECONDS: Final = 2.0
"""How long the end of an executor waits for its running tasks."""


class Courier:
    """The batches of all runs of one executor.

    Parameters
    ----------
    client
        The Dask client; its event loop runs in another thread.
    describe_loss
        Coroutine that says how a worker ended, for people.
    """

    def __init__(self, client: Any, describe_loss: Callable[[Station], Awaitable[str]]) -> None:
        self.client = client
        # One for all executors of a client: Dask forgets no topic, on either side. The runs have names of their own.
        self.topic = f"tilework-{client.id}"
        self.dispatch = Dispatch()
        self._describe_loss = describe_loss
        self._shipments: dict[str, Shipment] = {}
        self._carriers: dict[str, asyncio.Task[None]] = {}  # by the batch's ident
        self._recalls: dict[str, asyncio.Task[None]] = {}  # the same
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._demand: Any = None  # held while all wait for a first worker
        self.carriage = Carriage(client, self.topic, self._on_seat_failure)
        self._is_closed = False
        self.loop_thread = 0

    # ---- for consumers, from any thread ----

    def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
        """Call a function in the event loop; ExecutorError when there is none any more."""
        self.check_alive()
        self.client.loop.add_callback(fn, *args)

    def check_alive(self) -> None:
        """Raise ExecutorError when the client's owner has closed it, and its event loop with it: nothing can arrive."""
        if self.client.loop.asyncio_loop.is_closed():  # which `add_callback` ignores
            msg = "the Dask client was closed, and its event loop has ended: make a new executor"
            raise ExecutorError(msg)

    def has_closed(self) -> bool:
        """Return whether nothing is carried any more."""
        return self._is_closed

    def announce(self, shipment: Shipment) -> None:
        """Let the courier collect what is new in a shipment."""
        if not shipment.is_announced:
            shipment.is_announced = True
            self.call_soon(self._collect, shipment)

    # ---- tickets ----

    def _collect(self, shipment: Shipment) -> None:
        shipment.is_announced = False
        lane = shipment.lane
        if self._is_closed:
            shipment.incoming.clear()
            return
        self._shipments[lane.run] = shipment
        while shipment.incoming:
            ticket = shipment.incoming.popleft()
            if lane.is_over:
                continue
            try:
                need = shipment.need_of(ticket)
            except Exception as error:  # noqa: BLE001  (users' code runs in there)
                shipment.post(Failed(ticket.number, error))
                continue
            self.dispatch.put(lane, need, (ticket,))
        self._pump()

    def _pump(self) -> None:
        """Do what is to be done now, and look again later if time alone can make a difference."""
        if self._is_closed:
            return
        while (action := self.dispatch.next(time.monotonic())) is not None:
            if isinstance(action, Send):
                sent = action.sent
                self._carriers[sent.ident] = self._spawn(self._carry(sent, self._shipments[sent.lane.run]))
            else:
                self._recalls[action.sent.ident] = self._spawn(self._recall(action.sent))
        self._look_after_the_stranded()
        if self._timer is None and (self.dispatch.is_restless() or self.dispatch.stranded()):
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._pump()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---- batches ----

    async def _carry(self, sent: Sent, shipment: Shipment) -> None:
        """Take one batch to its worker, and bring back what became of it."""
        try:
            report = await self.carriage.run_batch(sent, shipment)
        except asyncio.CancelledError:
            if sent.ident not in self._carriers or self._is_closed:
                return  # the worker is gone, or the run is over
            # Dask fetches several results at a time: the transfer was broken off with that from a worker that is gone.
            self.dispatch.put_back(sent, list(sent.tickets))
        except (concurrent.futures.CancelledError, OSError) as error:
            await asyncio.sleep(TICK_SECONDS)  # in most cases the worker is gone, and that is told at any moment
            self._on_returned(sent, shipment, error)
        except Exception as error:  # noqa: BLE001  (the run decides)
            number = next(iter(sent.tickets), -1)
            if isinstance(error, ImportError):  # there: what travels is pickled here, which imports nothing
                note_missing(error, sent.station.worker.name, sent.station.address)
            shipment.post(Failed(number, self._explain(error) or error))
        else:
            self._receive(sent, shipment, report)
            if sent.ident in self._recalls:
                await asyncio.wait({self._recalls[sent.ident]})  # what is missing here may be in that answer
            self.dispatch.put_back(sent, list(sent.tickets))
        finally:
            if self._carriers.pop(sent.ident, None) is not None:
                self.dispatch.done(sent, time.monotonic())
        self._check_ended(shipment)
        self._pump()

    def _receive(self, sent: Sent, shipment: Shipment, report: BatchReport) -> None:
        if report.outcomes:
            sent.station.prove()
            shipment.note_progress()
        for outcome in report.outcomes:
            sent.tickets.pop(outcome.number, None)
            if outcome.error is not None:
                shipment.post(Failed(outcome.number, unpack_error(outcome.error)))
            else:
                sent.lane.learn(outcome.seconds)
                shipment.post(outcome)
        self.dispatch.put_back(sent, report.unbegun)

    def _explain(self, error: object) -> ExecutorError | None:
        """Return what is behind an error when it is not the error itself."""
        status = self.client.status
        if status == "running":
            return None
        # A client that cannot connect again closes itself.
        closed = "the Dask client was closed, or " if status in {"closing", "closed"} else ""
        msg = f"{closed}the connection to the Dask scheduler was lost ({error}): make a new executor when it is back"
        return ExecutorError(msg)

    def _on_returned(self, sent: Sent, shipment: Shipment, error: BaseException) -> None:
        """Dask gave a batch up: a connection broke, its parameters are lost, or somebody restarted the cluster."""
        number = next(iter(sent.tickets), -1)
        if (explained := self._explain(error)) is not None:
            shipment.post(Failed(number, explained))
            return
        shipment.count_return()
        try:
            shipment.check_returns(repr(error))
        except ExecutorError as too_often:
            shipment.post(Failed(number, too_often))
            return
        self.dispatch.put_back(sent, list(sent.tickets))

    async def _recall(self, sent: Sent) -> None:
        """Ask a worker for what it has not begun of a batch."""
        shipment = self._shipments.get(sent.lane.run)  # None: the run has ended since this was planned
        try:
            if shipment is None:
                return
            answers = await self.client.run(recall, sent.ident, workers=[sent.station.address], asynchronous=True)
            report: BatchReport | None = answers[sent.station.address]
            if report is not None:
                await self.carriage.messages_of(sent, report)
        except Exception as error:  # noqa: BLE001  (the worker is about to go; then the batch is lost, and told so)
            log.debug("could not recall %s: %r", sent.ident, error)
            return
        finally:
            self._recalls.pop(sent.ident, None)
            sent.is_being_recalled = False
            sent.was_recalled = True
        if sent.ident not in self._carriers:
            return
        if report is None or (not report.outcomes and len(report.unbegun) == len(sent.tickets)):
            self.dispatch.note_unbegun(sent, time.monotonic())
        if report is None:
            self._forget(sent)
            if sent.ident not in self._carriers:
                self.dispatch.put_back(sent, list(sent.tickets))
        else:
            self._receive(sent, shipment, report)
        self._pump()

    def _on_seat_failure(self, run: str) -> None:
        shipment = self._shipments.get(run)
        if shipment is not None:
            shipment.count_return()

    def _forget(self, sent: Sent) -> None:
        """Give up a batch that has not begun: nobody waits for it any more."""
        if sent.is_arriving:
            return  # it comes by itself, at once; a transfer that is broken off leaves errors in the log of its worker
        carrier = self._carriers.pop(sent.ident, None)
        if carrier is not None:
            self.dispatch.done(sent, time.monotonic())
            carrier.cancel()

    # ---- the end of a run ----

    def end(self, shipment: Shipment) -> None:
        """Drop what waits, and stop what runs; sets ``shipment.ended`` when nothing runs any more."""
        shipment.incoming.clear()
        sent = self.dispatch.drop(shipment.lane)
        seated, seats = self.carriage.seating.end(shipment.lane.run)
        if self.client.status != "running":  # nobody can be reached any more
            for each in sent:
                each.is_arriving = False
                self._forget(each)
        self._check_ended(shipment)
        if shipment.lane.sent:
            self._spawn(self._stop(shipment, sent, seated, seats))
        else:
            self.carriage.seating.tell_end(shipment.lane.run, seated, seats)

    async def _stop(self, shipment: Shipment, sent: list[Sent], seated: set[str], seats: frozenset[str]) -> None:
        addresses = {s.station.address for s in sent} | (seated & set(self.dispatch.stations))
        answers: dict[str, Any] = {}
        try:
            answers = await self.client.run(
                end_run,
                shipment.lane.run,
                seats,
                workers=list(addresses),
                on_error="ignore",
                asynchronous=True,
            )
        except Exception as error:  # noqa: BLE001  (what cannot be told to stop is left behind, with a warning)
            log.debug("could not stop a run: %r", error)
        running = {ident for idents in answers.values() for ident in idents}
        for each in sent:
            if each.ident not in running and each.station.address in answers:
                self._forget(each)
        self._check_ended(shipment)
        self._pump()

    def _check_ended(self, shipment: Shipment) -> None:
        lane = shipment.lane
        if lane.is_over and not lane.sent:
            self._shipments.pop(lane.run, None)
            shipment.ended.set()

    # ---- workers that come and go ----

    def join(self, station: Station) -> None:
        """Take note of a new worker."""
        self.dispatch.join(station)
        self._tell_concurrency()
        self._pump()

    def leave(self, address: str, *, is_expected: bool = False) -> None:
        """Take note that a worker is gone, with all that it had; `is_expected`: somebody has asked it to leave."""
        station = self.dispatch.stations.get(address)
        lost = self.dispatch.leave(address)
        if station is None:
            return
        host = station.worker.host
        self.carriage.lose(station)
        asyncio.get_running_loop().call_later(HOST_SECONDS, self._give_up_host, host)
        for sent in lost:
            carrier = self._carriers.pop(sent.ident, None)
            if carrier is not None:
                carrier.cancel()
            if not is_expected:
                sent.lane.suspects.update(ticket.index for ticket in sent.tickets.values())
        self._spawn(self._tell_lost(station, lost, may_be_cause=not is_expected))

    async def _tell_lost(self, station: Station, lost: list[Sent], *, may_be_cause: bool) -> None:
        cause = await self._describe_loss(station)
        for sent in lost:
            shipment = self._shipments.get(sent.lane.run)
            if shipment is None:
                continue
            # Any of them may have begun: what became of those before them may have been on its way when it was lost.
            for number in sent.tickets:
                shipment.post(Lost(number, cause, may_be_cause))
            self._check_ended(shipment)
        self._tell_concurrency()
        self._pump()

    def _tell_concurrency(self) -> None:
        # Never none: what is under way is what waits for a worker to come, and that wait is bounded.
        event = WorkersChanged(max(1, self.dispatch.concurrency()))
        for shipment in self._shipments.values():
            shipment.post(event)

    def _give_up_host(self, host: str) -> None:
        self.dispatch.give_up_host(host)
        self._pump()

    def _look_after_the_stranded(self) -> None:
        """End the runs that have waited too long for somebody who can do their tasks."""
        stranded = {lane.run: need for lane, need in self.dispatch.stranded()}
        if not stranded or self.dispatch.stations or self.client.status != "running":
            self._demand = None
        elif self._demand is None:
            self._demand = ask_for_worker(self.client)
        now = time.monotonic()
        for run, shipment in list(self._shipments.items()):
            need = stranded.get(run)
            if need is None:
                shipment.stranded_since = None
                continue
            if shipment.stranded_since is None:
                shipment.stranded_since = now
            waited = now - shipment.stranded_since
            if need.addresses is None and waited < NO_WORKER_SECONDS and self.client.status != "closed":
                continue
            shipment.stranded_since = None
            ticket = next(queue for each, queue in shipment.lane.waiting() if each == need).popleft()
            who = "the one it was meant for" if need.addresses is not None else f"one with {dict(need.resources)}"
            msg = (
                f"the worker for {shipment.name_of(ticket.task)} is gone: {who} has not come back within "
                f"{waited:.0f} s; {len(self.dispatch.stations)} workers are left"
            )
            shipment.post(Failed(ticket.number, self._explain(msg) or WorkerLostError(msg)))

    # ---- messages of tasks ----

    def on_message(self, message: dict[str, Any]) -> None:
        """Pass the message of a task on to the subscribers of its run."""
        shipment = self._shipments.get(message["run"])
        if shipment is not None and shipment.messages is not None:
            try:
                shipment.messages.put(loads(message["message"]))
            except Exception:
                log.exception("a message of a task could not be unpickled")
            sent = shipment.lane.sent.get(message["batch"])
            if sent is not None:
                sent.n_messages += 1

    async def close(self) -> None:
        """Stop what runs, and give everything up."""
        self._is_closed = True
        shipments = list(self._shipments.values())
        for shipment in shipments:
            self.end(shipment)
        until = time.monotonic() + CLOSE_SECONDS
        while any(not shipment.ended.is_set() for shipment in shipments) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await self.carriage.close(max(0.0, until - time.monotonic()))
        self._carriers.clear()
        self._demand = None
        for shipment in shipments:
            shipment.ended.set()
        self._shipments.clear()
