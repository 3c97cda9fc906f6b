"""The thread that everything between runs and workers passes through.

::

    consumers' threads                       hub thread                              workers
    ┌──────────────────────┐ requests ┌──────────────────────────────┐   wire   ┌───────────────┐
    │ run A: drive, backend├─────────►│ Hub, selector: lines, ends   │◄─────────┤ cpu-0         │
    │   ▲ inbox            │          │   │ of processes, stderr     │          │               │
    │ run B: drive, backend├─────────►│ Exchange: what now?          ├─────────►│ cpu-1         │
    │   ▲ inbox            │          │   Dispatch, Roster           │          │               │
    └───┼──────────────────┘          └──────────────┬───────────────┘          └───────────────┘
        └─────── what became of a ticket ────────────┘

Who does what: the hub thread reads what workers answer, and sees them end. The exchange, on the same thread, gives each
answer to the inbox of its run, sends the next ticket, has lost workers replaced, and tells the new ones what was
scattered. The thread never unpickles what a task returned, and waits for nothing but news. Other threads leave requests
for it, with one operation that is never half done: so a KeyboardInterrupt, which can hit the main thread anywhere,
leaves no message half sent and nothing uncounted.

Who owns what: the hub thread owns the exchange and the lines. Only the thread that streams data to a run,
on which no interrupt falls, sends by itself, with the hub's lock, so that messages are in the order of decisions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from tilework.common.standard_files import have_standard_files
from tilework.exceptions import ExecutorError, PoolStateError
from tilework.executor.pipelined.exchange import Exchange
from tilework.executor.pipelined.member import Launch, Member, MemberState
from tilework.executor.pipelined.messages import decode
from tilework.executor.pipelined.telling import log_safely
from tilework.executor.pipelined.wire import LONGEST_POLL, WireClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilework.executor.pipelined.dispatch import Item
    from tilework.executor.pipelined.hub_run import HubRun
    from tilework.executor.pipelined.pool import WorkerPool
    from tilework.executor.pipelined.scattered import Base, Scattered
    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.pipelined.wire import Frame, Wire

__all__ = ["Hub"]

log = logging.getLogger(__name__)

_NAP_SECONDS: Final = 2e-4
"""While all workers have enough short tickets, answers and requests may gather for so long: each time that this thread
wakes up, it takes a processor from a worker."""
_ERROR_SECONDS: Final = 0.01
"""An error may come again and again."""
_LONGEST_WAIT: Final = 0.2
"""A longer wait for a lock can miss a KeyboardInterrupt."""

_cut_off: Final[list[Hub]] = []
"""Those whose files somebody else has closed. They are kept: the numbers of their files may be those of others by now,
which must not be closed."""


class Hub:
    """Hears what other threads ask for and what workers say, and lets the exchange act on it.

    Parameters
    ----------
    make_pool
        Makes the pool; called with what is to be done when a line is full, and with what when a worker was asked for.
    on_loss
        Called when a worker is lost, with its name and how it ended.
    """

    def __init__(
        self,
        make_pool: Callable[[Callable[[Wire], None], Callable[[Launch], None]], WorkerPool],
        on_loss: Callable[[str, str], None],
    ) -> None:
        have_standard_files()
        self.lock = threading.RLock()
        self._pid = os.getpid()
        self._requests: deque[Callable[[], None]] = deque()
        self._blocked: set[Wire] = set()
        self._is_closed = False
        self._is_over = False  # when its thread does nothing more
        self._close_timeout = 0.0
        self._changed = threading.Lock()  # given free by news, again and again; see `Latch` for why it is no condition
        self._changed.acquire()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._file = os.fstat(self._wake_read.fileno())
        self._is_asleep = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._loop, name="tilework-hub", daemon=True)
        self._threads = weakref.WeakSet([self._thread])
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_selector)
            self.pool = make_pool(self._note_blocked, self._watch_launch)
            undo.callback(self.pool.kill)
            self.exchange = Exchange(self.pool, self._watch, self._notify, on_loss)
            self._thread.start()
            undo.pop_all()

    # ---- for other threads ----

    def request(self, request: Callable[[], None]) -> None:
        """Let the hub thread do something, with the hub locked."""
        self._requests.append(request)
        if self._is_asleep and not self._close_if_files_lost():  # whose numbers may be those of somebody else's by now
            self._wake()
        if self._is_over:
            self._serve_requests()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake up anyway; closed: nobody is to be woken
            self._wake_write.send(b"x")

    def add_thread(self, thread: threading.Thread) -> None:
        """Take note of a thread that may hold the lock, besides the hub's own."""
        self._threads.add(thread)

    def is_awaited(self) -> bool:
        """Return whether the hub's own thread may wait for the calling one, which then must not wait for the hub."""
        return threading.current_thread() in self._threads or self.pool.arena.is_locked_here()

    @property
    def is_closed(self) -> bool:
        """Whether nothing that is asked for now will be done."""
        return self._is_closed

    def check_open(self) -> None:
        """Raise ExecutorError when it is closed, or belongs to another process."""
        if os.getpid() != self._pid:
            msg = "this executor belongs to the process that this one was forked from: make a new one"
            raise ExecutorError(msg)
        self.check_files()
        if self._is_closed:
            msg = "this executor is closed: make a new one"
            raise ExecutorError(msg)

    def check_files(self) -> None:
        """Raise ExecutorError when something else has closed the files of this process, ours among them.

        The hub's thread may sleep for ever then, and whoever waits for it must ask. What has become of the workers is
        clear: their lines are closed, and so they end.
        """
        if self._close_if_files_lost():
            msg = (
                "something in this program has closed files that are not its own, and so cut the lines to the workers "
                "(os.closerange, or a library that makes a daemon of a process): do that before the executor is made, "
                "and make a new one"
            )
            raise ExecutorError(msg)

    def _close_if_files_lost(self) -> bool:
        """Close the hub if its files are not its own any more; returns whether they are not, now or before."""
        if self not in _cut_off and not self._is_over and os.getpid() == self._pid:
            try:
                is_there = os.path.samestat(os.fstat(self._wake_read.fileno()), self._file)
            except OSError:
                is_there = False
            if not is_there and not self._is_over:
                self._is_closed = True
                _cut_off.append(self)
        return self in _cut_off

    def wait_started(self) -> None:
        """Wait until all workers take tickets.

        Raises
        ------
        Exception
            What went wrong in the set-up of a worker.
        PoolStateError
            When a worker ended in its set-up, or took too long.

        Warns
        -----
        RuntimeWarning
            When it takes long.
        """
        while not self.exchange.roster.is_complete:
            self.check_files()
            if self.exchange.roster.start_error is not None:
                raise self.exchange.roster.start_error
            if self._is_closed:
                msg = "One or more workers failed to start: the executor was closed"
                raise PoolStateError(msg)
            self.pool.patience.warn_if_slow()
            self._changed.acquire(timeout=_LONGEST_WAIT)

    def open_run(self, make: Callable[[int], HubRun]) -> HubRun:
        """Make a run known; its number is new. ExecutorError in the hub's own thread, which would wait for itself."""
        self.check_open()
        if threading.current_thread() is self._thread:
            msg = (
                "a subscriber or a handler of log messages waits for an executor, in that thread of the executor which "
                "has told it something: let another thread do that, or do it later"
            )
            raise ExecutorError(msg)
        return self.exchange.open_run(make)

    def put(self, items: list[Item]) -> None:
        """Give tickets to workers, now or when one has room; a hub that is closed does nothing with them."""
        self._requests.append(lambda: self.exchange.put(items))
        if self._is_asleep and not all(item.is_behind_others() for item in items):
            self._wake()
        if self._is_over:
            self._serve_requests()

    def end_run(self, run: HubRun, grace: float) -> None:
        """Let no ticket of a run begin any more.

        What does not end is killed, together with its worker, when its time is over.
        """
        run.end_by = time.monotonic() + grace
        self.request(lambda: self.exchange.end_run(run))

    def wait_for_end(self, run: HubRun) -> bool:
        """Wait until nothing of a run that was ended is at work; returns whether that was so in time."""
        while not run.has_ended.wait(_LONGEST_WAIT):
            if self._is_closed or self._close_if_files_lost() or time.monotonic() > run.end_by:
                return False
        return True

    def scatter(self, obj: Scattered) -> None:
        """Give an object to all workers, now and later."""
        self.check_open()
        self.exchange.scattered[obj.key] = obj
        self.request(lambda: self.exchange.scatter(obj, None))

    def replace(self, before: Scattered, obj: Scattered) -> bool:
        """Give an object to all workers instead of another one; returns whether that was still there."""
        self.check_open()
        self.exchange.scattered[obj.key] = obj
        if before.is_dropped:  # by another thread, just now: no lock keeps it from that, which the hub might wait for
            self.exchange.scattered.pop(obj.key, None)
            obj.close()
            return False
        self.request(lambda: self.exchange.scatter(obj, before))
        return True

    def patch(self, obj: Scattered, data: bytes) -> None:
        """Let all workers patch an object."""
        self.check_open()
        self.request(lambda: self.exchange.patch(obj, data))

    def rebase(self, obj: Scattered, base: Base) -> None:
        """Let all workers have an object as it is after all its patches."""
        self.check_open()
        self.request(lambda: self.exchange.rebase(obj, base))

    def unscatter(self, key: str) -> None:
        """Let all workers forget an object."""
        obj = self.exchange.scattered.get(key)
        if obj is not None:
            obj.is_dropped = True  # before it is taken out, see `replace`
            obj = self.exchange.scattered.pop(key, obj)
        if obj is not None and os.getpid() == self._pid:
            self.request(lambda: self.exchange.unscatter(obj))

    def resize(self, spec: Sequence[WorkerSpec]) -> None:
        """Start and end workers until there are those of `spec`; one that works ends when it has done what it has."""
        self.check_open()
        self.request(lambda: self.exchange.resize(list(spec)))

    def close(self, timeout: float) -> None:
        """End the workers, killing those that are still busy after `timeout` seconds; may be called twice."""
        self.close_nowait(timeout)
        if os.getpid() != self._pid or threading.current_thread() is self._thread:
            return
        while self._thread.is_alive() and not self._close_if_files_lost():
            self._thread.join(_LONGEST_WAIT)

    def close_nowait(self, timeout: float = 0.0) -> None:
        """Let the hub's thread do that, and return at once.

        So may the garbage collector, which comes by in any thread, while that holds a lock for which the hub's thread
        may wait: of `logging`, or of the process that forks.
        """
        if os.getpid() != self._pid or self._close_if_files_lost() or self._is_closed:
            return
        self._close_timeout = timeout
        self.exchange.stop()
        self._is_closed = True
        self._wake()

    def forget(self) -> None:
        """Let go of everything, in a process that was forked: the workers belong to the other one.

        Other threads may have been anywhere in that moment, and do not exist here: so no lock is taken, and only such
        things are closed as know themselves whether they are.
        """
        self._is_closed = True
        self.pool.forget()
        self._close_selector()

    # ---- the thread ----

    def _loop(self) -> None:
        while not self._is_closed:
            self._attempt(self._turn)
            if self._has_failed:
                self._has_failed = False
                time.sleep(_ERROR_SECONDS)
        if not self._close_if_files_lost():
            self._close()

    def _attempt(self, what: Callable[..., None], *args: Any) -> None:
        """Do something whose errors must not end this thread, for which everybody would wait, nor cost others."""
        try:
            what(*args)
        except BaseException as error:  # noqa: BLE001  (subscribers and handlers of log messages may raise anything)
            self._note_error(error)

    def _note_error(self, error: BaseException) -> None:
        if self._close_if_files_lost():
            return
        self._has_failed = True
        log_safely(log, logging.ERROR, "an error in the hub of a pipelined executor: please report it", error=error)

    def _turn(self) -> None:
        if self.exchange.has_stock():
            time.sleep(_NAP_SECONDS)
        with self.lock:
            date = min([self.exchange.next_date(), *(member.output.log_at for member in self.pool.members)])
        self._is_asleep = True
        # Whoever leaves a request after this line finds the hub asleep, and wakes it.
        wait = 0.0 if self._requests or self._is_closed else max(0.0, date - time.monotonic())
        events = self._selector.select(min(wait, LONGEST_POLL))
        self._is_asleep = False
        with self.lock:
            try:
                self._serve_requests()
                for key, mask in events:
                    self._attempt(self._take_event, key.fileobj, key.data, mask)
            finally:
                self.exchange.release_wires()
            # Last of all, when workers have new work: a consumer that wakes up competes with this thread.
            self.exchange.deliver()
            if self._blocked:
                self._watch_blocked()
            if time.monotonic() >= date:
                self.exchange.keep_dates()
                self._log_stderr()

    def _log_stderr(self) -> None:
        now = time.monotonic()
        for member in self.pool.members:
            if member.output.log_at <= now:
                member.output.log_lines()

    def _take_event(self, source: Any, member: Member | Launch | None, mask: int) -> None:
        if member is None:
            with contextlib.suppress(OSError):
                self._wake_read.recv(1 << 12)
        elif isinstance(member, Launch):
            self._take_launch(member)
        elif member.state is MemberState.GONE:
            return
        elif source is member.wire:
            if mask & selectors.EVENT_WRITE:
                self._flush(member)
            if mask & selectors.EVENT_READ:
                self._read(member)
        elif source == member.output.fd:
            if not member.output.read():
                self._selector.unregister(source)
        else:
            self._take_loss(member)

    # ---- what it watches ----

    def _watch(self, member: Member) -> None:
        for source in (member.wire, member.output.fd, member.info.process.sentinel):
            if source != -1:
                self._selector.register(source, selectors.EVENT_READ, member)

    def _watch_launch(self, launch: Launch) -> None:
        self._selector.register(launch.wire, selectors.EVENT_READ, launch)

    def _take_launch(self, launch: Launch) -> None:
        # First, as its line may be closed, or become that of a member.
        self._selector.unregister(launch.wire)
        member = self.exchange.admit(launch)
        if member is not None:
            self._read(member)  # what it said right after that it is there
        elif launch in self.pool.launches:
            self._watch_launch(launch)

    def _note_blocked(self, wire: Wire) -> None:
        self._blocked.add(wire)
        if threading.current_thread() is not self._thread:
            self._wake()

    def _watch_blocked(self) -> None:
        for member in self.pool.members:
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
        self._take_frames(member, frames)

    def _take_frames(self, member: Member, frames: list[Frame]) -> None:
        for frame in frames:
            try:
                self.exchange.take(member, decode(frame.body), frame.descriptors)
            except Exception as error:  # noqa: BLE001
                self._note_error(error)
                # What it said is lost, and somebody may wait for it: its tickets are repeated by another worker.
                member.end(f"something that it sent could not be taken: {error!r}")

    def _take_loss(self, member: Member) -> None:
        if member.state is MemberState.GONE:
            return
        with contextlib.suppress(WireClosedError):
            while frames := member.wire.receive_nowait():  # what it still said before its end
                self._take_frames(member, frames)
        for source in (member.wire, member.output.fd, member.info.process.sentinel):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(source)
        self._blocked.discard(member.wire)
        self.exchange.lose(member)

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # there were news before
            self._changed.release()

    # ---- ending ----

    def _close(self) -> None:
        """The last that the thread does."""
        with self.lock:
            self.exchange.end_streams()
            self._serve_requests()
            self.exchange.release_wires()
            self.pool.close(self._close_timeout)
            self.exchange.close()
            self._is_over = True
            self._serve_requests()
            self._close_selector()
        self._notify()

    def _serve_requests(self) -> None:
        """Do what was asked for; when the hub's thread has ended, by who asks: what they hold is given back."""
        with self.lock:
            while self._requests:
                self._attempt(self._requests.popleft())

    def _close_selector(self) -> None:
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
