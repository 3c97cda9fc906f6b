"""The loop that carries out the decisions of a run: I/O without decisions.

::

      consumer's thread                                         workers
    ┌───────────────────────────────────────────┐
    │ for result, task in drive(run, backend)   │
    │      ▲                                    │
    │      │ yield      Run (decides)           │
    │      │            ▲ events  │ instructions│
    │      │            │         ▼             │
    │      └───────── drive ── backend.submit ──┼──► tickets ──► task(params, env)
    │                   ▲                       │                    │
    │                   └───── backend.wait ◄───┼──── events ◄───────┘
    └───────────────────────────────────────────┘
              ▲ control.cancel(reason): from any thread

Who owns what: the run, the tasks' iterator and the generator belong to the thread that consumes the results, and so
nothing of them is locked. Other threads touch a run at two places only: workers append events to the backend, and
whoever cancels sets `RunControl`, whose flag the running tasks look at between tiles.

A generator may be left in any way: exhausted, closed, with an exception thrown in, or with a KeyboardInterrupt out of
a wait. Each way passes through the one ``finally``, where the backend drops what has not begun, and waits for what
runs to stop. That wait is bounded; a second KeyboardInterrupt ends it at once.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from tilework.common.environment import StopFlag, deadline_after
from tilework.executor.run import Cancelled, Deliver, Submit, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from tilework.executor.run import Event, Run, Ticket

__all__ = ["STOP_GRACE_SECONDS", "Backend", "RunControl", "drive", "warn_still_running"]

log = logging.getLogger(__name__)

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

STOP_GRACE_SECONDS: Final = 10.0
"""How long the end of a run waits for its running tasks. Those that look at their flag need one tile."""


class Backend(Protocol[T_contra]):
    """One run's way to its workers."""

    is_blocking: bool
    """Whether `submit` may take as long as it takes a detector to deliver the task's data."""

    def submit(self, ticket: Ticket[T_contra]) -> None:
        """Give a ticket to the workers."""
        ...

    def wait(self, timeout: float | None) -> Iterable[Event]:
        """Return what happened; when nothing did, wait for it, at most `timeout` seconds (None: for ever).

        May return nothing before the time is over.
        """
        ...

    def end(self) -> None:
        """Drop the tickets that have not begun, and wait for the running ones for a bounded time.

        The run's flag is set before.
        """
        ...


class RunControl:
    """One run, as seen by everybody but its consumer.

    Parameters
    ----------
    cancel_id
        The name by which it is cancelled.
    timeout
        Seconds from now until its deadline; None for no deadline.
    grace
        How long its end waits for what is still running, in seconds.
    """

    __slots__ = ("__weakref__", "cancel_id", "deadline", "flag", "grace", "reason", "wake")

    def __init__(self, cancel_id: Any, timeout: float | None = None, grace: float = STOP_GRACE_SECONDS) -> None:
        self.cancel_id = cancel_id
        self.grace = grace
        self.deadline = deadline_after(timeout)
        self.flag = StopFlag(self.deadline)
        self.reason: str | None = None
        self.wake: Callable[[], None] | None = None

    def cancel(self, reason: str) -> None:
        """Let the run end with a JobCancelledError, and its running tasks stop at their next tile."""
        # The reason comes before the flag: a task that stops because of the flag must not be what ends the run.
        if self.reason is None:
            self.reason = reason
        self.flag.set(reason)
        wake = self.wake
        if wake is not None:
            wake()


def warn_still_running(control: RunControl, n_tasks: int | None = None) -> None:
    """Log that tasks of a run did not stop in time, which has ended; None: it is not known how many."""
    log.warning(
        "the run %r has ended, but %s of its tasks did not stop within %g s and go on on their workers; "
        "a task should call env.raise_if_stopped() between tiles",
        control.cancel_id,
        "some" if n_tasks is None else n_tasks,
        control.grace,
    )


def drive(
    run: Run[T],
    backend: Backend[T],
    control: RunControl,
    meanwhile: Callable[[], None] | None = None,
    check_process: Callable[[], None] = lambda: None,
) -> Generator[tuple[Any, T], None, None]:
    """Yield ``(result, task)`` until the run is over, however it ends.

    Parameters
    ----------
    run
        Decides what is done.
    backend
        Its way to the workers.
    control
        The run, as others see it.
    meanwhile
        See `RunOptions`.
    check_process
        Raises in a process that was forked since the step before, in which the run has no workers.
    """
    clock = time.monotonic
    pid = os.getpid()
    try:
        while True:
            if control.reason is not None:
                run.handle(Cancelled(control.reason))
            instruction = run.next(clock())
            if meanwhile is not None and (backend.is_blocking or isinstance(instruction, Wait)):
                meanwhile()
                meanwhile = None
            if isinstance(instruction, Deliver):
                yield instruction.result, instruction.task
                check_process()
            elif isinstance(instruction, Submit):
                backend.submit(instruction.ticket)
                if backend.is_blocking:
                    _take_events(run, backend, control, 0.0)
            elif isinstance(instruction, Wait):
                until = instruction.until
                _take_events(run, backend, control, None if until is None else max(0.0, until - clock()))
            else:
                error = instruction.error
                break
    finally:
        if os.getpid() == pid:  # not in a process that was forked meanwhile
            # Also when a second KeyboardInterrupt hits in here, nothing of the run goes on beyond the next tile.
            try:
                control.flag.set("the run has ended")
                run.close()
            finally:
                backend.end()
    if error is not None:
        try:
            del instruction
            raise error
        finally:
            # else the error's traceback would hold this frame, and this frame the error
            del error


def _take_events(run: Run[T], backend: Backend[T], control: RunControl, timeout: float | None) -> None:
    event: Event | None = None
    for event in backend.wait(timeout):
        if control.reason is not None:
            run.handle(Cancelled(control.reason))
        run.handle(event)
    # An error that was raised in here, by an inline task, has this frame in its traceback: the frame must not have the
    # error.
    del event
