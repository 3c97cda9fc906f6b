"""The two kinds of workers that a `ConcurrentJobExecutor` can have behind its pool, seen the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from tilework.common.executor import RunOptions, TaskCommHandler, TaskProtocol
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.run import Bounds
    from tilework.executor.storing import Store

__all__ = ["Workforce"]

T = TypeVar("T")
V = TypeVar("V")


class Workforce(ABC):
    """The workers, and what is scattered to them."""

    store: Store
    """What is scattered."""
    names: Sequence[str]
    """Of the workers: one for each process."""
    threads: int
    """How many tasks each of them can run at the same time."""

    @property
    @abstractmethod
    def client(self) -> Executor:
        """The pool that does the work now."""

    @abstractmethod
    def check_handler(self, handler: TaskCommHandler) -> None:
        """Raise ExecutorError when the handler wants what these workers cannot do."""

    @abstractmethod
    def open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        """Return a new run's way to the workers; see `DrivenJobExecutor`."""

    @abstractmethod
    def open_calls(self, fn: Callable[[V], Any], control: RunControl, options: RunOptions) -> Backend[V]:
        """Return the way to the workers for calls of a function; see `DrivenJobExecutor`."""

    @abstractmethod
    def bounds(self, *, is_streamed: bool) -> Bounds:
        """Return how much of a run may be under way."""

    @abstractmethod
    def meeting(self, call: Callable[[Any], T]) -> AbstractContextManager[Callable[[int], T]]:
        """Give a function that does the call once in each process, when it is called with the number of each."""

    def limits(self) -> dict[str, Any]:
        """Return what the report says about limits, beyond those of every executor."""
        return {}

    @abstractmethod
    def close(self, grace: float, *, shut_down: bool) -> None:
        """End all work.

        Parameters
        ----------
        grace
            How long to wait for tasks that still run, in seconds.
        shut_down
            Whether to shut the pool down.
        """
