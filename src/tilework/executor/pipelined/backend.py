"""One run's way to the workers of a pool.

Who does what: the consumer's thread packs tasks and unpacks results. The hub thread puts answers into the inbox, as they
came. Where data is streamed to tasks, one more thread calls the handler, task after task, so that the consumer gets a
result while the next data is awaited (see `stream`).

Who owns what: a ticket's parcel is this side's until the ticket is answered, or given up: it may be sent again, to
another worker. A result's memory is the worker's; what becomes of it is in `parcel` and `arena`.
"""

from __future__ import annotations

import os
import queue
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tilework.exceptions import RemoteError
from tilework.executor.driven import partition_name
from tilework.executor.pipelined import messages as say
from tilework.executor.pipelined.control import MainStopFlag
from tilework.executor.pipelined.dispatch import Item, RunLane
from tilework.executor.pipelined.parcel import Parcel, pack, ship, unpack
from tilework.executor.remote import describe_error, dumps, loads, unpack_error
from tilework.executor.run import Completed, Failed, Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tilework.common.executor import Priority, SimpleWorkerQueue
    from tilework.executor.driver import RunControl
    from tilework.executor.pipelined.arena import ArenaReader
    from tilework.executor.pipelined.hub import Hub
    from tilework.executor.pipelined.parcel import Packed
    from tilework.executor.pipelined.pool import Member
    from tilework.executor.pipelined.stream import Feeder
    from tilework.executor.pipelined.wire import Wire
    from tilework.executor.run import Event, Ticket

__all__ = ["HubRun", "HubTicket", "PipelinedBackend"]

V = TypeVar("V")

_LONGEST_WAIT: Final = 0.5
"""A wait for a lock is not interrupted by a Ctrl-C that comes just before it begins."""


@dataclass(eq=False, slots=True)
class _Answer:
    """What a worker answered, as it came."""

    ticket: HubTicket
    arena: ArenaReader | None
    message: say.Done | say.Failed
    descriptors: tuple[int, ...]


@dataclass(eq=False, slots=True)
class _Broken:
    """An error that ends the run, and is not that of one of its tickets."""

    error: BaseException


class HubTicket:
    """A ticket, packed.

    Parameters
    ----------
    run
        Its run.
    ticket
        The ticket.
    parcel, fd
        Its task or item, and the descriptor that goes with it.
    """

    __slots__ = ("fd", "is_streamed", "item", "parcel", "run", "ticket")

    def __init__(self, run: HubRun, ticket: Ticket[Any], parcel: Parcel, fd: int | None, *, is_streamed: bool) -> None:
        self.run = run
        self.ticket = ticket
        self.parcel = parcel
        self.fd = fd
        self.is_streamed = is_streamed
        self.item: Item | None = None

    def send(self, wire: Wire, serial: int) -> None:
        """Send it to a worker, as its ticket with this serial number, with what was streamed to it before."""
        message = say.RunTask(self.run.number, serial, self.parcel, self.is_streamed)
        wire.send(dumps(message), () if self.fd is None else (self.fd,))
        if self.is_streamed:
            assert self.run.feeder is not None
            self.run.feeder.send_again(self, wire, serial)

    def release(self) -> None:
        """Give up what it holds: it will not be sent again."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        if self.parcel.block is not None:
            self.run.free_block(self.parcel)


class HubRun:
    """A run, as the hub sees it.

    Parameters
    ----------
    number
        Unique within the hub.
    priority
        Which run goes first.
    hub
        The hub.
    opening
        What all tickets share: the key of the parameters, or None and the packed function.
    control
        The run, as others see it.
    messages
        Where what its tasks signal goes; None drops it.
    """

    def __init__(
        self,
        number: int,
        priority: Priority,
        hub: Hub,
        opening: tuple[str | None, Packed],
        control: RunControl,
        messages: SimpleWorkerQueue | None,
        span_context: Any = None,
    ) -> None:
        self.number = number
        self.lane = RunLane(priority)
        self.inbox: queue.SimpleQueue[_Answer | _Broken | Event | None] = queue.SimpleQueue()
        self.feeder: Feeder | None = None
        self._arena = hub.pool.arena
        self._messages = messages
        self._parcel, self._fd = ship(opening[1], self._arena, lambda: control.reason is not None)
        self._introduction = dumps(say.OpenRun(number, opening[0], self._parcel, control.deadline, span_context))

    # ---- called with the hub locked ----

    def introduce(self, wire: Wire) -> None:
        """Tell a worker what the tickets share."""
        wire.send(self._introduction, () if self._fd is None else (self._fd,))

    def take_loss(self, ticket: HubTicket, cause: str, *, is_started: bool) -> None:
        """Take note that a ticket's worker is gone."""
        ticket.release()
        self.inbox.put(Lost(ticket.ticket.number, cause, is_started))

    def post(self, event: Event) -> None:
        """Tell the run what happened."""
        self.inbox.put(event)

    # ---- called by the hub thread ----

    def take_answer(
        self, ticket: HubTicket, member: Member, message: say.Done | say.Failed, descriptors: tuple[int, ...]
    ) -> None:
        """Take a worker's answer."""
        ticket.release()
        if self.feeder is not None:
            self.feeder.answered(ticket)
        if self.lane.is_over:
            self.discard(_Answer(ticket, member.arena, message, descriptors))
        else:
            self.inbox.put(_Answer(ticket, member.arena, message, descriptors))

    def take_signal(self, header: bytes) -> None:
        """Take a message of a task."""
        if self._messages is not None:
            self._messages.put(loads(header))

    # ---- ----

    @staticmethod
    def discard(answer: _Answer) -> None:
        """Release the memory of an answer that nobody wants."""
        for fd in answer.descriptors:
            os.close(fd)
        if isinstance(answer.message, say.Done) and answer.message.parcel.block is not None:
            assert answer.arena is not None
            answer.arena.release(answer.message.parcel.block)

    def free_block(self, parcel: Parcel) -> None:
        """Take back the memory of a parcel."""
        assert parcel.block is not None
        self._arena.free(parcel.block)

    def release(self) -> None:
        """Give up what the run holds: nothing of it is at work any more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._parcel.block is not None:
            self.free_block(self._parcel)
        while True:
            try:
                answer = self.inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(answer, _Answer):
                self.discard(answer)


class PipelinedBackend(Generic[V]):
    """A run's way to the workers of a hub.

    Parameters
    ----------
    hub
        The hub.
    control
        The run, as others see it.
    priority
        Which run goes first.
    opening
        What all tickets share: the key of the parameters, or None and the packed function.
    messages
        Where what its tasks signal goes; None drops it.
    span_context
        Trace that the run belongs to.
    """

    is_blocking = False

    def __init__(
        self,
        hub: Hub,
        control: RunControl,
        priority: Priority,
        opening: tuple[str | None, Packed],
        messages: SimpleWorkerQueue | None = None,
        span_context: Any = None,
    ) -> None:
        self._hub = hub
        self._control = control
        self._is_call = opening[0] is None
        self._run = hub.open_run(lambda number: HubRun(number, priority, hub, opening, control, messages, span_context))
        reason = control.reason
        control.flag = MainStopFlag(hub.pool.page, self._run.number, control.deadline)
        if reason is not None:
            control.flag.set(reason)
        control.wake = self._wake

    def stream_with(self, make: Callable[[HubRun, Callable[[BaseException], None]], Feeder]) -> None:
        """Let a feeder stream data to the tasks."""
        self._run.feeder = make(self._run, lambda error: self._run.inbox.put(_Broken(error)))

    def submit(self, ticket: Ticket[V]) -> None:
        """Pack a ticket, and give it to the hub."""
        run = self._run
        task: Any = ticket.task
        target = getattr(task, "target_worker", None)
        try:
            packed = pack(task)
        except Exception as error:
            what = "the argument" if self._is_call else f"the task of {partition_name(task)}"
            error.add_note(f"{what}, a {type(task).__name__}, cannot be sent to a worker: it is not picklable")
            raise
        parcel, fd = ship(packed, self._hub.pool.arena, lambda: self._control.reason is not None)
        hub_ticket = HubTicket(run, ticket, parcel, fd, is_streamed=run.feeder is not None)
        requests = () if self._is_call else tuple(task.get_resources().items())
        item = Item(run.lane, hub_ticket, requests, target, is_bound=hub_ticket.is_streamed)
        hub_ticket.item = item
        if run.feeder is not None:
            run.feeder.expect(hub_ticket)
        self._hub.put(run, item)

    def wait(self, timeout: float | None) -> Iterable[Event]:
        """Return what has arrived, after waiting for something to arrive."""
        inbox = self._run.inbox
        try:
            first = inbox.get(timeout=_LONGEST_WAIT if timeout is None else min(timeout, _LONGEST_WAIT))
        except queue.Empty:
            return ()
        events = self._decode(first)
        # This is the only reader: what is counted now is there.
        for _ in range(inbox.qsize()):
            events += self._decode(inbox.get_nowait())
        return events

    def _decode(self, answer: _Answer | _Broken | Event | None) -> list[Event]:
        if answer is None:
            return []
        if isinstance(answer, _Broken):
            raise answer.error
        if not isinstance(answer, _Answer):
            return [answer]
        number, message = answer.ticket.ticket.number, answer.message
        if isinstance(message, say.Failed):
            return [Failed(number, unpack_error(message.error))]
        arena = answer.arena
        assert arena is not None
        fd = answer.descriptors[0] if answer.descriptors else None
        # Results of a function may be kept for ever, and would fill the worker's memory; of tasks they rarely are.
        copy = self._is_call or arena.watched_bytes > self._hub.pool.result_budget // 4
        try:
            result = unpack(message.parcel, arena, fd, copy=copy, keep=True)
        except BaseException as error:  # noqa: BLE001  (users' code runs in there)
            return [Failed(number, RemoteError(f"what a worker returned cannot be unpickled: {describe_error(error)}"))]
        return [Completed(number, result, message.seconds)]

    def end(self) -> None:
        """Let nothing more begin, and wait for what is at work."""
        control = self._control
        control.wake = None
        run = self._run
        if run.feeder is not None:
            run.feeder.end(control.grace)
        self._hub.end_run(run, control.grace)
        run.release()

    def _wake(self) -> None:
        self._run.inbox.put(None)
