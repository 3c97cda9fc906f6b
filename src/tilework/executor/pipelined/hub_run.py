"""A run and its tickets, as the hub has them: packed, on their way, answered.

Who owns what: a ticket's parcel is the main process's until the ticket is answered, or given up: it may be sent again,
to another worker. The memory of an answer is the worker's, until it is unpacked or discarded here.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from tilework.common.latch import Latch
from tilework.executor.inbox import Inbox
from tilework.executor.pipelined import messages as say
from tilework.executor.pipelined.dispatch import Item, RunLane
from tilework.executor.pipelined.messages import encode
from tilework.executor.pipelined.parcel import Parcel, ship
from tilework.executor.remote import loads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import Priority, SimpleWorkerQueue
    from tilework.executor.driver import RunControl
    from tilework.executor.pipelined.arena import Arena, ArenaReader
    from tilework.executor.pipelined.member import Member
    from tilework.executor.pipelined.parcel import Packed
    from tilework.executor.pipelined.stream import Feeder
    from tilework.executor.pipelined.wire import Wire
    from tilework.executor.run import Event, Ticket

__all__ = ["Answer", "Broken", "HubRun", "HubTicket"]

log = logging.getLogger(__name__)

_NO_TOPIC: Final = object()  # nobody is subscribed to it


@dataclass(eq=False, slots=True)
class Answer:
    """What a worker answered, as it came."""

    ticket: HubTicket
    arena: ArenaReader | None
    """The memory of the worker."""
    message: say.Done | say.Failed
    descriptors: tuple[int, ...]

    def discard(self) -> None:
        """Release its memory: nobody wants it."""
        for fd in self.descriptors:
            os.close(fd)
        if isinstance(self.message, say.Done) and self.message.parcel.block is not None:
            assert self.arena is not None
            self.arena.release(self.message.parcel.block)


@dataclass(eq=False, slots=True)
class Broken:
    """An error that ends the run, and is not that of one of its tickets."""

    error: BaseException


class _SignalHeader:
    """The topic and message that a task signalled, unpickled by who takes them apart.

    That is users' code, which may raise or take long, and must not do so in the hub's thread.

    Parameters
    ----------
    packed
        The pickled pair.
    """

    __slots__ = ("_packed",)

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def __iter__(self) -> Iterator[Any]:
        try:
            topic, message = loads(self._packed)
        except Exception:
            log.exception("a message of a task cannot be unpickled, and is dropped")
            topic, message = _NO_TOPIC, {}
        return iter((topic, message))


class HubTicket:
    """A ticket, packed.

    Parameters
    ----------
    run
        Its run.
    of_run
        The ticket, as its run has it.
    parcel, fd
        Its task or item, and the descriptor that goes with it.
    is_streamed
        Whether data comes for it while it runs.
    """

    __slots__ = ("fd", "is_streamed", "item", "of_run", "parcel", "run")

    def __init__(self, run: HubRun, of_run: Ticket[Any], parcel: Parcel, fd: int | None, *, is_streamed: bool) -> None:
        self.run = run
        self.of_run = of_run
        self.parcel = parcel
        self.fd = fd
        self.is_streamed = is_streamed
        self.item: Item | None = None

    def send(self, member: Member, serial: int) -> None:
        """Send it to a worker, as its ticket with this serial number, with what was streamed to it before."""
        message = say.RunTask(self.run.number, serial, self.parcel, self.is_streamed)
        member.wire.send(encode(message), () if self.fd is None else (self.fd,))
        if self.is_streamed:
            assert self.run.feeder is not None
            self.run.feeder.send_again(self, member, serial)

    def release(self) -> None:
        """Give up what it holds: it will not be sent again."""
        self.item = None
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        if self.parcel.block is not None:
            self.run.arena.free(self.parcel.block)


class HubRun:
    """A run, as the hub sees it.

    Parameters
    ----------
    number
        Unique within the hub.
    priority
        Which run goes first.
    arena
        The main process's memory.
    opening
        What all tickets share: the key of the parameters, or None and the packed function.
    control
        The run, as others see it.
    messages
        Where what its tasks signal goes; None drops it.
    span_context
        The span below which those of its tasks are; None without tracing.
    """

    def __init__(
        self,
        number: int,
        priority: Priority,
        arena: Arena,
        opening: tuple[str | None, Packed],
        control: RunControl,
        messages: SimpleWorkerQueue | None,
        span_context: Any = None,
    ) -> None:
        self.number = number
        self.lane = RunLane(priority)
        self.inbox: Inbox[list[Answer | Broken | Event]] = Inbox()
        self.outgoing: list[Answer | Broken | Event] = []
        """What the hub will put into the inbox at the end of its turn."""
        self.feeder: Feeder | None = None
        self.arena = arena
        self.end_by = float("inf")
        """When what is still at work after the end of the run is killed."""
        self.has_ended = Latch()
        """Set when the run is over and nothing of it is at work."""
        self._messages = messages
        self._parcel, self._fd = ship(opening[1], self.arena, lambda: control.reason is not None)
        self._introduction = encode(say.OpenRun(number, opening[0], self._parcel, control.deadline, span_context))

    # ---- called by the hub ----

    def introduce(self, wire: Wire) -> None:
        """Tell a worker what the tickets share."""
        wire.send(self._introduction, () if self._fd is None else (self._fd,))

    def deliver(self) -> None:
        """Put what has gathered into the inbox."""
        self.inbox.put(self.outgoing)
        self.outgoing = []

    def take_answer(
        self, ticket: HubTicket, member: Member, message: say.Done | say.Failed, descriptors: tuple[int, ...]
    ) -> None:
        """Take a worker's answer."""
        ticket.release()
        if self.feeder is not None:
            self.feeder.answered(ticket)
        answer = Answer(ticket, member.arena, message, descriptors)
        if self.lane.is_over:
            answer.discard()
        else:
            self.outgoing.append(answer)

    def take_signal(self, header: bytes) -> None:
        """Take a message of a task."""
        if self._messages is not None:
            self._messages.put(_SignalHeader(header))

    def release(self) -> None:
        """Give up what the run holds: nothing of it is at work any more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._parcel.block is not None:
            self.arena.free(self._parcel.block)
        for answer in chain.from_iterable(self.inbox.take()):
            if isinstance(answer, Answer):
                answer.discard()
