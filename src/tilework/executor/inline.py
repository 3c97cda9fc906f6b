"""The readable reference: one task after the other, in the calling thread."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tilework.common.backend import get_use_cuda
from tilework.common.executor import Environment
from tilework.common.threading import leave_limits, limits_entered
from tilework.exceptions import ExecutorSpecException
from tilework.executor.local import LocalJobExecutor, workers_here
from tilework.executor.remote import contained, dumps, loads
from tilework.executor.run import Bounds, Completed, Failed
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.common.executor import GPUSpec, Priority, StopFlag, WorkerContext
    from tilework.common.scheduler import WorkerSet
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.local import Work
    from tilework.executor.run import Event, Ticket

__all__ = ["InlineBackend", "InlineJobExecutor"]

V = TypeVar("V")


class InlineBackend(Generic[V]):
    """Runs a ticket when its result is waited for."""

    def __init__(self, work: Work[V]) -> None:
        self.is_blocking = work.is_streamed
        self._work = work
        self._tickets: deque[Ticket[V]] = deque()

    def submit(self, ticket: Ticket[V]) -> None:
        """Take a ticket, and push its data."""
        self._work.prepare(ticket)
        self._tickets.append(ticket)
        self._work.feed(ticket)

    def wait(self, timeout: float | None) -> Iterable[Event]:  # noqa: ARG002
        """Run the oldest ticket, however long that takes."""
        if not self._tickets:
            return ()
        ticket = self._tickets.popleft()
        limits = limits_entered()
        try:
            return (Completed(ticket.number, self._work(ticket), 0.0),)
        except KeyboardInterrupt:  # it is the consumer who is interrupted: this is his thread
            leave_limits(limits)
            raise
        except BaseException as error:  # noqa: BLE001  (the run decides)
            return (Failed(ticket.number, contained(error)),)

    def end(self) -> None:
        """Forget the tickets that have not begun."""
        self._tickets.clear()


class InlineJobExecutor(LocalJobExecutor):
    """Runs everything in the calling thread, one after the other.

    Parameters
    ----------
    debug
        Whether tasks, parameters, functions and results go through cloudpickle, so that what other executors could not
        send fails here, where a debugger can look at it; and functions that numba compiles for users look at every
        index.
    inline_threads
        How many threads numerical libraries may use inside a task; by default as many as there are CPUs to be used.
    main_process_gpu
        GPU for what runs outside of tasks: the number of a CUDA device, True for the first one, False for none; None
        for the first one if CuPy can use it.

    Raises
    ------
    ExecutorSpecException
        When `inline_threads` is less than 1, or the GPU is not there.
    """

    _survives_fork = True

    def __init__(
        self, debug: bool = False, inline_threads: int | None = None, main_process_gpu: GPUSpec = None
    ) -> None:
        if inline_threads is not None and inline_threads < 1:
            msg = f"inline_threads must be at least 1, or None for all CPUs, not {inline_threads}"
            raise ExecutorSpecException(msg)
        super().__init__(main_process_gpu)
        self._debug = debug
        self._threads = inline_threads or available_cpu_count()

    def get_available_workers(self) -> WorkerSet:
        """Return the one worker, ``inline``."""
        return workers_here(["inline"], 1)

    def _open_backend(self, work: Work[V], control: RunControl, priority: Priority) -> Backend[V]:  # noqa: ARG002
        return InlineBackend(work)

    def _bounds(self, *, is_streamed: bool) -> Bounds:  # noqa: ARG002
        return Bounds(workers=1, prefetch=1, prefetch_short=1, deliver_first=True)

    def _task_environment(self, stop: StopFlag, context: WorkerContext) -> Environment:
        return Environment(self._threads, False, context, get_use_cuda(), stop, debug=self._debug)

    def _get_local_env(self) -> Environment:
        return Environment(self._threads, False, None, self._main_gpu())

    def _transfer(self, obj: Any) -> Any:
        if not self._debug:
            return obj
        try:
            return loads(dumps(obj))
        except Exception as error:
            error.add_note(f"InlineJobExecutor(debug=True) sent this through cloudpickle: {obj!r}")
            raise

    def _limits(self) -> dict[str, Any]:
        return {"workers": 1, "threads_per_worker": self._threads, "tasks_under_way": 1, "debug": self._debug}

    def _release(self) -> None:
        """There is nothing: the worker is the caller."""
