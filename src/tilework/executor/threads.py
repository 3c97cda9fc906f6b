"""Work on the threads of a pool in this process.

::

      consumer's thread (one for each run)            the pool's threads
    ┌──────────────────────────────────────┐     ┌──────────────────────────┐
    │ drive ── ThreadBackend.submit ───────┼──►  │ lane of the run          │
    │   ▲                                  │     │   │  Crew: fair between  │
    │   │                                  │     │   ▼  lanes               │
    │   └───── ThreadBackend.wait ◄─ inbox ┼──◄  │ pump: work(ticket)       │
    └──────────────────────────────────────┘     └──────────────────────────┘

Who owns what: the workforce owns the crew. Each run has a lane and an inbox of its own, so that runs and functions
never wait for each other's replies; they share the threads only, in turn, by priority. The inbox is written by the
threads and by `RunControl.cancel`, and read by the consumer.

At the end of a run its lane is emptied, its flag is set, and the consumer waits until none of its tasks runs. A task
that never looks at its flag is left behind after a while, with a warning; it keeps its thread until it ends.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from tilework.common.backend import get_use_cuda
from tilework.common.executor import Environment
from tilework.executor.crew import Crew
from tilework.executor.inline import InlineBackend
from tilework.executor.lane_backend import LaneBackend
from tilework.executor.local import FunctionWork, LocalStore, make_task_work
from tilework.executor.remote import contained
from tilework.executor.run import Bounds, Completed, Failed
from tilework.executor.workforce import Workforce
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

    from tilework.common.executor import (
        Priority,
        RunOptions,
        TaskCommHandler,
        TaskProtocol,
        WorkerContext,
    )
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.local import Work
    from tilework.executor.run import Event, Ticket

__all__ = ["ThreadBackend", "ThreadWorkforce"]

T = TypeVar("T")
V = TypeVar("V")


class ThreadBackend(LaneBackend[V]):
    """One run's way to the threads, which do the work themselves."""

    def __init__(self, work: Work[V], control: RunControl, crew: Crew, priority: Priority) -> None:
        super().__init__(control, crew, priority)
        self.is_blocking = work.is_streamed
        self._work = work

    def submit(self, ticket: Ticket[V]) -> None:
        """Append a ticket to the lane, and push its data."""
        if self.is_blocking:
            self._work.prepare(ticket)
            super().submit(ticket)
            self._work.feed(ticket)
        else:
            super().submit(ticket)

    def _serve(self, ticket: Ticket[V]) -> Event:
        start = time.perf_counter()
        try:
            self._control.flag.raise_if_set()  # the run has ended, but has not emptied its lane yet
            result = self._work(ticket)
        except BaseException as error:  # noqa: BLE001  (the run decides)
            return Failed(ticket.number, contained(error))
        return Completed(ticket.number, result, time.perf_counter() - start)

    def _stop(self) -> None:
        self._work.end()


class ThreadWorkforce(Workforce):
    """The threads of a pool; one worker, because they share a process.

    Parameters
    ----------
    client
        The pool.
    """

    names = ("concurrent",)

    def __init__(self, client: ThreadPoolExecutor) -> None:
        self._client = client
        self.threads = int(getattr(client, "_max_workers", 0)) or available_cpu_count()
        self.store = LocalStore(lambda obj: obj)
        self._crew = Crew(client, self.threads)

    @property
    def client(self) -> ThreadPoolExecutor:
        """The pool."""
        return self._client

    def check_handler(self, handler: TaskCommHandler) -> None:
        """All can be served."""

    def open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        """Return a new run's way to the threads."""

        def make_env(context: WorkerContext) -> Environment:
            return Environment(1, True, context, get_use_cuda(), asked.control.flag)

        work = make_task_work(asked, lambda: self.store.look_up(asked.params_handle), make_env, _same)
        return self._open(work, asked.control, asked.options.priority)

    def open_calls(self, fn: Callable[[V], Any], control: RunControl, options: RunOptions) -> Backend[V]:
        """Return the way to the threads for calls of a function."""
        return self._open(FunctionWork(fn, _same), control, options.priority)

    def _open(self, work: Work[V], control: RunControl, priority: Priority) -> Backend[V]:
        # What is asked for from inside a task, or another job of the pool, runs in its thread: it cannot wait for
        # threads that wait for it.
        if self._crew.is_member() or self._is_in_pool():
            return InlineBackend(work)
        return ThreadBackend(work, control, self._crew, priority)

    def _is_in_pool(self) -> bool:
        with self._client._shutdown_lock:  # held while a thread is started, whose first job may be the one that asks
            return threading.current_thread() in self._client._threads

    def bounds(self, *, is_streamed: bool) -> Bounds:
        """Return how much of a run may be under way."""
        if is_streamed:
            # What is under way beyond the running tasks is detector data that waits in memory.
            return Bounds(self.threads, prefetch=2, prefetch_short=2, deliver_first=True)
        return Bounds(self.threads)

    @contextmanager
    def meeting(self, call: Callable[[Any], T]) -> Iterator[Callable[[int], T]]:
        """Give the call itself: there is one process."""
        yield call

    def close(self, grace: float, *, shut_down: bool) -> None:
        """End all work."""
        is_idle = self._crew.close(grace)
        if shut_down:
            self._client.shutdown(wait=is_idle, cancel_futures=True)


def _same(obj: Any) -> Any:
    return obj
