"""One run's way to the Dask workers, as `drive` sees it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tilework.exceptions import ExecutorError
from tilework.executor.dask.worker import Outcome
from tilework.executor.driver import warn_still_running
from tilework.executor.remote import contained
from tilework.executor.run import Completed, Failed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.executor.dask.courier import Courier
    from tilework.executor.dask.shipment import Shipment
    from tilework.executor.driver import RunControl
    from tilework.executor.inbox import Inbox
    from tilework.executor.run import Event, Ticket

__all__ = ["DaskBackend"]


V = TypeVar("V")

_POLL_SECONDS: Final = 0.1
"""How often the end of a run looks whether the courier has closed; on Windows, Ctrl-C is not noticed in between."""


class DaskBackend(Generic[V]):
    """Appends tickets to a shipment, and takes from the inbox what became of them.

    Results are unpickled here, in the thread of the consumer. ExecutorError in the event loop, which would wait for
    itself.
    """

    is_blocking = False

    def __init__(
        self,
        courier: Courier,
        shipment: Shipment,
        inbox: Inbox[Event | Outcome],
        control: RunControl,
    ) -> None:
        if threading.get_ident() == courier.loop_thread:
            msg = (
                "a subscriber, or something else in the event loop of the Dask client, waits for an executor, which "
                "needs that event loop: let another thread do that, or do it later"
            )
            raise ExecutorError(msg)
        self._courier = courier
        self._shipment = shipment
        self._inbox = inbox
        self._control = control
        self._is_used = False
        control.wake = inbox.wake

    def submit(self, ticket: Ticket[V]) -> None:
        """Append a ticket."""
        self._is_used = True
        self._shipment.incoming.append(ticket)
        self._courier.announce(self._shipment)

    def wait(self, timeout: float | None) -> Iterable[Event]:
        """Return what has arrived, after waiting for something to arrive."""
        items = self._inbox.wait(timeout)
        if not items:
            self._courier.check_alive()
        return [_unpack(item) for item in items]

    def end(self) -> None:
        """Drop what has not begun, and wait for what runs."""
        control = self._control
        control.wake = None
        courier = self._courier
        if not self._is_used or courier.has_closed():
            return
        ended = self._shipment.ended
        try:
            courier.call_soon(courier.end, self._shipment)
        except ExecutorError:  # the event loop is gone, and all workers with it
            return
        if threading.get_ident() == courier.loop_thread:
            return  # a generator that was forgotten ends wherever the garbage collector finds it
        until = time.monotonic() + control.grace
        while not ended.wait(min(_POLL_SECONDS, max(0.0, until - time.monotonic()))):
            if courier.has_closed():
                return
            if time.monotonic() >= until:
                warn_still_running(control)
                return


def _unpack(item: Event | Outcome) -> Event:
    if not isinstance(item, Outcome):
        return item
    try:
        result: Any = None if item.result is None else item.result.open()
    except KeyboardInterrupt:  # unpickling may take long
        raise
    except BaseException as error:  # noqa: BLE001  (users' code runs in there; the run decides)
        error.add_note("a result cannot be unpickled in the main process")
        return Failed(item.number, contained(error))
    return Completed(item.number, result, item.seconds)
