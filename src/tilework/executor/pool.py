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

A feeder hands one job at a time to the pool, and waits for its answer: no more is in the pool than can run, so that
order, priority and fairness between runs are decided here. Short tasks are put together into a job that is worth
`JOB_SECONDS`, which keeps the processes busy while the next one is on its way.

Who owns what: the workforce owns the feeders and the store of scattered objects. Each run has a lane, an inbox, and a
board with its slots; a function that is called many times is scattered for the time of its run.

When a process dies, every job in the pool is lost. The board says which items had begun, and so may have killed it;
only these count as started. One that was lost twice runs alone the third time, so that what kills its process does not
take the innocent with it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tilework.exceptions import ExecutorError
from tilework.executor.crew import Crew
from tilework.executor.driven import is_streamed
from tilework.executor.lane_backend import LaneBackend
from tilework.executor.pool_worker import Job, run_job
from tilework.executor.remote import PackedError, contained, dumps, loads, unpack_error
from tilework.executor.renewable import Gate, PoolBrokeError, RenewablePool, size_of
from tilework.executor.run import Bounds, Completed, Failed, Lost
from tilework.executor.shared_block import BlockGoneError, Board, SharedBlock, attach
from tilework.executor.shipping import ShippingStore
from tilework.executor.workforce import Workforce
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from tilework.common.executor import Priority, RunOptions, SimpleWorkerQueue, TaskCommHandler, TaskProtocol
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.pool_worker import Answer
    from tilework.executor.run import Event, Ticket
    from tilework.executor.shared_block import Address

__all__ = ["PoolWorkforce"]

T = TypeVar("T")
V = TypeVar("V")

JOB_SECONDS: Final = 1e-3
"""What a job should be worth: several times what it costs to hand it over."""

_MOST_ITEMS: Final = 32

_LOSSES_BEFORE_ALONE: Final = 2

_MEETING_SECONDS: Final = 10.0

_SMOOTHING: Final = 0.25


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
    handle
        Of the parameters of tasks, or of the function.
    messages
        Where the messages of tasks go; None for a function, which is scattered for this run alone.
    """

    def __init__(
        self,
        workforce: PoolWorkforce,
        control: RunControl,
        priority: Priority,
        handle: str,
        messages: SimpleWorkerQueue | None,
    ) -> None:
        n = workforce.crew.size
        self._workforce = workforce
        self._handle = handle
        self._messages = messages
        self._board = Board(n)
        self._slots = list(range(n))
        self._losses: Counter[int] = Counter()  # of items that had begun, by index
        self._mean_seconds: float | None = None
        super().__init__(control, workforce.crew, priority)

    def _post(self, answer: list[Event]) -> None:
        for event in answer:
            self._inbox.put(event)

    def _wake(self) -> None:
        self._board.stop()
        super()._wake()

    def _stop(self) -> None:
        self._board.stop()

    def end(self) -> None:
        """Empty the lane, and wait for what runs."""
        super().end()
        self._board.close()
        if self._messages is None:
            self._workforce.store.drop(self._handle)

    def _serve(self, ticket: Ticket[V]) -> list[Event]:
        is_suspect = self._losses[ticket.index] >= _LOSSES_BEFORE_ALONE
        tickets = [ticket] if is_suspect else [ticket, *self._more()]
        slot = self._slots.pop()
        gate = self._workforce.gate
        try:
            self._board.clear(slot)
            self._control.flag.raise_if_set()  # the run has ended, but has not emptied its lane yet
            items = _pickled([t.task for t in tickets])
            with gate.pass_alone() if is_suspect else gate.pass_together():
                return self._events(tickets, self._call(items, slot))
        except PoolBrokeError as error:
            return self._lost(tickets, slot, str(error))
        except BaseException as error:  # noqa: BLE001  (the run decides)
            return [Failed(ticket.number, contained(error))]
        finally:
            self._slots.append(slot)

    def _more(self) -> list[Ticket[V]]:
        """Return further tickets to go into a job, when they are known to be short."""
        mean = self._mean_seconds
        if mean is None or mean * 2 > JOB_SECONDS:
            return []
        most = _MOST_ITEMS if mean * _MOST_ITEMS < JOB_SECONDS else int(JOB_SECONDS / mean)
        return self._crew.take_more(self._lane, self._crew.size, most - 1)

    def _call(self, items: bytes, slot: int) -> Answer:
        workforce, store = self._workforce, self._workforce.store
        deadline = self._control.deadline
        for with_content in (False, True):
            job = Job(
                owner=workforce.owner,
                alive=store.keys(),
                shipment=store.look_up(self._handle).ship(with_content=with_content),
                is_tasks=self._messages is not None,
                items=items,
                board=self._board.address,
                slot=slot,
                seconds_left=None if deadline is None else deadline - time.monotonic(),
                main_pid=os.getpid(),
            )
            answer = workforce.pool.call(run_job, job)
            workforce.sees_boards = answer.has_board
            if not answer.is_content_missing:
                break
        return answer

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
            mean = self._mean_seconds
            self._mean_seconds = outcome.seconds if mean is None else mean + (outcome.seconds - mean) * _SMOOTHING
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
        self._feeders = ThreadPoolExecutor(size, thread_name_prefix="tilework-pool")
        self.crew = Crew(self._feeders, size)
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

    def open_tasks(
        self,
        params_handle: Any,
        control: RunControl,
        options: RunOptions,
        handler: TaskCommHandler,  # noqa: ARG002  (checked to stream nothing)
        messages: SimpleWorkerQueue,
    ) -> Backend[TaskProtocol]:
        """Return a new run's way to the processes."""
        return PoolBackend(self, control, options.priority, params_handle, messages)

    def open_calls(self, fn: Callable[[V], Any], control: RunControl, options: RunOptions) -> Backend[V]:
        """Return the way to the processes for calls of a function."""
        return PoolBackend(self, control, options.priority, self.store.add(fn), None)

    def bounds(self, *, is_streamed: bool) -> Bounds:  # noqa: ARG002
        """Return how much of a run may be under way."""
        return Bounds(self.crew.size, prefetch_short=2 * _MOST_ITEMS)

    @contextmanager
    def meeting(self, call: Callable[[Any], T]) -> Iterator[Callable[[int], T]]:
        """Give a function whose calls wait for each other, so that each is in another process."""
        with self._meeting_lock:  # two meetings at a time would wait for each other
            block = SharedBlock(len(self.names))
            try:
                yield _Meeting(call, block.address)
            finally:
                block.close()

    def limits(self) -> dict[str, Any]:
        """Return what the report says about limits."""
        return {**super().limits(), "pool": type(self.client).__name__, "pools_replaced": self.pool.n_renewed}

    def close(self, grace: float, *, shut_down: bool) -> None:
        """End all work."""
        self.pool.close()
        is_idle = self.crew.close(grace)
        if not is_idle and shut_down:
            self.pool.kill()
            is_idle = True
        self._feeders.shutdown(wait=is_idle)
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
