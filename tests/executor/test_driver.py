"""The loop between a run and a backend, with a backend that does what the test says."""

from __future__ import annotations

import gc
import time
import weakref
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.exceptions import DeadlineExceededError, JobCancelledError
from tilework.executor.driver import RunControl, drive
from tilework.executor.run import Bounds, Completed, Event, Failed, Lost, Run, RunState, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class ScriptedBackend:
    """Answers all tickets at once, unless it is told what to do instead."""

    is_blocking = False

    def __init__(self, answer: Callable[[Ticket[int]], Event] | None = None) -> None:
        self.answer = answer or (lambda ticket: Completed(ticket.number, -ticket.task, 1.0))
        self.tickets: list[Ticket[int]] = []
        self.ended = 0
        self.timeouts: list[float | None] = []
        self.on_wait: Callable[[], Any] = lambda: None
        self.on_end: Callable[[], Any] = lambda: None

    def submit(self, ticket: Ticket[int]) -> None:
        self.tickets.append(ticket)

    def wait(self, timeout: float | None) -> Iterable[Event]:
        self.timeouts.append(timeout)
        self.on_wait()
        tickets, self.tickets = self.tickets, []
        return [self.answer(ticket) for ticket in tickets]

    def end(self) -> None:
        self.ended += 1
        self.on_end()


def make_run(n: int = 10, **kwargs: Any) -> Run[int]:
    return Run(range(n), Bounds(workers=2), **kwargs)


def test_to_the_end() -> None:
    """All results come with their tasks, and the backend is ended once."""
    run, backend, control = make_run(), ScriptedBackend(), RunControl("x")
    assert list(drive(run, backend, control)) == [(-i, i) for i in range(10)]
    assert (run.state, backend.ended, backend.timeouts[0]) == (RunState.FINISHED, 1, None)


@pytest.mark.parametrize(("is_blocking", "given_out"), [(False, [0, 1, 2, 3]), (True, [])])
def test_what_is_done_meanwhile(is_blocking: bool, given_out: list[int]) -> None:
    """Once, before the first wait; where giving out takes as long as a detector takes, before that."""
    backend, seen = ScriptedBackend(), list[Any]()
    backend.is_blocking = is_blocking

    def meanwhile() -> None:
        seen.append([ticket.task for ticket in backend.tickets])
        assert not backend.timeouts

    results = drive(make_run(), backend, RunControl("x"), meanwhile)
    assert not seen
    assert list(results) == [(-i, i) for i in range(10)]
    assert seen == [given_out]


def test_what_fails_meanwhile_ends_the_run() -> None:
    backend = ScriptedBackend()

    def fail() -> None:
        raise ArithmeticError("meanwhile")

    with pytest.raises(ArithmeticError, match="meanwhile"):
        list(drive(make_run(), backend, RunControl("x"), fail))
    assert backend.ended == 1


def test_nothing_happens_before_it_is_asked() -> None:
    """A generator that was not started does nothing, also when it is closed."""
    backend = ScriptedBackend()
    generator = drive(make_run(), backend, RunControl("x"))
    generator.close()
    assert (backend.ended, backend.tickets) == (0, [])


def test_error_of_a_task() -> None:
    """The error is the very object, raised after the end of the backend; nothing holds on to it afterwards."""

    class MyError(Exception):
        pass

    backend = ScriptedBackend(lambda ticket: Failed(ticket.number, MyError()))
    control = RunControl("x")
    watched: weakref.ref[Any] | None = None
    try:
        list(drive(make_run(), backend, control))
    except MyError as error:
        watched = weakref.ref(error)
        assert backend.ended == 1
        assert control.flag.is_set()
    assert watched is not None
    gc.disable()
    try:
        assert watched() is None, "a reference cycle keeps the error, and with it all frames, until the next collection"
    finally:
        gc.enable()


@pytest.mark.parametrize("leave", ["close", "throw", "interrupt"])
def test_ways_to_leave(leave: str) -> None:
    """However a generator is left: the flag is set when the backend is ended, and it is ended once."""
    run, backend, control = Run(count(), Bounds(workers=2)), ScriptedBackend(), RunControl("x")
    flags: list[bool] = []
    backend.on_end = lambda: flags.append(control.flag.is_set())

    def interrupt() -> None:
        if backend.timeouts[2:]:
            raise KeyboardInterrupt

    generator = drive(run, backend, control)
    next(generator)
    if leave == "close":
        generator.close()
    elif leave == "throw":
        with pytest.raises(LookupError):
            generator.throw(LookupError())
    else:
        backend.on_wait = interrupt
        with pytest.raises(KeyboardInterrupt):
            list(generator)
    assert (flags, run.state) == ([True], RunState.CLOSED)
    assert list(generator) == []


def test_error_of_the_end() -> None:
    """A second KeyboardInterrupt, in the wait for running tasks, comes out with the first as its context."""
    backend = ScriptedBackend()

    def second() -> None:
        msg = "second"
        raise KeyboardInterrupt(msg)

    generator = drive(make_run(), backend, RunControl("x"))
    next(generator)
    backend.on_end = second
    with pytest.raises(KeyboardInterrupt, match="second") as caught:
        generator.throw(KeyboardInterrupt("first"))
    assert str(caught.value.__context__) == "first"


def test_cancel_wins_over_what_it_causes() -> None:
    """The reason of a cancel ends the run, not the error of a task that stops because of it."""
    backend, control = (
        ScriptedBackend(lambda t: Failed(t.number, JobCancelledError("I was told to stop"))),
        RunControl(1),
    )
    backend.on_wait = lambda: control.cancel("not needed")
    with pytest.raises(JobCancelledError, match="not needed"):
        list(drive(make_run(), backend, control))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int64])
def test_deadline_of_numpy(kind: Callable[[int], Any]) -> None:
    """It has all digits, however long the machine has been running, and can be waited for."""
    before = time.monotonic()
    deadline = RunControl("x", timeout=kind(7)).deadline
    assert type(deadline) is float
    assert before <= deadline - 7 <= time.monotonic()


def test_deadline() -> None:
    """Waits end at the deadline, and then the run does."""
    backend, control = ScriptedBackend(), RunControl("x", timeout=0.05)
    run: Run[int] = Run(count(), Bounds(workers=1), deadline=control.deadline)
    backend.on_wait = backend.tickets.clear
    with pytest.raises(DeadlineExceededError):
        list(drive(run, backend, control))
    assert all(timeout is not None and 0 <= timeout <= 0.05 for timeout in backend.timeouts)


def test_lost_tickets_are_submitted_again() -> None:
    """Every second ticket is lost; all tasks are delivered all the same, in order."""
    backend = ScriptedBackend(
        lambda t: Lost(t.number, "killed") if t.number % 2 else Completed(t.number, -t.task, 1.0),
    )
    run = make_run(ordered=True)
    assert list(drive(run, backend, RunControl("x"))) == [(-i, i) for i in range(10)]
    assert run.losses > 0


def test_blocking_backend_delivers_in_between() -> None:
    """When submitting blocks, results are looked for, without waiting, after each ticket."""
    backend = ScriptedBackend()
    backend.is_blocking = True
    run: Run[int] = Run(range(10), Bounds(workers=4, deliver_first=True))
    assert list(drive(run, backend, RunControl("x"))) == [(-i, i) for i in range(10)]
    assert backend.timeouts == [0.0] * 10
