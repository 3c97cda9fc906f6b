"""How the tasks of one run are to be done, whatever they do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from tilework.common.numbers import is_real

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Priority", "RunOptions"]


class Priority(IntEnum):
    """Which run goes first where several want the same workers; the lower number."""

    LIVE = 0
    """Data that a detector delivers now and that is lost when nobody takes it."""
    INTERACTIVE = 1
    """Somebody waits for the result."""
    BATCH = 2
    """Nobody waits."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How the tasks of one run are to be done.

    Parameters
    ----------
    ordered
        Whether results come in task order, through a bounded reorder window, instead of as they are completed.
    priority
        Which run goes first where several want the same workers.
    timeout
        The longest that the run may take, in seconds from the call of `run_tasks`; then it ends with
        DeadlineExceededError. None for no limit.
    meanwhile
        Called once by the thread that takes the results, when the first tasks have been given out and before it waits:
        for what may be done while the workers begin. Where a detector's data is pushed to the tasks, before that. An
        executor need not call it, and a run that has no tasks does not.
    """

    ordered: bool = False
    priority: Priority = Priority.INTERACTIVE
    timeout: float | None = None
    meanwhile: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not (is_real(self.timeout) and self.timeout > 0):
            msg = f"timeout must be a positive number of seconds, or None for no limit, not {self.timeout!r}"
            raise ValueError(msg) if is_real(self.timeout) else TypeError(msg)
        if self.priority not in tuple(Priority):
            msg = f"priority must be one of {', '.join(f'Priority.{p.name}' for p in Priority)}, not {self.priority!r}"
            raise ValueError(msg)
