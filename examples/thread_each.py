"""An executor that makes a thread for each task: the smallest one that keeps the whole contract."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tilework.common.executor import Environment
from tilework.common.scheduler import Worker, WorkerSet
from tilework.executor.local import LocalJobExecutor
from tilework.executor.remote import contained
from tilework.executor.run import Bounds, Completed, Failed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.common.executor import Priority, StopFlag, WorkerContext
    from tilework.executor.driver import RunControl
    from tilework.executor.local import Work
    from tilework.executor.run import Event, Ticket

V = TypeVar("V")


class ThreadEachBackend(Generic[V]):
    """One run's way to its threads."""

    def __init__(self, work: Work[V], control: RunControl) -> None:
        self.is_blocking = work.is_streamed
        self._work = work
        self._control = control
        self._inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        control.wake = lambda: self._inbox.put(None)

    def submit(self, ticket: Ticket[V]) -> None:
        """Start a thread for the ticket, and push its data."""
        self._work.prepare(ticket)
        thread = threading.Thread(target=self._serve, args=(ticket,), daemon=True)
        self._threads.add(thread)
        thread.start()
        self._work.feed(ticket)

    def wait(self, timeout: float | None) -> Iterable[Event]:
        """Return what has happened; in pieces, because a long wait for a lock can miss Ctrl-C."""
        try:
            event = self._inbox.get(timeout=0.1 if timeout is None else min(timeout, 0.1))
        except queue.Empty:
            return ()
        return () if event is None else (event,)

    def end(self) -> None:
        """Wait until nothing runs. The run's flag is set, at which tasks look between tiles."""
        self._control.wake = None
        self._work.end()
        until = time.monotonic() + self._control.grace
        while self._threads and time.monotonic() < until:
            time.sleep(0.001)

    def _serve(self, ticket: Ticket[V]) -> None:
        start = time.perf_counter()
        event: Event
        try:
            self._control.flag.raise_if_set()
            event = Completed(ticket.number, self._work(ticket), time.perf_counter() - start)
        except BaseException as error:
            event = Failed(ticket.number, contained(error))
        self._threads.discard(threading.current_thread())
        self._inbox.put(event)


class ThreadEachExecutor(LocalJobExecutor):
    """At most `n_threads` for each run."""

    def __init__(self, n_threads: int) -> None:
        super().__init__()
        self._n_threads = n_threads

    def get_available_workers(self) -> WorkerSet:
        """Return the one process."""
        return WorkerSet([Worker("threads", "localhost", {"CPU": 1, "compute": 1, "ndarray": 1}, self._n_threads)])

    def _open_backend(self, work: Work[V], control: RunControl, priority: Priority) -> ThreadEachBackend[V]:
        return ThreadEachBackend(work, control)

    def _bounds(self, *, is_streamed: bool) -> Bounds:
        return Bounds(self._n_threads, prefetch=1, prefetch_short=1)

    def _task_environment(self, stop: StopFlag, context: WorkerContext) -> Environment:
        return Environment(1, True, context, None, stop)

    def _limits(self) -> dict[str, Any]:
        return {"workers": self._n_threads, "threads_per_worker": 1}

    def _release(self) -> None:
        """Nothing is kept between runs."""
