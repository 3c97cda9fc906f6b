"""Tasks on the threads of a pool.

::

      consumer's thread (one for each run)            the pool's threads
    ┌──────────────────────────────────────┐     ┌──────────────────────────┐
    │ drive ── ThreadBackend.submit ───────┼──►  │ lane of the run          │
    │   ▲                                  │     │   │  Crew: fair between  │
    │   │                                  │     │   ▼  lanes               │
    │   └───── ThreadBackend.wait ◄─ inbox ┼──◄  │ pump: work(ticket)       │
    └──────────────────────────────────────┘     └──────────────────────────┘

Who owns what: the executor owns the crew, and shuts the pool down if it is local. Each run has a lane and an inbox of
its own, so that runs and functions never wait for each other's replies; they share the threads only, in turn, by
priority. The inbox is written by the threads and by `RunControl.cancel`, and read by the consumer.

At the end of a run its lane is emptied, its flag is set, and the consumer waits until none of its tasks runs. A task
that never looks at its flag is left behind after a while, with a warning; it keeps its thread until it ends.

When the interpreter exits, all runs are cancelled first: the pool's threads are joined then, whatever they do.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
import weakref
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from tilework.common.backend import get_use_cuda
from tilework.common.executor import Environment
from tilework.common.scheduler import Worker, WorkerSet
from tilework.exceptions import ExecutorSpecException
from tilework.executor.async_adapter import AsyncAdapter
from tilework.executor.crew import Crew, Lane
from tilework.executor.driver import STOP_GRACE_SECONDS
from tilework.executor.inline import InlineBackend
from tilework.executor.local import LocalJobExecutor
from tilework.executor.remote import contained
from tilework.executor.run import Bounds, Completed, Failed
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.common.executor import GPUSpec, Priority, StopFlag, WorkerContext
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.local import Work
    from tilework.executor.run import Event, Ticket

__all__ = ["AsyncConcurrentJobExecutor", "ConcurrentJobExecutor", "ThreadBackend"]

log = logging.getLogger(__name__)

V = TypeVar("V")

# A wait for a lock is not interrupted by Ctrl-C on Windows, and elsewhere not by one that comes just before it begins.
_LONGEST_WAIT: Final = 0.1 if sys.platform == "win32" else 0.5


class ThreadBackend(Generic[V]):
    """One run's lane to the threads, and its inbox for what they answer."""

    def __init__(self, work: Work[V], control: RunControl, crew: Crew, priority: Priority) -> None:
        self.is_blocking = work.is_streamed
        self._work = work
        self._control = control
        self._crew = crew
        self._inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lane: Lane[Ticket[V]] = Lane(priority, self._serve, self._inbox.put)
        control.wake = self._wake

    def submit(self, ticket: Ticket[V]) -> None:
        """Append a ticket to the lane, and push its data."""
        if self.is_blocking:
            self._work.prepare(ticket)
            self._crew.put(self._lane, ticket)
            self._work.feed(ticket)
        else:
            self._crew.put(self._lane, ticket)

    def wait(self, timeout: float | None) -> Iterable[Event]:
        """Return what has arrived, after waiting for something to arrive."""
        inbox = self._inbox
        try:
            first = inbox.get(timeout=_LONGEST_WAIT if timeout is None else min(timeout, _LONGEST_WAIT))
        except queue.Empty:
            return ()
        events = [] if first is None else [first]
        # This is the only reader: what is counted now is there.
        for _ in range(inbox.qsize()):
            event = inbox.get_nowait()
            if event is not None:
                events.append(event)
        return events

    def end(self) -> None:
        """Empty the lane, and wait for what runs."""
        control = self._control
        control.wake = None
        self._work.end()
        lane = self._lane
        if not self._crew.end(lane, control.grace):
            log.warning(
                "the run %r has ended, but %d of its tasks did not stop within %g s and go on in their threads; "
                "a task should call env.raise_if_stopped() between tiles",
                control.cancel_id,
                lane.n_running,
                control.grace,
            )
        # The lane knows this object: results must not wait for the garbage collector to find that circle.
        del self._lane

    def _wake(self) -> None:
        self._inbox.put(None)

    def _serve(self, ticket: Ticket[V]) -> Event:
        """Run one ticket; called by a thread of the pool."""
        start = time.perf_counter()
        try:
            self._control.flag.raise_if_set()  # the run has ended, but has not emptied its lane yet
            result = self._work(ticket)
        except BaseException as error:  # noqa: BLE001  (the run decides)
            return Failed(ticket.number, contained(error))
        return Completed(ticket.number, result, time.perf_counter() - start)


class ConcurrentJobExecutor(LocalJobExecutor):
    """Runs tasks and functions on the threads of a `concurrent.futures.ThreadPoolExecutor`.

    Numerical libraries are limited to one thread inside each task. What is asked for from inside a task or function
    runs in its thread at once, so that it cannot wait for threads that wait for it.

    Parameters
    ----------
    client
        The pool of threads.
    is_local
        Whether to shut the pool down when the executor closes.
    main_process_gpu
        GPU for what runs outside of tasks: the number of a CUDA device, True for the first one, False for none; None
        for the first one if CuPy can use it.

    Raises
    ------
    ExecutorSpecException
        When `client` is not a pool of threads in this process, or the GPU is not there.
    """

    def __init__(self, client: Executor, is_local: bool = False, main_process_gpu: GPUSpec = None) -> None:
        if not isinstance(client, ThreadPoolExecutor):
            msg = (
                f"client must be a concurrent.futures.ThreadPoolExecutor, not {type(client).__name__}: tasks share "
                "their parameters and results with this process. ConcurrentJobExecutor.make_local() makes one"
            )
            raise ExecutorSpecException(msg)
        super().__init__(main_process_gpu)
        self.client = client
        self.is_local = is_local
        self._n_threads = int(getattr(client, "_max_workers", 0)) or available_cpu_count()
        self._crew = Crew(client, self._n_threads)
        _open_executors.add(self)

    @classmethod
    def make_local(cls, n_threads: int | None = None, main_process_gpu: GPUSpec = None) -> Self:
        """Make an executor with threads of its own.

        Parameters
        ----------
        n_threads
            How many; by default as many as there are CPUs that this process may use.
        main_process_gpu
            See the class.

        Returns
        -------
        ConcurrentJobExecutor
            Shuts its threads down when it is closed.

        Raises
        ------
        ExecutorSpecException
            When `n_threads` is less than 1.
        """
        if n_threads is None:
            n_threads = available_cpu_count()
        if n_threads < 1:
            msg = f"n_threads must be at least 1, or None for all CPUs, not {n_threads}"
            raise ExecutorSpecException(msg)
        client = ThreadPoolExecutor(n_threads, thread_name_prefix="tilework")
        return cls(client, is_local=True, main_process_gpu=main_process_gpu)

    def get_available_workers(self) -> WorkerSet:
        """Return the one group of threads, ``concurrent``."""
        resources: dict[Any, int] = {"CPU": 1, "compute": 1, "ndarray": 1}
        if get_use_cuda() is not None:
            resources["CUDA"] = 1
        return WorkerSet([Worker("concurrent", "localhost", resources, self._n_threads)])

    def _open_backend(self, work: Work[V], control: RunControl, priority: Priority) -> Backend[V]:
        if self._crew.is_member():
            return InlineBackend(work)
        return ThreadBackend(work, control, self._crew, priority)

    def _bounds(self, *, is_streamed: bool) -> Bounds:
        if is_streamed:
            # What is under way beyond the running tasks is detector data that waits in memory.
            return Bounds(self._n_threads, prefetch=2, prefetch_short=2, deliver_first=True)
        return Bounds(self._n_threads)

    def _task_environment(self, stop: StopFlag, context: WorkerContext) -> Environment:
        return Environment(1, True, context, get_use_cuda(), stop)

    def _limits(self) -> dict[str, Any]:
        bounds = self._bounds(is_streamed=False)
        return {
            "workers": self._n_threads,
            "threads_per_worker": 1,
            "tasks_under_way": self._n_threads * bounds.prefetch,
            "short_tasks_under_way": self._n_threads * bounds.prefetch_short,
        }

    def _release(self) -> None:
        is_idle = self._crew.close(STOP_GRACE_SECONDS)
        if self.is_local:
            self.client.shutdown(wait=is_idle, cancel_futures=True)
        _open_executors.discard(self)


class AsyncConcurrentJobExecutor(AsyncAdapter):
    """A `ConcurrentJobExecutor` for asyncio.

    Parameters
    ----------
    wrapped
        The executor; by default one is made of the other arguments.
    *args, **kwargs
        For `ConcurrentJobExecutor`.
    """

    def __init__(self, wrapped: ConcurrentJobExecutor | None = None, *args: Any, **kwargs: Any) -> None:
        if wrapped is None:
            wrapped = ConcurrentJobExecutor(*args, **kwargs)
        elif args or kwargs:
            msg = "give either an executor to wrap, or the arguments to make one, not both"
            raise TypeError(msg)
        super().__init__(wrapped)

    @classmethod
    async def make_local(cls, n_threads: int | None = None, main_process_gpu: GPUSpec = None) -> Self:
        """Make an executor with threads of its own; see `ConcurrentJobExecutor.make_local`."""
        return cls(ConcurrentJobExecutor.make_local(n_threads, main_process_gpu))


_open_executors: weakref.WeakSet[ConcurrentJobExecutor] = weakref.WeakSet()


def _cancel_at_exit() -> None:
    for executor in list(_open_executors):
        executor._cancel_all("the interpreter exits")


# Threads of pools are joined before atexit handlers run, and would be waited for until their tasks end by themselves.
# The hook for that moment is not public; without it, an exit in the middle of a run takes until its running tasks are
# done.
_register_atexit = getattr(threading, "_register_atexit", None)
if _register_atexit is not None:
    _register_atexit(_cancel_at_exit)
