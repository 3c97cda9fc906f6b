"""The decisions of a run, without any worker: single steps first, then all orders of events that hypothesis finds."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tilework.exceptions import DeadlineExceededError, JobCancelledError, WorkerLostError
from tilework.executor.run import (
    SHARE_SECONDS,
    Bounds,
    Cancelled,
    Completed,
    Deliver,
    Failed,
    Finish,
    Instruction,
    Lost,
    Run,
    RunState,
    Submit,
    Ticket,
    Wait,
    WorkersChanged,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 1.0  # seconds that a task takes in these tests: no short tasks unless a test says so


def submitted(run: Run[int], now: float = 0.0) -> list[Ticket[int]]:
    """All tickets that the run gives out now."""
    tickets: list[Ticket[int]] = []
    while isinstance(instruction := run.next(now), Submit):
        tickets.append(instruction.ticket)
    assert isinstance(instruction, Wait), instruction
    return tickets


def done(ticket: Ticket[int], seconds: float = LONG) -> Completed:
    return Completed(ticket.number, ticket.task * 10, seconds)


def finish_error(instruction: Instruction[int]) -> BaseException | None:
    assert isinstance(instruction, Finish), instruction
    return instruction.error


def test_life_of_a_run() -> None:
    """Submit while there is room, wait, deliver, submit more, finish; and then nothing but finish."""
    run = Run(range(3), Bounds(workers=1, prefetch=2))
    a, b = submitted(run)
    assert (a.index, a.task, b.index, b.task) == (0, 0, 1, 1)
    run.handle(done(b))
    assert run.next(0.0) == Submit(Ticket(2, 2, 2))
    assert run.next(0.0) == Deliver(10, 1)
    assert run.next(0.0) == Wait(None)
    run.handle(done(a))
    run.handle(Completed(2, 20, LONG))
    assert [run.next(0.0), run.next(0.0)] == [Deliver(0, 0), Deliver(20, 2)]
    assert run.state is RunState.RUNNING
    assert run.next(0.0) == Finish(None)
    assert run.next(0.0) == Finish(None)
    assert (run.state, run.delivered, run.losses) == (RunState.FINISHED, 3, 0)


def test_no_tasks() -> None:
    """A run without tasks is finished at once."""
    run: Run[int] = Run([], Bounds(workers=2))
    assert run.next(0.0) == Finish(None)
    assert run.state is RunState.FINISHED


def test_deliver_first() -> None:
    """A result is delivered before the next task is even pulled, when that is asked for."""
    pulled = []

    def tasks() -> Iterator[int]:
        for i in count():
            pulled.append(i)
            yield i

    run = Run(tasks(), Bounds(workers=1, prefetch=1, prefetch_short=1, deliver_first=True))
    (ticket,) = submitted(run)
    run.handle(done(ticket))
    assert run.next(0.0) == Deliver(0, 0)
    assert pulled == [0]


def test_ordered_through_a_bounded_window() -> None:
    """A slow first task does not stop the others until the window is full; then everything comes in order."""
    run = Run(count(), Bounds(workers=1, prefetch=2, prefetch_short=2, windows=4), ordered=True)
    slow, *others = submitted(run)
    n_done = 0
    while others:
        run.handle(done(others.pop()))
        n_done += 1
        others.extend(submitted(run))
    assert n_done == 7, "the window of 8 holds the slow task and seven results"
    assert run.n_undelivered == 7
    run.handle(done(slow))
    delivered = []
    while not isinstance(instruction := run.next(0.0), Wait):
        if isinstance(instruction, Deliver):
            delivered.append(instruction.task)
    assert delivered == list(range(8))


@pytest.mark.parametrize("ordered", [False, True])
def test_undelivered_results_stop_the_run(ordered: bool) -> None:
    """A driver that never delivers gets no more tickets after a while: results do not pile up."""
    run = Run(count(), Bounds(workers=2, prefetch=1, prefetch_short=1, windows=3), ordered=ordered)
    n = 0
    while isinstance(instruction := run.next(0.0), Submit):
        n += 1
        run.handle(done(instruction.ticket))
    assert isinstance(instruction, Deliver)
    assert n == (6 if ordered else 4)


def test_short_tasks_raise_the_limit() -> None:
    """A worker gets more tickets while tasks are short, up to a bound, and fewer again when they are not."""
    run = Run(count(), Bounds(workers=2, prefetch=2, prefetch_short=32))
    tickets = submitted(run)
    assert len(tickets) == run.limit == 4
    for expected, seconds in ((64, 0.0), (64, SHARE_SECONDS / 1000), (4, LONG), (4, LONG)):
        for ticket in tickets:
            run.handle(done(ticket, seconds))
        tickets = list(_submitted_after_results(run))
        assert run.limit == expected
    between = Run(count(), Bounds(workers=1, prefetch=2, prefetch_short=32))
    for ticket in submitted(between):
        between.handle(done(ticket, SHARE_SECONDS / 10.5))
    assert between.limit == 10


def _submitted_after_results(run: Run[int]) -> Iterator[Ticket[int]]:
    while not isinstance(instruction := run.next(0.0), Wait | Finish):
        if isinstance(instruction, Submit):
            yield instruction.ticket


@pytest.mark.parametrize("ordered", [False, True])
def test_first_error_wins(ordered: bool) -> None:
    """The first error ends the run: nothing else is submitted, delivered or raised."""
    run = Run(count(), Bounds(workers=4, prefetch=1), ordered=ordered)
    a, b, c, d = submitted(run)
    run.handle(done(a))
    first, second = ValueError("first"), ValueError("second")
    run.handle(Failed(c.number, first))
    run.handle(Failed(b.number, second))
    run.handle(done(d))
    assert finish_error(run.next(0.0)) is first
    assert finish_error(run.next(0.0)) is None, "an error is given once"
    assert (run.state, run.delivered, run.n_undelivered, run.n_under_way) == (RunState.FAILED, 0, 0, 0)


def test_lost_when_there_are_fewer_workers() -> None:
    """What was under way is under way again at once: where data is streamed, all others may wait for it."""
    run = Run(range(8), Bounds(workers=3, prefetch=2))
    tickets = submitted(run)
    run.handle(WorkersChanged(1))
    run.handle(Lost(tickets[1].number, "killed"))
    (again,) = submitted(run)
    assert again.index == 1
    assert run.n_under_way == 6 > run.limit


def test_error_of_the_iterator() -> None:
    """An error while pulling ends the run like an error of a task."""

    def tasks() -> Iterator[int]:
        yield 0
        raise LookupError

    run = Run(tasks(), Bounds(workers=4))
    assert isinstance(run.next(0.0), Submit)
    assert isinstance(finish_error(run.next(0.0)), LookupError)
    assert run.state is RunState.FAILED


def test_cancel() -> None:
    """Cancelling drops also what is ready."""
    run = Run(count(), Bounds(workers=1))
    a, _ = submitted(run)
    run.handle(done(a))
    run.handle(Cancelled("not needed any more"))
    error = finish_error(run.next(0.0))
    assert type(error) is JobCancelledError
    assert str(error) == "not needed any more"
    assert run.state is RunState.CANCELLED


def test_deadline() -> None:
    """Waits are limited by the deadline; when it has passed, the run is over."""
    run = Run(count(), Bounds(workers=1), deadline=5.0)
    assert len([run.next(4.0), run.next(4.0)]) == 2
    assert run.next(4.0) == Wait(5.0)
    assert isinstance(finish_error(run.next(5.0)), DeadlineExceededError)
    assert run.state is RunState.EXPIRED


def test_deadline_passes_after_the_last_result() -> None:
    """A run whose last task is delivered in time is finished, however late its consumer asks again."""
    run = Run([0], Bounds(workers=1, prefetch=1, prefetch_short=1, deliver_first=True), deadline=5.0)
    (ticket,) = submitted(run)
    run.handle(done(ticket))
    assert run.next(1.0) == Deliver(0, 0)
    assert run.next(99.0) == Finish(None)
    assert run.state is RunState.FINISHED


def test_close() -> None:
    """A run that its consumer closes ends without error; closing what is over changes nothing."""
    run = Run(count(), Bounds(workers=1))
    submitted(run)
    run.close()
    assert run.next(0.0) == Finish(None)
    assert run.state is RunState.CLOSED
    run.handle(Cancelled("too late"))
    run.close()
    assert (run.state, run.next(0.0)) == (RunState.CLOSED, Finish(None))


def test_lost_worker() -> None:
    """The unfinished task runs again, with a new ticket; what the lost attempt still sends is ignored."""
    run = Run(range(2), Bounds(workers=1))
    a, b = submitted(run)
    run.handle(Lost(a.number, "killed by signal 9"))
    (again,) = submitted(run)
    assert (again.index, again.task) == (a.index, a.task)
    assert again.number not in {a.number, b.number}
    run.handle(Completed(a.number, "late", LONG))
    run.handle(Failed(a.number, ValueError("late")))
    run.handle(done(again))
    run.handle(done(b))
    assert [run.next(0.0) for _ in range(3)] == [Deliver(0, 0), Deliver(10, 1), Finish(None)]
    assert run.losses == 1


def test_task_that_kills_its_workers() -> None:
    """Three losses of the same task end the run, with an error that names the partition and the cause."""
    run = Run(range(2), Bounds(workers=1), name=lambda ticket: f"part-{ticket.task}")
    _, ticket = submitted(run)
    for n in range(3):
        run.handle(Lost(ticket.number, f"killed by signal {n}"))
        if n < 2:
            (ticket,) = submitted(run)
    error = finish_error(run.next(0.0))
    assert isinstance(error, WorkerLostError)
    assert "part-1" in str(error)
    assert "killed by signal 2" in str(error)
    assert "3 times" in str(error)


def test_a_queued_task_is_not_blamed() -> None:
    """A task that had not begun when its worker was lost runs again as often as it takes."""
    run = Run([0], Bounds(workers=1))
    for _ in range(10):
        (ticket,) = submitted(run)
        run.handle(Lost(ticket.number, "killed", is_started=False))
    (ticket,) = submitted(run)
    run.handle(done(ticket))
    assert run.next(0.0) == Deliver(0, 0)
    assert run.losses == 10


def test_no_workers_for_a_while() -> None:
    """Without workers a run waits; it goes on when there are some, also when it was lost track of by all of them."""
    run = Run(range(4), Bounds(workers=2, prefetch=1, prefetch_short=1), ordered=True)
    for ticket in submitted(run):
        run.handle(Lost(ticket.number, "gone", is_started=False))
    run.handle(WorkersChanged(0))
    assert submitted(run) == []
    run.handle(WorkersChanged(1))
    assert [ticket.index for ticket in submitted(run)] == [0]


@pytest.mark.parametrize(
    "wrong", [{"workers": -1}, {"prefetch": 0}, {"prefetch": 4, "prefetch_short": 2}, {"windows": 0}, {"losses": 0}]
)
def test_bounds_are_checked(wrong: dict[str, Any]) -> None:
    """Bounds with which no run could go on are refused."""
    with pytest.raises(ValueError, match="bounds"):
        Bounds(**{"workers": 1, **wrong})


class AnyRun(RuleBasedStateMachine):
    """Drives a run with every event at any time, and compares it with the simplest bookkeeping."""

    @initialize(
        n=st.integers(0, 30),
        workers=st.integers(0, 4),
        prefetch=st.integers(1, 3),
        more=st.integers(0, 4),
        windows=st.integers(1, 3),
        ordered=st.booleans(),
        deliver_first=st.booleans(),
        deadline=st.none() | st.floats(1.0, 10.0),
    )
    def begin(
        self,
        n: int,
        workers: int,
        prefetch: int,
        more: int,
        windows: int,
        ordered: bool,
        deliver_first: bool,
        deadline: float | None,
    ) -> None:
        self.bounds = Bounds(workers, prefetch, prefetch + more, windows, deliver_first=deliver_first)
        self.n = n
        self.ordered = ordered
        self.deadline = deadline
        self.now = 0.0
        self.pulled = 0
        self.run_ = Run(self.tasks(), self.bounds, ordered=ordered, deadline=deadline)
        self.under_way: dict[int, Ticket[int]] = {}
        self.given_up: list[int] = []
        self.lost: set[int] = set()
        self.most = 0
        self.blamed: dict[int, int] = {}
        self.delivered: list[int] = []
        self.most_workers = workers
        self.error: BaseException | None = None
        self.is_over = False
        self.last: Instruction[int] | None = None

    def tasks(self) -> Iterator[int]:
        for i in range(self.n):
            self.pulled += 1
            yield i

    def step(self) -> Instruction[int]:
        """Do what the run says, once."""
        self.last = self.run_.next(self.now)
        match self.last:
            case Submit(ticket):
                assert not self.is_over
                assert ticket.number not in self.under_way
                assert ticket.number not in self.given_up
                assert ticket.index == ticket.task
                assert ticket.index not in self.delivered
                assert ticket.index not in [other.index for other in self.under_way.values()]
                self.under_way[ticket.number] = ticket
                self.most = max(self.most, self.run_.limit)
                assert len(self.under_way) <= (self.most if ticket.index in self.lost else self.run_.limit)
            case Deliver(result, task):
                assert not self.is_over
                assert result == task * 10
                assert task not in self.delivered
                self.delivered.append(task)
            case Finish(error):
                if not self.is_over:
                    assert error is self.error or (self.error is None and isinstance(error, DeadlineExceededError))
                    self.error = error
                    self.is_over = True
                    if self.run_.state is RunState.FINISHED:
                        assert error is None
                        assert sorted(self.delivered) == list(range(self.n))
                        assert not self.under_way
                else:
                    assert error is None
            case Wait(until):
                assert until == self.deadline
                assert self.under_way or self.run_.limit == 0, "it waits for nothing"
        return self.last

    @rule()
    def one_step(self) -> None:
        self.step()

    @rule()
    def steps_until_wait(self) -> None:
        while not isinstance(self.step(), Wait | Finish):
            pass

    def pick(self, data: st.DataObject) -> Ticket[int]:
        number = data.draw(st.sampled_from(sorted(self.under_way)))
        self.given_up.append(number)
        return self.under_way.pop(number)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, SHARE_SECONDS / 3, LONG]))
    def complete(self, data: st.DataObject, seconds: float) -> None:
        ticket = self.pick(data)
        self.run_.handle(done(ticket, seconds))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), is_started=st.booleans())
    def lose(self, data: st.DataObject, is_started: bool) -> None:
        ticket = self.pick(data)
        was_running = self.run_.state is RunState.RUNNING
        self.run_.handle(Lost(ticket.number, "killed", is_started))
        self.lost.add(ticket.index)
        self.blamed[ticket.index] = self.blamed.get(ticket.index, 0) + is_started
        if was_running and self.blamed[ticket.index] >= 3:
            assert self.run_.state is RunState.FAILED
            self.finish_with(WorkerLostError)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        ticket = self.pick(data)
        was_running = self.run_.state is RunState.RUNNING
        error = ValueError(ticket.index)
        self.run_.handle(Failed(ticket.number, error))
        if was_running:
            self.error = error
            assert self.run_.state is RunState.FAILED

    @rule(reason=st.just("cancelled"))
    @precondition(lambda self: len(self.delivered) > 3)
    def cancel(self, reason: str) -> None:
        was_running = self.run_.state is RunState.RUNNING
        self.run_.handle(Cancelled(reason))
        if was_running:
            self.finish_with(JobCancelledError)

    @rule()
    @precondition(lambda self: len(self.delivered) > 5)
    def close(self) -> None:
        self.run_.close()

    def finish_with(self, kind: type[Exception]) -> None:
        instruction = self.run_.next(self.now)
        assert isinstance(instruction, Finish)
        assert isinstance(instruction.error, kind)
        self.error = None
        self.is_over = True

    @rule(workers=st.integers(0, 5))
    def change_workers(self, workers: int) -> None:
        self.most_workers = max(self.most_workers, workers)
        self.run_.handle(WorkersChanged(workers))

    @rule(seconds=st.floats(0.0, 0.5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.given_up)
    @rule(data=st.data(), fails=st.booleans())
    def late_answer(self, data: st.DataObject, fails: bool) -> None:
        number = data.draw(st.sampled_from(self.given_up))
        before = (self.run_.state, self.run_.n_undelivered, self.run_.n_under_way)
        self.run_.handle(Failed(number, ValueError("late")) if fails else Completed(number, "late", LONG))
        assert (self.run_.state, self.run_.n_undelivered, self.run_.n_under_way) == before

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "run_"):
            return
        most = self.most_workers * self.bounds.prefetch_short
        assert self.run_.n_under_way <= most
        if self.ordered:
            assert self.delivered == list(range(len(self.delivered)))
            assert self.pulled - len(self.delivered) <= most * self.bounds.windows + 1
        else:
            assert self.pulled - len(self.delivered) <= 2 * most + 1
        if self.run_.state is not RunState.RUNNING:
            assert self.run_.n_undelivered == self.run_.n_under_way == 0
        else:
            assert self.run_.n_under_way == len(self.under_way)

    def teardown(self) -> None:
        """Without further trouble, every run comes to its end."""
        if not hasattr(self, "run_"):
            return
        self.run_.handle(WorkersChanged(1))
        self.most_workers = max(self.most_workers, 1)
        for _ in range(10 * self.n + 10):
            if isinstance(self.step(), Finish):
                break
            if isinstance(self.last, Wait):
                number = next(iter(self.under_way))
                self.run_.handle(done(self.under_way.pop(number)))
        assert isinstance(self.last, Finish)
        assert self.run_.state is not RunState.RUNNING


AnyRun.TestCase.settings = settings(max_examples=200, stateful_step_count=80, deadline=None)
TestAnyRun = AnyRun.TestCase
