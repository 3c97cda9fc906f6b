"""What couples the source of a run's data on the main side with the tasks on the workers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tilework.common.worker_queue import discard_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.common.subscriptions import Callback
    from tilework.common.worker_queue import WorkerQueue

__all__ = ["NoopCommHandler", "TaskCommHandler"]


class TaskCommHandler:
    """Streams data from the main side to the tasks of a run, and passes their messages to subscribers.

    There is one for each run. An executor calls `start`, then `handle_task` for every task in task order, each while
    or before the task runs, and `done` at the end, also when the run failed, was cancelled or was given up by its
    consumer. When `start` raises, nothing has begun and `done` is not called. `start` and `done` are called in the
    thread that consumes the results, and so is `handle_task`, unless the executor has a thread of its own for it, as
    the pipelined one has.
    """

    _subscriptions: dict[str, list[Callback]]

    def start(self) -> None:
        """Prepare; called before the first task."""

    def handle_task(self, task: Any, queue: WorkerQueue) -> None:
        """Push all data of one task into its queue, and return when that is done.

        Nothing is streamed in a run whose handler does not override it: tasks get at their data by themselves.

        Parameters
        ----------
        task
            The task, as it was given to the executor.
        queue
            Where its worker reads. It is the task's own. Once the run has ended, it takes nothing: whoever puts, or
            asks for a buffer, gets a JobCancelledError, which need not be caught.

        Raises
        ------
        JobCancelledError
            When the source of the data was interrupted; ends the run.
        """

    def done(self) -> None:
        """Clean up; called after everything else."""

    @property
    def subscriptions(self) -> dict[str, list[Callback]]:
        """The callbacks by topic."""
        # made on first use: subclasses need not call __init__
        try:
            return self._subscriptions
        except AttributeError:
            self._subscriptions = {}
            return self._subscriptions

    def subscribe(self, topic: str, callback: Callable[[str, dict[str, Any]], None]) -> None:
        """Call ``callback(topic, message)`` for every message of this topic that a task of the run sends.

        Callbacks of a run are called one after the other in a thread of their own. To be called before the run starts.
        """
        self.subscriptions.setdefault(topic, []).append(callback)

    @contextmanager
    def monitor(self, queue: WorkerQueue) -> Iterator[None]:
        """Pass the messages that arrive in `queue` to the subscribers, for as long as the block lasts.

        Without subscribers no thread is started, and what is in there at the end is discarded.
        """
        if self.subscriptions:
            from tilework.common.progress import CommsDispatcher

            with CommsDispatcher(queue, self.subscriptions):
                yield
            return
        try:
            yield
        finally:
            discard_all(queue)


class NoopCommHandler(TaskCommHandler):
    """The handler to give where nothing is streamed: the tasks get at their data by themselves."""
