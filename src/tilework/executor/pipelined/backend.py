"""One run's way to the workers of a pool.

Who does what: the consumer's thread packs tasks and unpacks results. The hub thread puts answers into the inbox, as
they came. Where data is streamed to tasks, one more thread calls the handler, task after task, so that the consumer
gets a result while the next data is awaited (see `stream`).
"""

from __future__ import annotations

import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tilework.exceptions import JobCancelledError, RemoteError
from tilework.executor.calling import OnWorker, partition_name
from tilework.executor.pipelined import messages as say
from tilework.executor.pipelined.control import MainStopFlag
from tilework.executor.pipelined.dispatch import Item
from tilework.executor.pipelined.exchange import CLOSED
from tilework.executor.pipelined.hub_run import Answer, Broken, HubRun, HubTicket
from tilework.executor.pipelined.parcel import pack, ship, unpack
from tilework.executor.remote import describe_error, unpack_error
from tilework.executor.run import Cancelled, Completed, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tilework.common.executor import Priority, SimpleWorkerQueue
    from tilework.executor.driver import RunControl
    from tilework.executor.pipelined.hub import Hub
    from tilework.executor.pipelined.parcel import Packed
    from tilework.executor.pipelined.stream import Feeder
    from tilework.executor.run import Event, Ticket

__all__ = ["PipelinedBackend"]

V = TypeVar("V")

_TOGETHER_SECONDS: Final = 2e-4


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
    _is_under_way = False

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
        self._packed: list[Item] = []  # tickets that the hub has not got yet
        self._packed_since = 0.0
        self._check_open()
        self._run = hub.open_run(
            lambda number: HubRun(number, priority, hub.pool.arena, opening, control, messages, span_context)
        )
        self._is_under_way = True
        reason = control.reason
        control.flag = MainStopFlag(hub.pool.page, self._run.number, control.deadline)
        if reason is not None:
            control.flag.set(reason)
        control.wake = self._wake

    def stream_with(self, make: Callable[[HubRun, Callable[[BaseException], None]], Feeder]) -> None:
        """Let a feeder stream data to the tasks."""
        self._run.feeder = make(self._run, lambda error: self._run.inbox.put([Broken(error)]))

    def submit(self, ticket: Ticket[V]) -> None:
        """Pack a ticket, and give it to the hub."""
        self._check_open()
        run = self._run
        task: Any = ticket.task
        target = task.worker if isinstance(task, OnWorker) else None
        try:
            packed = pack(task)
        except Exception as error:
            what = "the argument" if self._is_call else f"the task of {partition_name(task)}"
            error.add_note(f"{what}, a {type(task).__name__}, cannot be sent to a worker: it is not picklable")
            raise
        parcel, fd = ship(packed, self._hub.pool.arena, lambda: self._control.reason is not None)
        hub_ticket = HubTicket(run, ticket, parcel, fd, is_streamed=run.feeder is not None)
        try:
            requests = () if self._is_call else tuple(task.get_resources().items())
            data = None if self._is_call or run.feeder is not None else task.get_partition().get_ident()
            item = Item(
                run.lane, hub_ticket, requests, target, is_bound=hub_ticket.is_streamed, place=ticket.index, data=data
            )
            hub_ticket.item = item
            if run.feeder is not None:
                run.feeder.expect(hub_ticket)
        except BaseException:
            hub_ticket.release()
            raise
        # What is packed quickly goes to the hub together: for each time, two threads take turns.
        now = time.monotonic()
        if not self._packed:
            self._packed_since = now
        self._packed.append(item)
        if now - self._packed_since > _TOGETHER_SECONDS:
            self._put_packed()

    def _check_open(self) -> None:
        # Whether our files are still there is looked at before the hub is woken: for each ticket that takes too long.
        if self._hub.is_closed:
            if self._control.reason is not None:  # who closes an executor cancels its runs before
                raise JobCancelledError(self._control.reason)
            self._hub.check_open()

    def _put_packed(self) -> None:
        self._hub.check_files()
        packed, self._packed = self._packed, []
        self._hub.put(packed)

    def wait(self, timeout: float | None) -> Iterable[Event]:
        """Return what has arrived, after waiting for something to arrive."""
        if self._packed:
            self._put_packed()
        answers = deque(chain.from_iterable(self._run.inbox.wait(timeout)))
        if not answers:
            self._hub.check_files()
            # A run that began in the moment when the hub was closed is not known to it.
            return (Cancelled(self._control.reason or CLOSED),) if self._hub.is_closed else ()
        broken = next((answer for answer in answers if isinstance(answer, Broken)), None)
        if broken is None:
            return self._decode_all(answers)
        self._discard(answers)
        try:
            self._hub.check_files()  # it may have gone wrong because of that
            raise broken.error
        finally:
            # the error's traceback has this frame, which must have neither the error nor the memory of workers
            del answers, broken

    def _decode_all(self, answers: deque[Any]) -> list[Event]:
        events = []
        try:
            while answers:
                events.append(self._decode(answers.popleft()))
        finally:
            self._discard(answers)  # what is left after a KeyboardInterrupt
        return events

    @staticmethod
    def _discard(answers: Iterable[Any]) -> None:
        for answer in answers:
            if isinstance(answer, Answer):
                answer.discard()

    def _decode(self, answer: Answer | Event) -> Event:
        if not isinstance(answer, Answer):
            return answer
        number, message = answer.ticket.of_run.number, answer.message
        if isinstance(message, say.Failed):
            return Failed(number, unpack_error(message.error))
        arena, parcel = answer.arena, message.parcel
        assert arena is not None
        fd = answer.descriptors[0] if answer.descriptors else None
        # Results of a function may be kept for ever, and would fill the worker's memory; of tasks they rarely are.
        copy = parcel.block is not None and (self._is_call or arena.watched_bytes > self._hub.pool.result_budget // 4)
        try:
            result = unpack(parcel, arena, fd, copy=copy, keep=True)
        except KeyboardInterrupt:  # unpickling may take long
            raise
        except BaseException as error:  # noqa: BLE001  (users' code runs in there)
            return Failed(number, RemoteError(f"what a worker returned cannot be unpickled: {describe_error(error)}"))
        return Completed(number, result, message.seconds)

    def end(self) -> None:
        """Let nothing more begin, and wait for what is at work."""
        self._control.wake = None
        if self._hub.is_awaited():
            # The garbage collector ends a run that nobody has any more, in whatever thread it comes by.
            self._hub.request(self._end_without_waiting)
            return
        self._end_without_waiting()
        if self._run.feeder is not None:
            self._run.feeder.wait_for_end(self._control.grace)
        self._hub.wait_for_end(self._run)

    def __del__(self) -> None:
        # A Ctrl-C may come before anybody has it, who would end the run.
        if self._is_under_way:
            self._hub.request(self._end_without_waiting)

    def _end_without_waiting(self) -> None:
        self._is_under_way = False
        for item in self._packed:
            item.ticket.release()
        self._packed.clear()
        if self._run.feeder is not None:
            self._run.feeder.end()
        self._hub.end_run(self._run, self._control.grace)

    def _wake(self) -> None:
        self._run.inbox.wake()
