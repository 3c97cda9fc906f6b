"""The thread that everything between runs and workers passes through.

::

    consumers' threads                     hub thread                               workers
    ┌──────────────────────┐  put   ┌───────────────────────────────┐   wire   ┌───────────────┐
    │ run A: drive, backend├───────►│ Dispatch: which ticket next?  ├─────────►│ cpu-0         │
    │   ▲ inbox            │        │                               │          │               │
    │ run B: drive, backend├───────►│ selector: lines of workers,   │◄─────────┤ cpu-1         │
    │   ▲ inbox            │        │ ends of processes, stderr     │          │               │
    └───┼──────────────────┘        └──────────────┬────────────────┘          └───────────────┘
        └────── what became of a ticket ───────────┘

Who does what: a consumer's thread puts tickets, and sends them itself when a worker has room. The hub thread reads what
workers answer, gives each answer to the inbox of its run, sends the next ticket, sees workers end, has them replaced, and
tells the new ones what was scattered. It never unpickles what a task returned, and never waits for anybody.

Who owns what: one lock guards the dispatch, the members' tickets, and the table of scattered objects. It is held while a
message is handed to a socket, so that the order on the line is that of the decisions; sockets of this side do not block.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ExecutorError, WorkerLostError
from tilework.executor.pipelined import messages as say
from tilework.executor.pipelined.dispatch import Dispatch, Item, Station
from tilework.executor.pipelined.pool import Member, MemberState, PoolStateError, WorkerPool
from tilework.executor.pipelined.spec import describe_worker
from tilework.executor.pipelined.wire import WireClosedError
from tilework.executor.remote import dumps, loads
from tilework.executor.run import Failed, WorkersChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilework.executor.pipelined.backend import HubRun
    from tilework.executor.pipelined.scattered import Scattered
    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.pipelined.wire import Wire

__all__ = ["Hub"]

log = logging.getLogger(__name__)

_MOST_FAILED_STARTS: Final = 3
_RETRY_SECONDS: Final = 0.2


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
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._pid = os.getpid()
        self._on_loss = on_loss
        self._blocked: set[Wire] = set()
        self._stations: dict[Member, Station] = {}
        self._known: dict[Member, set[int]] = {}  # numbers of the runs that a worker was told of
        self._runs: dict[int, HubRun] = {}
        self._scattered: dict[str, Scattered] = {}
        self._failed_starts: dict[str, int] = {}
        self._to_start: deque[tuple[float, WorkerSpec]] = deque()
        self._to_kill: list[tuple[float, HubRun]] = []
        self._n_runs = 0
        self._is_closed = False
        self._changed = threading.Condition(self._lock)
        self.pool = make_pool(self._note_blocked)
        self.dispatch = Dispatch(lambda station, serial: self.pool.page.revoke(station.owner.row, serial))
        for member in self.pool.members:
            self._adopt(member)
        self._thread = threading.Thread(target=self._loop, name="tilework-hub", daemon=True)
        self._thread.start()

    # ---- workers ----

    def _adopt(self, member: Member) -> None:
        station = Station(describe_worker(member.info.spec))
        station.owner = member
        self._stations[member] = station
        self._known[member] = set()
        self.dispatch.add(station)
        self._selector.register(member.wire, selectors.EVENT_READ, member)
        self._selector.register(member.stderr_fd, selectors.EVENT_READ, member)
        if member.info.process.sentinel >= 0:
            self._selector.register(member.info.process.sentinel, selectors.EVENT_READ, member)

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
            while True:
                if self._is_closed:
                    msg = "One or more workers failed to start: the executor was closed"
                    raise PoolStateError(msg)
                if self._start_error is not None:
                    raise self._start_error
                if all(member.state is not MemberState.STARTING for member in self.pool.members):
                    return
                self._changed.wait(0.5)

    _start_error: Exception | None = None
    _is_started = False

    def note_started(self) -> None:
        """From now on, workers that do not start are tried again instead of being reported."""
        self._is_started = True

    def resize(self, spec: Sequence[WorkerSpec]) -> None:
        """Start and end workers until there are those of `spec`; those that work end when they have done what they have."""
        with self._lock:
            wanted = {each["name"] for each in spec}
            there = {member.name for member in self.pool.members if member.state is not MemberState.RETIRING}
            for member in list(self.pool.members):
                if member.name not in wanted and member.state is not MemberState.RETIRING:
                    self._retire(member)
            self._to_start = deque(each for each in self._to_start if each[1]["name"] in wanted)
            for each in spec:
                if each["name"] not in there:
                    self._to_start.append((0.0, each))
            self.pool.spec = list(spec)
            for run in self._runs.values():
                run.post(WorkersChanged(len(spec)))
        self._wake()

    def _retire(self, member: Member) -> None:
        if member.state is MemberState.READY:
            member.state = MemberState.RETIRING
            self._send_items(self.dispatch.retire(self._stations[member]))
        member.state = MemberState.RETIRING
        with contextlib.suppress(WireClosedError):
            member.wire.send(dumps(say.Shutdown()))

    # ---- runs ----

    def locked(self) -> threading.RLock:
        """Return the hub's lock, for what must be sent in one piece."""
        return self._lock

    def open_run(self, make: Callable[[int], HubRun]) -> HubRun:
        """Make a run known; its number is new."""
        with self._lock:
            self.check_open()
            self._n_runs += 1
            run = self._runs[self._n_runs] = make(self._n_runs)
            return run

    def put(self, run: HubRun, item: Item) -> None:
        """Give a ticket to a worker, now or when one has room."""
        with self._lock:
            self.check_open()
            if not self.pool.members and not self._to_start:
                run.post(Failed(item.ticket.ticket.number, self._no_workers()))
                return
            self._send_items(self.dispatch.put(item))

    def send_after(self, item: Item, message: Any) -> None:
        """Send something after a ticket to the worker that has it, if one has it."""
        with self._lock:
            if item.station is not None and not self._is_closed:
                with contextlib.suppress(WireClosedError):
                    item.station.owner.wire.send(dumps(message))

    def end_run(self, run: HubRun, grace: float) -> int:
        """Let no ticket of a run begin any more, and wait until none is at work; returns how many did not end in time.

        What does not end is killed, together with its worker, when its time is over, also after an interrupt of the
        wait.
        """
        until = time.monotonic() + grace
        with self._changed:
            self.dispatch.drop(run.lane)
            try:
                while not self._is_closed and self._at_work(run):
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    # In pieces, since a long wait can miss a KeyboardInterrupt.
                    self._changed.wait(min(left, 0.2))
            finally:
                stuck = [] if self._is_closed else self._at_work(run)
                if stuck:
                    self._to_kill.append((until, run))
                    self._wake()
                else:
                    self._forget_run(run)
            return len(stuck)

    def _at_work(self, run: HubRun) -> list[Station]:
        page = self.pool.page
        return self.dispatch.at_work(run.lane, lambda station: page.begun(station.owner.row))

    def _forget_run(self, run: HubRun) -> None:
        if self._runs.pop(run.number, None) is None or self._is_closed:
            return
        message = dumps(say.CloseRun(run.number))
        for member, known in self._known.items():
            if run.number in known:
                known.discard(run.number)
                with contextlib.suppress(WireClosedError):
                    member.wire.send(message)

    # ---- scattered objects ----

    def scatter(self, key: str, obj: Scattered) -> None:
        """Give an object to all workers, now and later."""
        with self._lock:
            self.check_open()
            before = self._scattered.get(key)
            self._scattered[key] = obj
            for member in self._ready_members():
                self._tell(member, obj)
            if before is not None:
                before.close()

    def patch(self, key: str, data: bytes) -> None:
        """Let all workers patch an object."""
        with self._lock:
            self.check_open()
            self._scattered[key].patches.append(data)
            message = dumps(say.Patch(key, data))
            for member in self._ready_members():
                with contextlib.suppress(WireClosedError):
                    member.wire.send(message)

    def unscatter(self, key: str) -> None:
        """Let all workers forget an object."""
        with self._lock:
            obj = self._scattered.pop(key, None)
            if obj is not None:
                obj.close()
            if not self._is_closed:
                message = dumps(say.Delete(key))
                for member in self._ready_members():
                    with contextlib.suppress(WireClosedError):
                        member.wire.send(message)

    def look_up(self, key: Any) -> Scattered | None:
        """Return a scattered object, or None."""
        with self._lock, contextlib.suppress(TypeError):
            return self._scattered.get(key)
        return None

    def _tell(self, member: Member, obj: Scattered) -> None:
        with contextlib.suppress(WireClosedError):
            for message, descriptors in obj.messages():
                member.wire.send(message, descriptors)

    def _ready_members(self) -> list[Member]:
        return [m for m in self.pool.members if m.state in {MemberState.READY, MemberState.RETIRING}]

    # ---- sending ----

    def _send_items(self, items: list[Item]) -> None:
        for item in items:
            assert item.station is not None
            member = item.station.owner
            run: HubRun = item.ticket.run
            try:
                if run.number not in self._known[member]:
                    self._known[member].add(run.number)
                    run.introduce(member.wire)
                item.ticket.send(member.wire, item.serial)
            except WireClosedError:
                continue  # it is gone, which the hub thread will find; the ticket is lost then like the others

    def _note_blocked(self, wire: Wire) -> None:
        self._blocked.add(wire)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake up anyway
            os.write(self._wake_write, b"x")

    # ---- the thread ----

    def _loop(self) -> None:
        while not self._is_closed:
            try:
                self._turn()
            except Exception:  # never: but without this thread everybody would wait for ever
                log.exception("an error in the hub of a pipelined executor: please report it")
                time.sleep(0.01)

    def _turn(self) -> None:
        date = self._next_date()
        events = self._selector.select(None if date is None else max(0.0, date - time.monotonic()))
        for key, mask in events:
            member: Member | None = key.data
            if member is None:
                with contextlib.suppress(OSError):
                    os.read(self._wake_read, 1 << 16)
            elif member.state is MemberState.GONE:
                continue
            elif key.fileobj is member.wire:
                if mask & selectors.EVENT_WRITE:
                    self._flush(member)
                if mask & selectors.EVENT_READ:
                    self._read(member)
            elif key.fileobj == member.stderr_fd:
                if not member.read_stderr():
                    with contextlib.suppress(KeyError, ValueError):
                        self._selector.unregister(member.stderr_fd)
            else:
                self._take_loss(member)
        if self._blocked:
            with self._lock:
                for member in self._stations:
                    if member.wire in self._blocked:
                        self._selector.modify(member.wire, selectors.EVENT_READ | selectors.EVENT_WRITE, member)
                self._blocked.clear()
        if date is not None and time.monotonic() >= date:
            self._keep_dates()

    def _next_date(self) -> float | None:
        dates = [date for date, _ in (*self._to_start, *self._to_kill)]
        dates += [m.deadline for m in list(self.pool.members) if m.state is MemberState.STARTING]
        return min(dates, default=None)

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
            self._handle(member, loads(frame.body), frame.descriptors)

    def _handle(self, member: Member, message: Any, descriptors: tuple[int, ...]) -> None:
        if isinstance(message, say.Signal):
            run = self._runs.get(message.run)
            if run is not None:
                run.take_signal(message.header)
        elif isinstance(message, say.Done | say.Failed | say.Skipped):
            self._take_answer(member, message, descriptors)
        elif member.handle_startup(message, descriptors):
            if member.state is MemberState.READY:
                self._take_ready(member)
            with self._changed:
                self._changed.notify_all()
        else:
            log.error("worker %s sent something unknown: %r", member.name, message)

    def _take_answer(
        self, member: Member, message: say.Done | say.Failed | say.Skipped, descriptors: tuple[int, ...]
    ) -> None:
        with self._lock:
            station = self._stations[member]
            item = next((each for each in station.items if each.serial == message.serial), None)
            if item is None:  # taken back before, and given to somebody else
                for fd in descriptors:
                    os.close(fd)
                return
            if isinstance(message, say.Skipped):
                self._send_items(self.dispatch.skipped(station, item))
            else:
                if isinstance(message, say.Done):
                    item.lane.note_seconds(message.seconds)
                self._send_items(self.dispatch.completed(station, item))
            if item.lane.is_over:
                self._changed.notify_all()
        if not isinstance(message, say.Skipped):
            item.ticket.run.take_answer(item.ticket, member, message, descriptors)

    def _take_ready(self, member: Member) -> None:
        with self._lock:
            self._failed_starts.pop(member.name, None)
            for obj in self._scattered.values():
                self._tell(member, obj)
            if member.state is MemberState.READY:
                self._send_items(self.dispatch.ready(self._stations[member]))

    def _take_loss(self, member: Member) -> None:
        """A worker has ended: report what it had, and have it replaced."""
        with contextlib.suppress(WireClosedError):
            for frame in member.wire.receive_nowait():  # what it still said before its end
                self._handle(member, loads(frame.body), frame.descriptors)
        was = member.state
        with self._lock:
            if member.state is MemberState.GONE:
                return
            for thing in (member.wire, member.stderr_fd, member.info.process.sentinel):
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(thing)
            begun = self.pool.page.begun(member.row)
            station = self._stations.pop(member)
            self._known.pop(member)
            had = self.dispatch.lost(station)
            cause = self.pool.remove(member)
            for item in had:
                if not item.lane.is_over:
                    item.ticket.run.take_loss(item.ticket, cause, is_started=item.serial <= begun)
            if was is not MemberState.RETIRING and not self._is_closed:
                self._plan_replacement(member, was, cause)
            self._changed.notify_all()
        if was is not MemberState.RETIRING and not self._is_closed:
            log.warning("lost %s", cause)
            self._on_loss(member.name, cause)

    def _plan_replacement(self, member: Member, was: MemberState, cause: str) -> None:
        if was is MemberState.STARTING:
            error = member.error or PoolStateError(f"One or more workers failed to start: {cause}")
            if not self._is_started:
                self._start_error = error
                return
            n = self._failed_starts[member.name] = self._failed_starts.get(member.name, 0) + 1
            if n >= _MOST_FAILED_STARTS:
                log.error("worker %s could not be started %d times and is given up", member.name, n)
                self._give_up()
                return
            self._to_start.append((time.monotonic() + _RETRY_SECONDS * n, member.info.spec))
        else:
            self._to_start.append((0.0, member.info.spec))

    def _give_up(self) -> None:
        """End all runs when there is no worker left, and none will come."""
        if self.pool.members or self._to_start:
            return
        for item in self.dispatch.waiting():
            item.ticket.run.post(Failed(item.ticket.ticket.number, self._no_workers()))

    @staticmethod
    def _no_workers() -> WorkerLostError:
        return WorkerLostError("no worker is left, and none could be started again; the log says why: make a new one")

    def _keep_dates(self) -> None:
        now = time.monotonic()
        with self._lock:
            if self._is_closed:
                return
            for _ in range(len(self._to_start)):
                date, spec = self._to_start.popleft()
                if date > now:
                    self._to_start.append((date, spec))
                    continue
                try:
                    self._adopt(self.pool.start(spec))
                except Exception as error:  # no process can be had: try again later
                    log.warning("worker %s cannot be started: %s", spec["name"], error)
                    self._to_start.append((now + 1.0, spec))
            for member in self.pool.members:
                if member.state is MemberState.STARTING and now > member.deadline:
                    if not self._is_started:
                        self._start_error = PoolStateError(
                            f"Timeout while starting workers: {member.name} was not ready in "
                            f"{self.pool.startup_timeout:g} s; raise startup_timeout, or look at what is slow"
                        )
                        self._changed.notify_all()
                    member.deadline = float("inf")
                    member.info.process.kill()
            due = [run for date, run in self._to_kill if date <= now]
            self._to_kill = [(date, run) for date, run in self._to_kill if date > now]
            for run in due:
                self._kill_stuck(run)

    def _kill_stuck(self, run: HubRun) -> None:
        for station in self._at_work(run):
            member: Member = station.owner
            log.warning(
                "worker %s is killed and replaced: its task did not stop after its run had ended; "
                "a task should call env.raise_if_stopped() between tiles",
                member.name,
            )
            member.info.process.kill()
        self._forget_run(run)

    def describe(self) -> list[dict[str, Any]]:
        """Return, for each worker, its process, CPUs, state, and what it wrote to stderr at last."""
        with self._lock:
            return [
                {
                    "name": member.name,
                    "pid": member.info.process.pid,
                    "state": member.state.value,
                    "cpus": _cpus_of(member.info.process.pid),
                    "tickets": len(self._stations[member].items) if member in self._stations else 0,
                    "stderr": list(member.stderr),
                }
                for member in self.pool.members
            ]

    # ---- ending ----

    def check_open(self) -> None:
        """Raise ExecutorError when it is closed, or belongs to another process."""
        if self._is_closed or os.getpid() != self._pid:
            whose = "" if os.getpid() == self._pid else ", it belongs to the process that this one was forked from"
            msg = f"this executor is closed{whose}: make a new one"
            raise ExecutorError(msg)

    def close(self, timeout: float) -> None:
        """End the thread, the workers, and everything; may be called twice."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self.pool.close(timeout)
        for obj in self._scattered.values():
            obj.close()
        self._scattered.clear()
        self._runs.clear()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def forget(self) -> None:
        """Let go of everything, in a process that was forked: the workers belong to the other one."""
        self._is_closed = True
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self.pool.forget()


def _cpus_of(pid: int) -> list[int]:
    try:
        return sorted(os.sched_getaffinity(pid))
    except OSError:  # it has ended
        return []
