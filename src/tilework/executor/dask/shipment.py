"""One run, between its consumer and the courier."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ExecutorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.executor import SimpleWorkerQueue
    from tilework.executor.dask.lanes import Lane, Need
    from tilework.executor.dask.scattered import Scattered
    from tilework.executor.dask.sealed import Sealed
    from tilework.executor.dask.worker import Outcome
    from tilework.executor.run import Event, Ticket

__all__ = ["Shipment"]

MAX_RETURNS: Final = 20
"""How often in a row, without any result in between, Dask may give something of a run up."""


@dataclass(eq=False)
class Shipment:
    """One run, between its consumer and the courier."""

    lane: Lane
    need_of: Callable[[Ticket[Any]], Need]
    post: Callable[[Event | Outcome], None]
    name_of: Callable[[Any], str]
    """The name of a ticket's item on the dashboard."""
    fn: Sealed | None = None
    """What is called with each item; None: the items are tasks."""
    params: Scattered | None = None
    """Of tasks."""
    messages: SimpleWorkerQueue | None = None
    """Takes the messages of tasks."""
    deadline: float | None = None
    incoming: deque[Ticket[Any]] = field(default_factory=deque)
    is_announced: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    stranded_since: float | None = None
    returns: int = 0
    """How often in a row Dask gave something of it up, and as far as is known nothing was lost."""

    def count_return(self) -> None:
        """Take note that Dask gave something up, unless that was because the parameters got lost: those come again."""
        if self.params is None or not self.params.state[0].forget_if_lost():
            self.returns += 1

    def note_progress(self) -> None:
        """Take note that results have come: workers that are lost may bring batches back before that is told."""
        self.returns = 0

    def check_returns(self, why: object) -> None:
        """Raise ExecutorError when Dask gave up too often."""
        if self.returns > MAX_RETURNS:
            msg = f"Dask gave tasks of this run up again and again, although their workers live: {why}"
            raise ExecutorError(msg)
