"""Work on the processes of somebody's pool.

::

      consumer's thread (one for each run)     feeder threads (one for each process)      the pool's processes
    ┌──────────────────────────────────────┐  ┌────────────────────────────────────┐    ┌─────────────────────┐
    │ drive ── PoolBackend.submit ─────────┼─►│ lane of the run: Crew, fair        │    │                     │
    │   ▲                                  │  │   ▼ between lanes                  │    │                     │
    │   │                                  │  │ a few tickets ─ Job ───────────────┼──► │ run_job             │
    │   └───── PoolBackend.wait ◄─ inbox ──┼──┼ events ◄──── Answer ◄──────────────┼──◄ │   (pool_worker)     │
    └──────────────────────────────────────┘  └────────────────────────────────────┘    └─────────────────────┘
                    board of the run: "it has ended" ───────────────────────────────────►  looked at between tiles
                                      "this process has begun with item n" ◄────────────┘

A feeder hands a job to the pool, and waits for its answer. While tasks are long, or nothing is known of them, no more
is in the pool than can run, so that order, priority and fairness between runs are decided here. Short tasks are put
together into a job that is worth `JOB_SECONDS`, and a second job follows before the first is done, so that no process
waits for its next one; other runs wait for `TURN_SECONDS` at most.

Who owns what: the workforce owns the feeders and the store of scattered objects. Each run has a lane, an inbox, and a
board with its slots; a function that is called many times is shipped like parameters, for the time of its run.

When a process dies, every job in the pool is lost. The board says which items had begun, and so may have killed it;
only these count as started. One that was lost twice runs alone the third time, so that what kills its process does not
take the innocent with it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tilework.exceptions import ExecutorError
from tilework.executor.crew import Crew
from tilework.executor.driven import is_streamed
from tilework.executor.lane_backend import LaneBackend
from tilework.executor.mean_time import mean_time
from tilework.executor.pool_worker import Job, run_job
from tilework.executor.remote import PackedError, contained, dumps, loads, unpack_error
from tilework.executor.renewable import Gate, PoolBrokeError, RenewablePool, size_of
from tilework.executor.run import Bounds, Completed, Failed, Lost
from tilework.executor.shared_block import BlockGoneError, Board, SharedBlock, attach
from tilework.executor.shipping import Scattered, ShippingStore
from tilework.executor.steady_threads import SteadyThreads
from tilework.executor.workforce import Workforce
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from tilework.common.executor import Priority, RunOptions, SimpleWorkerQueue, TaskCommHandler, TaskProtocol
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.pool_worker import Answer
    from tilework.executor.renewable import Pending
    from tilework.executor.run import Event, Ticket
    from tilework.executor.shared_block import Address

__all__ = ["PoolWorkforce"]

T = TypeVar("T")
V = TypeVar("V")

JOB_SECONDS: Final = 1e-3
"""What a job should be worth: several times what it costs to hand it over."""

SHORT_SECONDS: Final = 0.02
"""Tasks that take longer are not worth a second job in the pool, which nothing overtakes."""

TURN_SECONDS: Final = 0.02
"""How long a feeder stays with one run."""

_MOST_ITEMS: Final = 32

_LOSSES_BEFORE_ALONE: Final = 2

_MOST_BOARDS: Final = 8
"""Boards that are kept for later runs: a new one costs every process a mapping."""

_MEETING_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Flight(Generic[V]):
    """A job on its way."""

    tickets: list[Ticket[V]]
    slot: int
    items: bytes
    pending: Pending[Answer] | Exception
    """The error when it did not get off the ground."""


class PoolBackend(LaneBackend[V]):
    """One run's way to the processes.

    Parameters
    ----------
    workforce
        The processes.
    control
        The run, as others see it.
    priority
        Which runs go first.
    shared
        Returns what the items of the run have in common, as it is now: the parameters of tasks, or the function.
    messages
        Where the messages of tasks go; None when a function is called.
    """

    def __init__(
        self,
        workforce: PoolWorkforce,
        control: RunControl,
        priority: Priority,
        shared: Callable[[], Scattered],
        messages: SimpleWorkerQueue | None,
    ) -> None:
        n = workforce.crew.size
        self._workforce = workforce
        self._shared = shared
        self._messages = messages
        self._board = workforce.take_board()
        self._slots = list(range(2 * n))
        self._losses: Counter[int] = Counter()  # of items that had begun, by index
        self._mean_seconds: float | None = None
        self._lock = threading.Lock()
        self._is_over = False
        super().__init__(control, workforce.crew, priority)

    def _post(self, answer: list[Event]) -> None:
        for event in answer:
            self._inbox.put(event)

    def _wake(self) -> None:
        with self._lock:
            if not self._is_over:
                self._board.stop()
        super()._wake()

    def _stop(self) -> None:
        self._board.stop()

    def end(self) -> None:
        """Empty the lane, and wait for what runs."""
        super().end()
        with self._lock:  # who cancels late must not stop the next run that gets this board
            self._is_over = True
        self._workforce.give_back(self._board, is_free=len(self._slots) == 2 * self._crew.size)
        if self._messages is None:
            self._shared().close()

    def _serve(self, ticket: Ticket[V]) -> list[Event]:
        if not self._is_harmless(ticket):
            with self._workforce.gate.pass_alone():
                return self._land(self._launch([ticket]))
        with self._workforce.gate.pass_together():
            until = time.monotonic() + TURN_SECONDS
            flight = self._launch([ticket, *self._more(1)])
            while True:
                following = self._more(0) if time.monotonic() < until else []
                if not following:
                    return self._land(flight)
                next_flight = self._launch(following)
                self._post(self._land(flight))
                flight = next_flight

    def _is_harmless(self, ticket: Ticket[V]) -> bool:
        return self._losses[ticket.index] < _LOSSES_BEFORE_ALONE

    def _more(self, n_taken: int) -> list[Ticket[V]]:
        """Return as many further tickets as make a job, beside those taken already, when they are known to be short."""
        mean = self._mean_seconds
        if mean is None or mean > SHORT_SECONDS or self._control.flag.is_set():
            return []
        fitting = _MOST_ITEMS if mean * _MOST_ITEMS < JOB_SECONDS else max(1, int(JOB_SECONDS / mean))
        return self._crew.take_more(self._lane, self._crew.size, fitting - n_taken, self._is_harmless)

    def _launch(self, tickets: list[Ticket[V]]) -> _Flight[V]:
        """Hand a job to the pool."""
        slot = self._slots.pop()
        try:
            self._board.clear(slot)
            self._control.flag.raise_if_set()  # the run has ended, but has not emptied its lane yet
            items = _pickled([t.task for t in tickets])
            return _Flight(tickets, slot, items, self._submit(items, slot, with_content=False))
        except BaseException as error:  # noqa: BLE001  (the run decides)
            return _Flight(tickets, slot, b"", contained(error))

    def _submit(self, items: bytes, slot: int, *, with_content: bool) -> Pending[Answer]:
        workforce = self._workforce
        deadline = self._control.deadline
        job = Job(
            owner=workforce.owner,
            alive=workforce.alive(),
            shipment=self._shared().ship(with_content=with_content),
            is_tasks=self._messages is not None,
            items=items,
            board=self._board.address,
            slot=slot,
            seconds_left=None if deadline is None else deadline - time.monotonic(),
            main_pid=os.getpid(),
        )
        return workforce.pool.submit(run_job, job)

    def _land(self, flight: _Flight[V]) -> list[Event]:
        """Wait for the answer to a job, and return what it means."""
        pool, pending = self._workforce.pool, flight.pending
        try:
            if isinstance(pending, Exception):
                return [Failed(flight.tickets[0].number, pending)]
            answer = pool.result(pending)
            self._workforce.sees_boards = answer.has_board
            if answer.is_content_missing:
                answer = pool.result(self._submit(flight.items, flight.slot, with_content=True))
            return self._events(flight.tickets, answer)
        except PoolBrokeError as error:
            return self._lost(flight.tickets, flight.slot, str(error))
        except BaseException as error:  # noqa: BLE001  (the run decides)
            return [Failed(flight.tickets[0].number, contained(error))]
        finally:
            self._slots.append(flight.slot)

    def _events(self, tickets: list[Ticket[V]], answer: Answer) -> list[Event]:
        events: list[Event] = []
        if answer.messages is not None and self._messages is not None:
            for message in loads(answer.messages):
                self._messages.put(message)
        for ticket, outcome in zip(tickets, answer.outcomes, strict=False):
            result = outcome.result
            if isinstance(result, PackedError):
                events.append(Failed(ticket.number, unpack_error(result)))
                continue
            try:
                events.append(Completed(ticket.number, loads(result), outcome.seconds))
            except BaseException as error:  # noqa: BLE001  (users' code runs in there)
                error.add_note("a result cannot be unpickled in the main process")
                events.append(Failed(ticket.number, contained(error)))
            self._mean_seconds = mean_time(self._mean_seconds, outcome.seconds)
        if not any(isinstance(event, Failed) for event in events):
            for ticket in tickets[len(answer.outcomes) :]:
                self._crew.put(self._lane, ticket)
        return events

    def _lost(self, tickets: list[Ticket[V]], slot: int, cause: str) -> list[Event]:
        pid, n_begun = self._board.look(slot)
        is_noted = pid != 0
        events: list[Event] = []
        for n, ticket in enumerate(tickets, 1):
            is_started = n == n_begun if is_noted else not self._workforce.sees_boards
            self._losses[ticket.index] += is_started
            if is_started:
                self._workforce.pool.note_begun()
            events.append(Lost(ticket.number, cause, is_started))
        return events


def _pickled(items: list[Any]) -> bytes:
    try:
        return dumps(items)
    except Exception:
        for item in items:
            try:
                dumps(item)
            except Exception as error:
                error.add_note(f"this cannot be sent to another process: a {type(item).__qualname__}")
                raise
        raise


class PoolWorkforce(Workforce):
    """The processes of a pool.

    Parameters
    ----------
    client
        The pool.
    """

    threads = 1
    sees_boards = True
    """Whether the processes can reach the boards of runs; not on other hosts."""

    def __init__(self, client: Executor) -> None:
        self.pool = RenewablePool(client)
        size = size_of(client, available_cpu_count())
        self.names = tuple(f"process-{i}" for i in range(size))
        self.store: ShippingStore = ShippingStore()
        self.gate = Gate()
        self.owner = f"{os.getpid()}-{id(self):x}-{time.monotonic_ns():x}"
        self._feeders = SteadyThreads(size, "tilework-pool")
        self.crew = Crew(self._feeders, size)
        self._boards: list[Board] = []
        # The run owns its function: one that is interrupted leaves nothing in here.
        self._functions: weakref.WeakValueDictionary[str, Scattered] = weakref.WeakValueDictionary()
        self._meeting_lock = threading.Lock()

    @property
    def client(self) -> Executor:
        """The pool that does the work now."""
        return self.pool.client

    def check_handler(self, handler: TaskCommHandler) -> None:
        """Refuse a handler that streams data."""
        if is_streamed(handler):
            msg = (
                f"the processes of a {type(self.client).__name__} cannot be reached while they work, so that "
                f"{type(handler).__name__} cannot stream data to them: use threads (ConcurrentJobExecutor.make_local())"
            )
            raise ExecutorError(msg)

    def open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        """Return a new run's way to the processes."""
        look_up, handle = self.store.look_up, asked.params_handle
        return PoolBackend(self, asked.control, asked.options.priority, lambda: look_up(handle), asked.messages)

    def open_calls(self, fn: Callable[[V], Any], control: RunControl, options: RunOptions) -> Backend[V]:
        """Return the way to the processes for calls of a function."""
        function = Scattered(fn)
        self._functions[function.key] = function
        return PoolBackend(self, control, options.priority, lambda: function, None)

    def alive(self) -> tuple[str, ...]:
        """Return the keys of all that processes should keep."""
        # not an iteration over the dictionary itself, to which other threads add
        functions = [function() for function in self._functions.valuerefs()]
        return (*self.store.keys(), *(function.key for function in functions if function is not None))

    def bounds(self, *, is_streamed: bool) -> Bounds:  # noqa: ARG002
        """Return how much of a run may be under way."""
        return Bounds(self.crew.size, prefetch=3, prefetch_short=2 * _MOST_ITEMS)

    @contextmanager
    def meeting(self, call: Callable[[Any], T]) -> Iterator[Callable[[int], T]]:
        """Give a function whose calls wait for each other, so that each is in another process."""
        with self._meeting_lock:  # two meetings at a time would wait for each other
            block = SharedBlock(len(self.names))
            try:
                yield _Meeting(call, block.address)
            finally:
                block.close()

    def take_board(self) -> Board:
        """Return a board for a run."""
        try:
            board = self._boards.pop()
        except IndexError:
            return Board(2 * self.crew.size)
        board.reset()
        return board

    def give_back(self, board: Board, *, is_free: bool) -> None:
        """Take the board of a run that has ended; it is for others if nobody works for that run any more."""
        if is_free and len(self._boards) < _MOST_BOARDS:
            self._boards.append(board)
        else:
            board.close()

    def limits(self) -> dict[str, Any]:
        """Return what the report says about limits."""
        return {"pool": type(self.client).__name__, "pools_replaced": self.pool.n_renewed}

    def close(self, grace: float, *, shut_down: bool) -> None:
        """End all work."""
        self.pool.close()
        is_idle = self.crew.close(grace)
        if not is_idle and shut_down:
            self.pool.kill()
            is_idle = True
        self._feeders.shutdown(wait=is_idle)
        for board in self._boards:
            board.close()
        self.pool.shut_down(given_too=shut_down, wait=is_idle)


class _Meeting:
    """A call that is made when all participants are there, or after a while."""

    def __init__(self, call: Callable[[Any], Any], address: Address) -> None:
        self._call = call
        self._address = address

    def __call__(self, number: int) -> Any:
        try:
            present = attach(self._address, is_private=False)
        except BlockGoneError:
            pass  # out of reach, as on another host: it depends on the pool who is called
        else:
            present[number] = 1
            until = time.monotonic() + _MEETING_SECONDS
            while not all(present) and time.monotonic() < until:
                time.sleep(0.001)
        return self._call(number)
