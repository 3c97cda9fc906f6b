"""A pool of threads that Ctrl-C cannot leave locked.

`concurrent.futures.ThreadPoolExecutor.submit` takes locks which are written in Python. A KeyboardInterrupt that comes
while the main thread is in there can leave one of them locked, and then nobody gets any further: not the threads, and
not the next run. Here a job is handed over in one step that is not interrupted. A future has such a lock, too: a main
thread that waits for one must bear that its job never ends.
"""

from __future__ import annotations

import _thread
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tilework.executor.at_exit import cancel_at_exit, come_before, no_more

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SteadyThreads"]

P = ParamSpec("P")
T = TypeVar("T")


class SteadyThreads(ThreadPoolExecutor):
    """A pool that may be used from the main thread of a program that is interrupted.

    Its threads are started at once, and take jobs from a queue. When the interpreter exits, it waits for what they do.

    Parameters
    ----------
    n_threads
        How many threads.
    name
        What their names begin with.

    Raises
    ------
    RuntimeError
        When the system gives no more threads.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        super().__init__(n_threads, thread_name_prefix=name)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # A KeyboardInterrupt does not leave a plain lock locked.
        self._lock = threading.Lock()
        self._is_over = False
        threads: set[threading.Thread] = set()
        self._threads = threads  # the base class joins them
        # First, as it may be interrupted: without it, threads that have started would never end.
        weakref.finalize(self, _end, self._jobs, n_threads)
        # Started by one that is not interrupted: Thread.start() has a lock that is written in Python.
        outcome: SimpleQueue[BaseException | None] = SimpleQueue()
        try:
            _thread.start_new_thread(_start, (threads, n_threads, name, self._jobs, outcome))
            error = outcome.get()
            if error is not None:
                raise error
        except BaseException as error:
            # Those that have started: the traceback keeps this pool, and the interpreter would wait for them.
            _end(self._jobs, n_threads)
            if isinstance(error, RuntimeError):
                error.add_note(f"of {n_threads} threads: use fewer, or raise the limit of processes (ulimit -u)")
            raise
        come_before(ThreadPoolExecutor)
        cancel_at_exit(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let a thread call a function.

        Raises
        ------
        RuntimeError
            When the pool was shut down.
        """
        job = _Job(fn, args, kwargs)
        with self._lock:
            if self._is_over:
                msg = "the threads take no more work: their pool was shut down"
                raise RuntimeError(msg)
            self._jobs.put(job)
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads, after what they were given; with `cancel_futures`, after what they do now."""
        with self._lock:
            self._is_over = True
            if cancel_futures:
                _drop(self._jobs)
        _end(self._jobs, self._max_workers)
        no_more(self)
        super().shutdown(wait)

    def _cancel_all(self, reason: str) -> None:  # noqa: ARG002
        """At the exit of the interpreter, which joins the threads: let them end."""
        self.shutdown(wait=False)


class _Job:
    """A call, and where its outcome goes."""

    __slots__ = ("call", "future")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.call = fn, args, kwargs
        self.future: Future[Any] = Future()

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        fn, args, kwargs = self.call
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


def _start(
    threads: set[threading.Thread],
    n_threads: int,
    name: str,
    jobs: SimpleQueue[_Job | None],
    outcome: SimpleQueue[BaseException | None],
) -> None:
    """Start threads that run jobs, and say so."""
    try:
        for i in range(n_threads):
            # Whether it is a daemon would else be asked of this thread, which then counts as one of Python's for good.
            thread = threading.Thread(target=_serve, args=(jobs,), name=f"{name}_{i}", daemon=False)
            thread.start()
            threads.add(thread)
    except BaseException as error:  # noqa: BLE001  (it is raised where the pool is made)
        outcome.put(error)
    else:
        outcome.put(None)


def _drop(jobs: SimpleQueue[_Job | None]) -> None:
    """Cancel what waits."""
    try:
        while True:
            job = jobs.get_nowait()
            if job is not None:
                job.future.cancel()
    except Empty:
        pass


def _end(jobs: SimpleQueue[_Job | None], n_threads: int) -> None:
    """Let the threads end after what waits."""
    for _ in range(n_threads):
        jobs.put(None)


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    """Run jobs until there is none to come."""
    while (job := jobs.get()) is not None:
        job.run()
        del job
