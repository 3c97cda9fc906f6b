"""One run's lane to the threads of a crew, and its inbox for what they answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tilework.executor.crew import Crew, Lane
from tilework.executor.driver import warn_still_running
from tilework.executor.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.common.executor import Priority
    from tilework.executor.driver import RunControl
    from tilework.executor.run import Event, Ticket

__all__ = ["LaneBackend"]


V = TypeVar("V")


class LaneBackend(ABC, Generic[V]):
    """A `Backend` whose tickets are served by a crew.

    Parameters
    ----------
    control
        The run, as others see it.
    crew
        The threads.
    priority
        Which lanes go first.
    """

    is_blocking = False

    def __init__(self, control: RunControl, crew: Crew, priority: Priority) -> None:
        self._control = control
        self._crew = crew
        self._inbox: Inbox[Event] = Inbox()
        self._lane: Lane[Ticket[V]] = Lane(priority, self._serve, self._post)
        control.wake = self._wake

    @abstractmethod
    def _serve(self, ticket: Ticket[V]) -> Any:
        """Run one ticket, called by a thread of the crew; returns what is to be posted. Must not raise."""

    def _post(self, answer: Any) -> None:
        """Put what `_serve` returned into the inbox."""
        self._inbox.put(answer)

    def submit(self, ticket: Ticket[V]) -> None:
        """Append a ticket to the lane."""
        self._crew.put(self._lane, ticket)

    def wait(self, timeout: float | None) -> Iterable[Event]:
        """Return what has arrived, after waiting for something to arrive."""
        return self._inbox.wait(timeout)

    def end(self) -> None:
        """Empty the lane, and wait for what runs."""
        control = self._control
        control.wake = None
        self._stop()
        lane = self._lane
        if not self._crew.end(lane, control.grace):
            warn_still_running(control, lane.n_running)
        # The lane knows this object: results must not wait for the garbage collector to find that circle.
        del self._lane

    def _stop(self) -> None:
        """Tell the tasks that run, or wait for data, that the run has ended. The run's flag is set already."""

    def _wake(self) -> None:
        self._inbox.wake()
