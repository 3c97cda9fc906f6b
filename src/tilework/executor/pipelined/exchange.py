"""What becomes of the tickets, answers, scattered objects and lost workers that the hub learns of.

Who does what: the hub says what was asked for and what has happened; what follows from it is done here, at once.
Nothing here waits, or reads. What is sent to workers gathers in their lines, and what runs get in `HubRun.outgoing`,
until the hub's turn ends with `release_wires` and `deliver`.

Who owns what: the runs, the stations and the roster belong to the hub thread. It alone calls this, with the hub locked,
except for what says otherwise.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import time
from typing import TYPE_CHECKING, Any, Final

from tilework.executor.pipelined import messages as say
from tilework.executor.pipelined.control import N_STOPS, stop_slot
from tilework.executor.pipelined.dispatch import Dispatch, Item, Station
from tilework.executor.pipelined.member import Member, MemberState
from tilework.executor.pipelined.messages import encode
from tilework.executor.pipelined.roster import Roster
from tilework.executor.pipelined.spec import describe_worker
from tilework.executor.pipelined.telling import log_safely
from tilework.executor.pipelined.wire import WireClosedError
from tilework.executor.run import Cancelled, Failed, Lost, WorkersChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilework.executor.pipelined.hub_run import HubRun
    from tilework.executor.pipelined.member import Launch
    from tilework.executor.pipelined.pool import WorkerPool
    from tilework.executor.pipelined.scattered import Base, Scattered
    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.pipelined.wire import Wire
    from tilework.executor.run import Event

__all__ = ["CLOSED", "Exchange"]

log = logging.getLogger(__name__)

CLOSED: Final = "the executor was closed"
"""Why a run is cancelled that its workers have left."""

_LOOK_SECONDS: Final = 0.5
"""How often to look for workers that begin nothing while others are idle. A worker takes some time to unpickle what
comes with the first ticket of a run; one that has begun nothing for longer than this was stopped."""

_ANSWERS: Final = (say.Done, say.Failed, say.Skipped)


class Exchange:
    """Runs, workers, and what is on its way between them.

    Parameters
    ----------
    pool
        The workers.
    watch
        Called with each worker that there is, or will be: what it says is to be given to `take`, and its end to `lose`.
    on_change
        Called when a worker has got further in its start, or is lost.
    on_loss
        Called when a worker is lost, with its name and how it ended.
    """

    def __init__(
        self,
        pool: WorkerPool,
        watch: Callable[[Member], None],
        on_change: Callable[[], None],
        on_loss: Callable[[str, str], None],
    ) -> None:
        self.pool = pool
        self.scattered: dict[str, Scattered] = {}
        """What workers are told when they are ready, by key; other threads add to it, and take out."""
        self._watch = watch
        self._on_change = on_change
        self._on_loss = on_loss
        self._is_closed = False
        self._numbers = itertools.count(1)
        self._runs: dict[int, HubRun] = {}
        self._ending: list[HubRun] = []  # runs that are over, but workers still have tickets of them
        self._stations: dict[Member, Station] = {}
        self._known: dict[Member, set[int]] = {}  # numbers of the runs that a worker was told of
        self._held: list[Wire] = []  # on which what is sent gathers until the end of this turn
        self._to_deliver: set[HubRun] = set()  # runs that have new answers
        self._look_at = 0.0  # when to look for workers that begin nothing
        self._dispatch = Dispatch(lambda station, serial: pool.page.revoke(station.owner.row, serial))
        self.roster = Roster(pool)
        for member in pool.members:
            self._adopt(member)

    # ---- turns of the hub ----

    def has_stock(self) -> bool:
        """Return whether all workers have enough for a while."""
        return self._dispatch.has_stock()

    def release_wires(self) -> None:
        """Send what has gathered in this turn."""
        while self._held:
            with contextlib.suppress(WireClosedError):
                self._held.pop().release()

    def deliver(self) -> None:
        """Give runs what has gathered for them."""
        while self._to_deliver:
            self._to_deliver.pop().deliver()

    def next_date(self) -> float:
        """Return when `keep_dates` has something to do next; infinity for never."""
        look_at = self._look_at if self._dispatch.is_uneven() else math.inf
        return min([self.roster.next_date(), look_at, *(run.end_by for run in self._ending)])

    def keep_dates(self) -> None:
        """Do what is due: with workers that are to start, that begin nothing, and with runs whose time is over."""
        now = time.monotonic()
        self.roster.keep_dates(now)
        if self._look_at <= now:
            self._look_at = now + _LOOK_SECONDS
            self._send(self._dispatch.relieve(lambda station: self.pool.page.begun(station.owner.row)))
        for run in [each for each in self._ending if each.end_by <= now]:
            for station in self._at_work(run):
                station.owner.end(
                    "its task did not stop after its run had ended, so it was killed; "
                    "a task should call env.raise_if_stopped() between tiles"
                )
            self._note_ended(run)

    # ---- runs ----

    def open_run(self, make: Callable[[int], HubRun]) -> HubRun:
        """Make a run known; its number is new. Called by any thread, without the lock."""
        taken = {stop_slot(number) for number in list(self._runs)}
        number = next(number for number in self._numbers if stop_slot(number) not in taken or len(taken) == N_STOPS)
        run = self._runs[number] = make(number)
        return run

    def put(self, items: list[Item]) -> None:
        """Give tickets to workers, now or when one has room."""
        wanted = []
        for item in items:
            if item.lane.is_over or self._is_closed:
                item.ticket.release()
            elif self._can_be_done(item):
                wanted.append(item)
            else:
                self._refuse(item)
        self._send(self._dispatch.put(wanted))

    def _can_be_done(self, item: Item) -> bool:
        """Return whether there is, or will be, a worker for a ticket."""
        for station in self._dispatch.stations:  # without a generator, as this is asked for each ticket
            if station.owner.state is not MemberState.RETIRING and station.fits(item):
                return True
        return any(Station(describe_worker(spec)).fits(item) for spec in self.roster.coming())

    def _refuse(self, item: Item) -> None:
        item.ticket.release()
        self._post(item.ticket.run, Failed(item.ticket.of_run.number, self.roster.no_worker(item.target)))

    def _refuse_what_waits(self) -> None:
        """End the runs that wait for workers which are not there any more, and will not come."""
        for item in self._dispatch.take_out(self._can_be_done):
            self._refuse(item)

    def end_run(self, run: HubRun) -> None:
        """Let no ticket of a run begin any more, and forget it when no worker has one."""
        for item in self._dispatch.drop(run.lane):
            item.ticket.release()
        self._ending.append(run)
        self._check_ending()

    def stop(self) -> None:
        """Let the tasks of all runs stop at their next tile. Called by any thread, without the lock."""
        for number in list(self._runs):
            self.pool.page.stop(number)

    def holder_of(self, item: Item) -> Member | None:
        """Return the worker that a ticket was sent to, unless it is gone. Called by any thread, with the lock."""
        member: Member | None = None if item.station is None else item.station.owner
        return member if member in self._stations else None

    def has_begun(self, item: Item) -> bool:
        """Return whether a worker has begun a ticket. Called by any thread, with the lock."""
        member = self.holder_of(item)
        return member is not None and item.serial <= self.pool.page.begun(member.row)

    def make_way(self, item: Item) -> None:
        """End the worker that keeps a ticket of a stream from being begun, if there is one.

        Data of a stream comes in the order of its tickets. When a worker was lost and no other takes its place, its
        ticket has to wait for a worker that itself waits for data of a later ticket, which would never come. That
        worker is ended, and both tickets are done again in their order.
        """
        if item.station is None:
            is_starting = any(member.state is MemberState.STARTING for member in self.pool.members)
            if item not in item.lane.items or self.roster.coming() or is_starting:
                return
        behind = self._dispatch.behind(item)
        if behind is not None:
            behind.owner.end("its task was to have data after another one that had lost its worker, and goes behind it")

    def send_after(self, item: Item, message: Any) -> None:
        """Send something after a ticket to the worker that has it, if any. Called by any thread, with the lock."""
        member = self.holder_of(item)
        if member is not None:
            self.tell(member, encode(message))

    @staticmethod
    def tell(member: Member, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send something to a worker, unless it is gone. Called by any thread, with the lock."""
        try:  # noqa: SIM105  (a context manager takes longer than sending)
            member.wire.send(message, descriptors)
        except WireClosedError:
            pass

    def _post(self, run: HubRun, event: Event) -> None:
        run.outgoing.append(event)
        self._to_deliver.add(run)

    def _check_ending(self) -> None:
        for run in list(self._ending):
            if not self._dispatch.has_sent(run.lane):
                self._forget_run(run)
            elif not self._at_work(run):
                self._note_ended(run)

    def _at_work(self, run: HubRun) -> list[Station]:
        begun = self.pool.page.begun
        return self._dispatch.at_work(run.lane, lambda station: begun(station.owner.row))

    @staticmethod
    def _note_ended(run: HubRun) -> None:
        """Let nobody wait for a run any more; what workers have of it, and have not begun, they will leave alone."""
        run.end_by = math.inf
        run.has_ended.set()

    def _forget_run(self, run: HubRun) -> None:
        self._ending.remove(run)
        self._runs.pop(run.number, None)
        run.release()
        self._note_ended(run)
        told = [member for member, known in self._known.items() if run.number in known]
        if told:  # else this may be the end of the interpreter, where nothing can be pickled any more
            message = encode(say.CloseRun(run.number))
            for member in told:
                self._known[member].discard(run.number)
                self.tell(member, message)

    def _send(self, items: list[Item]) -> None:
        for item in items:
            assert item.station is not None
            member: Member = item.station.owner
            run: HubRun = item.ticket.run
            # A worker that is gone is found by the selector; its tickets are lost then.
            with contextlib.suppress(WireClosedError):
                if member.wire not in self._held:
                    self._held.append(member.wire)
                    member.wire.hold()
                if run.number not in self._known[member]:
                    self._known[member].add(run.number)
                    run.introduce(member.wire)
                item.ticket.send(member, item.serial)

    # ---- scattered objects ----

    def scatter(self, obj: Scattered, before: Scattered | None) -> None:
        """Give an object to all workers, instead of what had its key before; not one that was dropped meanwhile."""
        if self.scattered.get(obj.key) is obj:
            for member in self._ready_members():
                self._introduce(member, obj)
        if before is not None:
            before.close()

    def patch(self, obj: Scattered, data: bytes) -> None:
        """Let all workers patch an object."""
        message = obj.tell(data)
        for member in self._ready_members():
            self.tell(member, message)

    def rebase(self, obj: Scattered, base: Base) -> None:
        """Give all workers an object as it is after all its patches, and forget these."""
        if obj.rebase(base):
            for member in self._ready_members():
                self._introduce(member, obj)

    def unscatter(self, obj: Scattered) -> None:
        """Let all workers forget an object."""
        for member in self._ready_members():
            self.tell(member, encode(say.Delete(obj.key)))
        obj.close()

    def _introduce(self, member: Member, obj: Scattered) -> None:
        for message, descriptors in obj.messages():
            self.tell(member, message, descriptors)

    def _ready_members(self) -> list[Member]:
        return [m for m in self.pool.members if m.state in {MemberState.READY, MemberState.RETIRING}]

    # ---- workers ----

    def _adopt(self, member: Member) -> None:
        station = self._stations[member] = Station(describe_worker(member.info.spec), member)
        self._known[member] = set()
        self._dispatch.add(station)
        self._watch(member)

    def resize(self, spec: list[WorkerSpec]) -> None:
        """Start and end workers until there are those of `spec`."""
        for member in self.roster.set_wanted(spec):
            self._retire(member)
        self._refuse_what_waits()
        for run in list(self._runs.values()):  # others may begin meanwhile
            self._post(run, WorkersChanged(len(spec)))

    def admit(self, launch: Launch) -> Member | None:
        """Take the news of a worker that was asked for; returns it when it is there, wanted or not."""
        member = self.roster.admit(launch)
        if member is not None:
            self._adopt(member)
            if not self.roster.is_wanted(member.name):  # any more
                self._retire(member)
        return member

    def _retire(self, member: Member) -> None:
        """Let a worker end that is too many: it finishes what it has begun, others do the rest."""
        was, member.state = member.state, MemberState.RETIRING
        if was is MemberState.READY:
            self._send(self._dispatch.retire(self._stations[member]))
        self.tell(member, encode(say.Shutdown()))

    def take(self, member: Member, message: Any, descriptors: tuple[int, ...]) -> None:
        """Take what a worker said."""
        if isinstance(message, _ANSWERS):
            self._take_answer(member, message, descriptors)
        elif isinstance(message, say.Signal):
            run = self._runs.get(message.run)
            if run is not None:
                run.take_signal(message.header)
        elif member.handle_startup(message, descriptors):
            if member.state is MemberState.READY:
                self.roster.note_ready(member)
                for obj in list(self.scattered.values()):
                    self._introduce(member, obj)
                self._send(self._dispatch.ready(self._stations[member]))
            self._on_change()
        else:
            log_safely(log, logging.ERROR, "worker %s sent something unknown: %r", member.name, message)

    def _take_answer(
        self, member: Member, message: say.Done | say.Failed | say.Skipped, descriptors: tuple[int, ...]
    ) -> None:
        station = self._stations[member]
        if station.is_stalled:
            self._send(self._dispatch.answered(station))
        item = next((each for each in station.items if each.serial == message.serial), None)
        if item is None:  # it was taken back before
            for fd in descriptors:
                os.close(fd)
        elif isinstance(message, say.Skipped):
            self._send(self._dispatch.skipped(station, item))
            if item.lane.is_over:
                item.ticket.release()
            elif not self._can_be_done(item):
                self._refuse_what_waits()
        else:
            if isinstance(message, say.Done):
                item.lane.note_seconds(message.seconds)
            # First the answer: it must not be lost when the next ticket cannot be sent.
            item.ticket.run.take_answer(item.ticket, member, message, descriptors)
            self._to_deliver.add(item.ticket.run)
            self._send(self._dispatch.completed(station, item))
        if self._ending:
            self._check_ending()

    def lose(self, member: Member) -> None:
        """Report what a worker had that has ended, and have it replaced; what it still said was taken before."""
        was = member.state
        begun = self.pool.page.begun(member.row)
        had = self._dispatch.lost(self._stations.pop(member))
        self._known.pop(member)
        cause = self.pool.remove(member)
        self.pool.arena.forget_reader(member)
        for item in had:
            item.ticket.release()
            if not item.lane.is_over:
                self._post(item.ticket.run, Lost(item.ticket.of_run.number, cause, item.serial <= begun))
        self.roster.note_loss(member, was, cause, has_begun=begun > 0)
        self._refuse_what_waits()
        self._check_ending()
        self._on_change()
        if was is not MemberState.RETIRING:
            log_safely(log, logging.WARNING, "lost %s", cause)
            self._on_loss(member.name, cause)

    def describe(self) -> list[dict[str, Any]]:
        """Return, for each worker, its process, CPUs, state, and what it wrote to stderr at last.

        Called by any thread, without the lock.
        """
        return [
            {
                "name": member.name,
                "pid": member.info.process.pid,
                "state": member.state.value,
                "cpus": _cpus_of(member.info.process.pid),
                "tickets": len(self._stations[member].items) if member in self._stations else 0,
                "stderr": list(member.stderr),
            }
            for member in list(self.pool.members)
        ]

    def end_streams(self) -> None:
        """Let tasks that wait for data know that none will come."""
        for run in list(self._runs.values()):
            if run.feeder is not None:
                run.feeder.end()

    def close(self) -> None:
        """Let go of all tickets, runs and objects: the workers have ended."""
        self._is_closed = True
        tickets = self._dispatch.take_out(lambda _: False)
        for station in list(self._dispatch.stations):
            tickets += self._dispatch.lost(station)
        for item in tickets:
            item.ticket.release()
        self._known.clear()
        for run in list(self._runs.values()):
            run.release()
            run.has_ended.set()
            run.inbox.put([Cancelled(CLOSED)])  # whoever still waits for it has no other news to wait for
        while self.scattered:  # from which those whose runs end just now take what is theirs
            with contextlib.suppress(KeyError):
                self.scattered.popitem()[1].close()
        self._runs.clear()


def _cpus_of(pid: int) -> list[int]:
    try:
        return sorted(os.sched_getaffinity(pid))
    except OSError:  # it has ended
        return []
