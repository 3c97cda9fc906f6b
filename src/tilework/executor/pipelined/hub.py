"""The thread that everything between runs and workers passes through.

::

    consumers' threads                       hub thread                              workers
    ┌──────────────────────┐ requests ┌──────────────────────────────┐   wire   ┌───────────────┐
    │ run A: drive, backend├─────────►│ Dispatch: which ticket next? ├─────────►│ cpu-0         │
    │   ▲ inbox            │          │ Roster: which workers?       │          │               │
    │ run B: drive, backend├─────────►│ selector: lines of workers,  │◄─────────┤ cpu-1         │
    │   ▲ inbox            │          │ ends of processes, stderr    │          │               │
    └───┼──────────────────┘          └──────────────┬───────────────┘          └───────────────┘
        └─────── what became of a ticket ────────────┘

Who does what: the hub thread reads what workers answer, gives each answer to the inbox of its run, sends the next
ticket, sees workers end, has them replaced, and tells the new ones what was scattered. It never unpickles what a task
returned, and never waits for anybody. Other threads leave requests for it, with one operation that is never half done:
so a KeyboardInterrupt, which can hit the main thread anywhere, leaves no message half sent and nothing uncounted.

Who owns what: the hub thread owns the dispatch, the roster and the lines. Only the thread that streams data to a run,
on which no interrupt falls, sends by itself, with the hub's lock, so that messages are in the order of decisions.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import selectors
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ExecutorError, PoolStateError
from tilework.executor.pipelined import messages as say
from tilework.executor.pipelined.dispatch import Dispatch, Item, Station
from tilework.executor.pipelined.messages import decode, encode
from tilework.executor.pipelined.pool import Member, MemberState, WorkerPool
from tilework.executor.pipelined.roster import Roster
from tilework.executor.pipelined.spec import describe_worker
from tilework.executor.pipelined.wire import WireClosedError
from tilework.executor.run import Failed, Lost, WorkersChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilework.executor.pipelined.hub_run import HubRun
    from tilework.executor.pipelined.scattered import Scattered
    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.pipelined.wire import Wire
    from tilework.executor.run import Event

__all__ = ["Hub"]

log = logging.getLogger(__name__)

_NAP_SECONDS: Final = 2e-4
"""While all workers have enough short tickets, answers and requests may gather for so long: each time that this thread
wakes up, it takes a processor from a worker."""
_LONGEST_WAIT: Final = 0.2
"""A longer wait for a lock can miss a KeyboardInterrupt."""


class Hub:
    """Runs, workers, and what is between them.

    Parameters
    ----------
    make_pool
        Makes the pool; called with what is to be done when a line is full.
    on_loss
        Called when a worker is lost, with its name and how it ended.
    """

    def __init__(
        self, make_pool: Callable[[Callable[[Wire], None]], WorkerPool], on_loss: Callable[[str, str], None]
    ) -> None:
        self.lock = threading.RLock()
        self.scattered: dict[str, Scattered] = {}
        self._pid = os.getpid()
        self._on_loss = on_loss
        self._numbers = itertools.count(1)
        self._runs: dict[int, HubRun] = {}
        self._ending: list[HubRun] = []  # runs that are over, but something of them is still at work
        self._stations: dict[Member, Station] = {}
        self._known: dict[Member, set[int]] = {}  # numbers of the runs that a worker was told of
        self._requests: deque[Callable[[], None]] = deque()
        self._blocked: set[Wire] = set()
        self._held: list[Wire] = []  # on which what is sent gathers until the end of this turn
        self._to_deliver: set[HubRun] = set()  # runs that have new answers
        self._is_closed = False
        self._close_timeout = 0.0
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._is_asleep = False
        try:
            self.pool = make_pool(self._note_blocked)
        except BaseException:
            self._close_selector()
            raise
        self._dispatch = Dispatch(lambda station, serial: self.pool.page.revoke(station.owner.row, serial))
        self._roster = Roster(self.pool, self._adopt)
        for member in self.pool.members:
            self._adopt(member)
        self._thread = threading.Thread(target=self._loop, name="tilework-hub", daemon=True)
        self._thread.start()

    # ---- for other threads ----

    def request(self, request: Callable[[], None]) -> None:
        """Let the hub thread do something, with the hub locked."""
        self._requests.append(request)
        if self._is_asleep:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake up anyway
            os.write(self._wake_write, b"x")

    def check_open(self) -> None:
        """Raise ExecutorError when it is closed, or belongs to another process."""
        if os.getpid() != self._pid:
            msg = "this executor belongs to the process that this one was forked from: make a new one"
            raise ExecutorError(msg)
        if self._is_closed:
            msg = "this executor is closed: make a new one"
            raise ExecutorError(msg)

    def wait_started(self) -> None:
        """Wait until all workers take tickets.

        Raises
        ------
        Exception
            What went wrong in the set-up of a worker.
        PoolStateError
            When a worker ended in its set-up, or took too long.
        """
        with self._changed:
            while not self._roster.is_complete:
                if self._roster.start_error is not None:
                    raise self._roster.start_error
                if self._is_closed:
                    msg = "One or more workers failed to start: the executor was closed"
                    raise PoolStateError(msg)
                self._changed.wait(_LONGEST_WAIT)

    def open_run(self, make: Callable[[int], HubRun]) -> HubRun:
        """Make a run known; its number is new."""
        self.check_open()
        number = next(self._numbers)
        run = self._runs[number] = make(number)
        return run

    def put(self, items: list[Item]) -> None:
        """Give tickets to workers, now or when one has room."""
        self.check_open()
        self._requests.append(lambda: self._put(items))
        if self._is_asleep and not all(item.is_behind_others() for item in items):
            self._wake()

    def end_run(self, run: HubRun, grace: float) -> bool:
        """Let no ticket of a run begin any more, and wait until none is at work; returns whether that was so in time.

        What does not end is killed, together with its worker, when its time is over, also after an interrupt of the
        wait.
        """
        run.end_by = time.monotonic() + grace
        self.request(lambda: self._end_run(run))
        while not run.has_ended.wait(_LONGEST_WAIT):
            if self._is_closed or time.monotonic() > run.end_by:
                return False
        return True

    def scatter(self, obj: Scattered) -> None:
        """Give an object to all workers, now and later."""
        self.check_open()
        before = self.scattered.get(obj.key)
        self.scattered[obj.key] = obj
        self.request(lambda: self._scatter(obj, before))

    def patch(self, obj: Scattered, data: bytes) -> None:
        """Let all workers patch an object."""
        self.check_open()
        self.request(lambda: self._patch(obj, data))

    def unscatter(self, key: str) -> None:
        """Let all workers forget an object."""
        obj = self.scattered.pop(key, None)
        if obj is not None and os.getpid() == self._pid:
            self.request(lambda: self._unscatter(obj))

    def resize(self, spec: Sequence[WorkerSpec]) -> None:
        """Start and end workers until there are those of `spec`; one that works ends when it has done what it has."""
        self.check_open()
        self.request(lambda: self._resize(list(spec)))

    def holder_of(self, item: Item) -> Member | None:
        """Return the worker that a ticket was sent to, unless it is gone; with the hub locked."""
        member: Member | None = None if item.station is None else item.station.owner
        return member if member in self._stations else None

    def send_after(self, item: Item, message: Any) -> None:
        """Send something after a ticket to the worker that has it, if one has it; with the hub locked."""
        member = self.holder_of(item)
        if member is not None:
            self._tell(member, encode(message))

    def describe(self) -> list[dict[str, Any]]:
        """Return, for each worker, its process, CPUs, state, and what it wrote to stderr at last."""
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

    def close(self, timeout: float) -> None:
        """End the workers, killing those that are still busy after `timeout` seconds; may be called twice."""
        if os.getpid() != self._pid:
            return
        if not self._is_closed:
            self._close_timeout = timeout
            for number in list(self._runs):
                self.pool.page.stop(number)
            self._is_closed = True
            self._wake()
        if threading.current_thread() is not self._thread:
            while self._thread.is_alive():
                self._thread.join(_LONGEST_WAIT)

    def forget(self) -> None:
        """Let go of everything, in a process that was forked: the workers belong to the other one."""
        self._is_closed = True
        self.pool.forget()
        self._close_selector()

    # ---- the thread ----

    def _loop(self) -> None:
        while not self._is_closed:
            try:
                self._turn()
            except Exception:  # it must not end: everybody would wait for ever
                log.exception("an error in the hub of a pipelined executor: please report it")
                time.sleep(0.01)
        self._close()

    def _turn(self) -> None:
        if self._dispatch.has_stock():
            time.sleep(_NAP_SECONDS)
        with self.lock:
            date = self._next_date()
        self._is_asleep = True
        # Whoever leaves a request after this line finds the hub asleep, and wakes it.
        wait = 0.0 if self._requests or self._is_closed else max(0.0, date - time.monotonic())
        events = self._selector.select(None if wait == math.inf else wait)
        self._is_asleep = False
        with self.lock:
            try:
                while self._requests:
                    self._requests.popleft()()
                for key, mask in events:
                    self._take_event(key.fileobj, key.data, mask)
            finally:
                self._release_wires()
            # Last of all, when workers have new work: a consumer that wakes up competes with this thread.
            while self._to_deliver:
                self._to_deliver.pop().deliver()
            if self._blocked:
                self._watch_blocked()
            if time.monotonic() >= date:
                self._keep_dates()

    def _release_wires(self) -> None:
        while self._held:
            with contextlib.suppress(WireClosedError):
                self._held.pop().release()

    def _take_event(self, source: Any, member: Member | None, mask: int) -> None:
        if member is None:
            with contextlib.suppress(OSError):
                os.read(self._wake_read, 1 << 12)
        elif member.state is MemberState.GONE:
            return
        elif source is member.wire:
            if mask & selectors.EVENT_WRITE:
                self._flush(member)
            if mask & selectors.EVENT_READ:
                self._read(member)
        elif source == member.stderr_fd:
            if not member.read_stderr():
                self._selector.unregister(source)
        else:
            self._take_loss(member)

    def _next_date(self) -> float:
        return min([self._roster.next_date(), *(run.end_by for run in self._ending)])

    def _keep_dates(self) -> None:
        now = time.monotonic()
        self._roster.keep_dates(now)
        for run in [each for each in self._ending if each.end_by <= now]:
            for station in self._at_work(run):
                log.warning(
                    "worker %s is killed and replaced: its task did not stop after its run had ended; "
                    "a task should call env.raise_if_stopped() between tiles",
                    station.worker.name,
                )
                station.owner.info.process.kill()
            self._forget_run(run)

    # ---- runs ----

    def _put(self, items: list[Item]) -> None:
        wanted = []
        for item in items:
            if item.lane.is_over:
                item.ticket.release()
            elif self._roster.is_hopeless:
                self._post(item.ticket.run, Failed(item.ticket.ticket.number, self._roster.hopeless()))
            else:
                wanted.append(item)
        self._send(self._dispatch.put(wanted))

    def _post(self, run: HubRun, event: Event) -> None:
        run.outgoing.append(event)
        self._to_deliver.add(run)

    def _end_run(self, run: HubRun) -> None:
        for item in self._dispatch.drop(run.lane):
            item.ticket.release()
        if self._at_work(run):
            self._ending.append(run)
        else:
            self._forget_run(run)

    def _check_ending(self) -> None:
        for run in list(self._ending):
            if not self._at_work(run):
                self._forget_run(run)

    def _at_work(self, run: HubRun) -> list[Station]:
        begun = self.pool.page.begun
        return self._dispatch.at_work(run.lane, lambda station: begun(station.owner.row))

    def _forget_run(self, run: HubRun) -> None:
        if run in self._ending:
            self._ending.remove(run)
        self._runs.pop(run.number, None)
        run.release()
        run.has_ended.set()
        message = encode(say.CloseRun(run.number))
        for member, known in self._known.items():
            if run.number in known:
                known.discard(run.number)
                self._tell(member, message)

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

    def _scatter(self, obj: Scattered, before: Scattered | None) -> None:
        for member in self._ready_members():
            self._introduce(member, obj)
        if before is not None:
            before.close()

    def _patch(self, obj: Scattered, data: bytes) -> None:
        obj.patches.append(data)
        for member in self._ready_members():
            self._tell(member, encode(say.Patch(obj.key, data)))

    def _unscatter(self, obj: Scattered) -> None:
        for member in self._ready_members():
            self._tell(member, encode(say.Delete(obj.key)))
        obj.close()

    def _introduce(self, member: Member, obj: Scattered) -> None:
        for message, descriptors in obj.messages():
            self._tell(member, message, descriptors)

    @staticmethod
    def _tell(member: Member, message: bytes, descriptors: Sequence[int] = ()) -> None:
        with contextlib.suppress(WireClosedError):
            member.wire.send(message, descriptors)

    def _ready_members(self) -> list[Member]:
        return [m for m in self.pool.members if m.state in {MemberState.READY, MemberState.RETIRING}]

    # ---- workers ----

    def _adopt(self, member: Member) -> None:
        station = self._stations[member] = Station(describe_worker(member.info.spec), member)
        self._known[member] = set()
        self._dispatch.add(station)
        for source in (member.wire, member.stderr_fd, member.info.process.sentinel):
            if source != -1:
                self._selector.register(source, selectors.EVENT_READ, member)

    def _resize(self, spec: list[WorkerSpec]) -> None:
        for member in self._roster.set_wanted(spec):
            was, member.state = member.state, MemberState.RETIRING
            if was is MemberState.READY:
                self._send(self._dispatch.retire(self._stations[member]))
            self._tell(member, encode(say.Shutdown()))
        for run in self._runs.values():
            self._post(run, WorkersChanged(len(spec)))

    def _note_blocked(self, wire: Wire) -> None:
        self._blocked.add(wire)
        if threading.current_thread() is not self._thread:
            self._wake()

    def _watch_blocked(self) -> None:
        for member in self._stations:
            if member.wire in self._blocked:
                self._selector.modify(member.wire, selectors.EVENT_READ | selectors.EVENT_WRITE, member)
        self._blocked.clear()

    def _flush(self, member: Member) -> None:
        with contextlib.suppress(WireClosedError):
            if not member.wire.flush():
                return
        self._selector.modify(member.wire, selectors.EVENT_READ, member)

    def _read(self, member: Member) -> None:
        try:
            frames = member.wire.receive_nowait()
        except WireClosedError:
            self._take_loss(member)
            return
        for frame in frames:
            self._handle(member, decode(frame.body), frame.descriptors)

    def _handle(self, member: Member, message: Any, descriptors: tuple[int, ...]) -> None:
        if isinstance(message, say.Done | say.Failed | say.Skipped):
            self._take_answer(member, message, descriptors)
        elif isinstance(message, say.Signal):
            run = self._runs.get(message.run)
            if run is not None:
                run.take_signal(message.header)
        elif member.handle_startup(message, descriptors):
            if member.state is MemberState.READY:
                self._roster.note_ready(member)
                for obj in list(self.scattered.values()):
                    self._introduce(member, obj)
                self._send(self._dispatch.ready(self._stations[member]))
            self._notify()
        else:
            log.error("worker %s sent something unknown: %r", member.name, message)

    def _take_answer(
        self, member: Member, message: say.Done | say.Failed | say.Skipped, descriptors: tuple[int, ...]
    ) -> None:
        station = self._stations[member]
        item = next((each for each in station.items if each.serial == message.serial), None)
        if item is None:  # it was taken back before
            for fd in descriptors:
                os.close(fd)
        elif isinstance(message, say.Skipped):
            self._send(self._dispatch.skipped(station, item))
            if item.lane.is_over:
                item.ticket.release()
        else:
            if isinstance(message, say.Done):
                item.lane.note_seconds(message.seconds)
            self._send(self._dispatch.completed(station, item))
            item.ticket.run.take_answer(item.ticket, member, message, descriptors)
            self._to_deliver.add(item.ticket.run)
        if self._ending:
            self._check_ending()

    def _take_loss(self, member: Member) -> None:
        """A worker has ended: report what it had, and have it replaced."""
        if member.state is MemberState.GONE:
            return
        with contextlib.suppress(WireClosedError):
            while frames := member.wire.receive_nowait():  # what it still said before its end
                for frame in frames:
                    self._handle(member, decode(frame.body), frame.descriptors)
        was = member.state
        for source in (member.wire, member.stderr_fd, member.info.process.sentinel):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(source)
        begun = self.pool.page.begun(member.row)
        had = self._dispatch.lost(self._stations.pop(member))
        self._known.pop(member)
        self._blocked.discard(member.wire)
        cause = self.pool.remove(member)
        self.pool.arena.forget_reader(member)
        for item in had:
            if not item.lane.is_over:
                item.ticket.release()
                self._post(item.ticket.run, Lost(item.ticket.ticket.number, cause, item.serial <= begun))
        self._roster.note_loss(member, was, cause)
        if self._roster.is_hopeless:
            for item in self._dispatch.waiting():
                self._post(item.ticket.run, Failed(item.ticket.ticket.number, self._roster.hopeless()))
        self._check_ending()
        self._notify()
        if was is not MemberState.RETIRING:
            log.warning("lost %s", cause)
            self._on_loss(member.name, cause)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # ---- ending ----

    def _close(self) -> None:
        """The last that the thread does."""
        with self.lock:
            self.pool.close(self._close_timeout)
            for run in list(self._runs.values()):
                run.release()
                run.has_ended.set()
            for obj in self.scattered.values():
                obj.close()
            self.scattered.clear()
            self._runs.clear()
            self._requests.clear()
            self._close_selector()
        self._notify()

    def _close_selector(self) -> None:
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _cpus_of(pid: int) -> list[int]:
    try:
        return sorted(os.sched_getaffinity(pid))
    except OSError:  # it has ended
        return []
