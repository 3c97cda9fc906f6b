"""How far a run has come: what workers report, how it is counted, and who shows it.

Who does what: on a worker, `PartitionProgressTracker` sends a few messages for each partition that takes long. On the
main side `CommsDispatcher` receives them in a thread of its own and gives them to `ProgressManager`, which counts; the
thread that merges tells it of every finished task. Both are counted under one lock, which is also held while the
reporter is called, so a reporter sees one state after the other and need not be thread-safe.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from tilework.common.worker_queue import discard_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from tilework.common.shape import Shape
    from tilework.common.subscriptions import Callback

__all__ = [
    "CommsDispatcher",
    "PartitionProgressTracker",
    "PartitionTrackerNoOp",
    "ProgressManager",
    "ProgressReporter",
    "ProgressState",
    "TQDMProgressReporter",
    "get_time",
]

log = logging.getLogger(__name__)

PARTITION_START = "partition_start"
TILE_COMPLETE = "tile_complete"
PARTITION_COMPLETE = "partition_complete"
_STOP = "STOP"


def get_time() -> float:
    """Return the time that message intervals are measured with (s)."""
    return time.monotonic()


class ProgressState(NamedTuple):
    """How far a run has come.

    Parameters
    ----------
    num_frames_complete
        Frames processed, rounded down while partitions are in progress whose tiles do not hold complete frames.
    num_frames_total
        Frames of the run, those selected by its ROI.
    num_part_complete, num_part_in_progress, num_part_total
        Partitions that are done, that a worker has started, and of the run.
    progress_id
        Names the run.
    """

    num_frames_complete: int
    num_frames_total: int
    num_part_complete: int
    num_part_in_progress: int
    num_part_total: int
    progress_id: str


class ProgressReporter(ABC):
    """Shows the progress of a run to somebody. Its methods are called one at a time, from any thread.

    Examples
    --------
    >>> from tilework.udf.sum import SumUDF
    >>> class Lines(ProgressReporter):
    ...     def start(self, state):
    ...         print(f"{state.num_frames_total} frames in {state.num_part_total} partitions")
    ...
    ...     def update(self, state):
    ...         pass
    ...
    ...     def end(self, state):
    ...         print(f"{state.num_frames_complete} done")
    >>> _ = ctx.run_udf(dataset=ds, udf=SumUDF(), progress=Lines())
    48 frames in 3 partitions
    48 done
    """

    @abstractmethod
    def start(self, state: ProgressState) -> None:
        """Begin; called once, before anything else."""

    @abstractmethod
    def update(self, state: ProgressState) -> None:
        """Show a change. Called for every message and finished task: it must be quick, and may skip."""

    @abstractmethod
    def end(self, state: ProgressState) -> None:
        """End; always called, also when the run failed. `update` is not called any more."""


@functools.cache
def _bar_type() -> Any:
    """Return the class of bars: tqdm's, but a run does not fail where its bar cannot be written any more."""
    from tqdm.auto import tqdm

    class ProgressBar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        # tqdm would start a thread to watch over bars that are seldom updated; it stays until the program ends.
        monitor_interval = 0

        def display(self, *args: Any, **kwargs: Any) -> Any:
            """Draw the bar, for as long as somebody can see it."""
            try:
                return super().display(*args, **kwargs)
            except (OSError, ValueError):  # who read it is gone, the disk of a log is full; the file was closed
                self.disable = True

        def close(self) -> None:
            """Leave the bar."""
            with contextlib.suppress(OSError, ValueError):
                super().close()
            # By this, a bar of a notebook refers to itself. The garbage collector would find it, and call Python code
            # of tqdm then, in which Ctrl-C would be raised, and lost, that comes while it is at work.
            self.__dict__.pop("disp", None)

    return ProgressBar


class TQDMProgressReporter(ProgressReporter):
    """A progress bar of tqdm, in the terminal or in a notebook: frames, with partitions in the description.

    Classes that derive from it, to show a bar elsewhere, open one in `start` and keep it as ``_bar``.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, state: ProgressState) -> None:
        """Open the bar."""
        self._bar = _bar_type()(desc=self._get_description(state), total=state.num_frames_total, leave=True)

    def update(self, state: ProgressState) -> None:
        """Move the bar; tqdm decides whether it is time to draw it."""
        self._update(state, clip=True, refresh=False)

    def end(self, state: ProgressState) -> None:
        """Draw the bar a last time and leave it there."""
        bar = self._bar
        if bar is not None:
            self._update(state, clip=False, refresh=True)
            self._bar = None
            bar.close()

    def _update(self, state: ProgressState, *, clip: bool, refresh: bool) -> None:
        """Move the bar, with `clip` at most to its end, and draw it in any case with `refresh`."""
        bar = self._bar
        if bar is None:
            return
        bar.set_description_str(self._get_description(state), refresh=False)
        done = state.num_frames_complete
        bar.update((min(done, state.num_frames_total) if clip else done) - bar.n)
        if refresh:
            bar.refresh()

    @staticmethod
    def _get_description(state: ProgressState) -> str:
        in_progress = f"({state.num_part_in_progress})" if state.num_part_in_progress > 0 else ""
        return f"Partitions {state.num_part_complete}{in_progress}/{state.num_part_total}, Frames"


class _Partition(Protocol):
    def get_ident(self) -> str: ...

    @property
    def shape(self) -> Shape: ...


class _Task(Protocol):
    @property
    def task_frames(self) -> int: ...

    def get_partition(self) -> Any: ...


class _Comms(Protocol):
    def subscribe(self, topic: str, callback: Callback, /) -> Any: ...


class ProgressManager:
    """Counts the progress of one run and tells a reporter.

    Parameters
    ----------
    tasks
        All tasks of the run; each has ``get_partition()`` and ``task_frames``, the number of frames it processes.
    progress_id
        Names the run.
    reporter
        A reporter, or a class or function that makes one; None for a progress bar.

    Raises
    ------
    ValueError
        When there are no tasks.
    """

    def __init__(
        self,
        tasks: Iterable[_Task],
        progress_id: str,
        reporter: ProgressReporter | Callable[[], ProgressReporter] | None = None,
    ) -> None:
        tasks = list(tasks)
        if not tasks:
            msg = "there is no progress to report of a run without tasks"
            raise ValueError(msg)
        self._lock = threading.RLock()
        self._progress_id = progress_id
        self._frames = {task.get_partition().get_ident(): task.task_frames for task in tasks}
        self._sig_sizes = {task.get_partition().get_ident(): _sig_size(task.get_partition()) for task in tasks}
        self._total = sum(self._frames.values())
        self._complete: set[str] = set()
        self._complete_frames = 0
        # Frames of the partitions in progress. Counted apart, so that rounding never adds up over a run.
        self._started: dict[str, float] = {}
        self._is_open = True
        if reporter is None:
            reporter = TQDMProgressReporter
        self._reporter = reporter if isinstance(reporter, ProgressReporter) else reporter()
        self._reporter.start(self.state)

    @property
    def state(self) -> ProgressState:
        """How far the run has come."""
        with self._lock:
            return ProgressState(
                num_frames_complete=self._complete_frames + int(sum(self._started.values())),
                num_frames_total=self._total,
                num_part_complete=len(self._complete),
                num_part_in_progress=len(self._started),
                num_part_total=len(self._frames),
                progress_id=self._progress_id,
            )

    def connect(self, comms: _Comms) -> None:
        """Subscribe to the messages of the workers; `comms` has ``subscribe(topic, callback)``."""
        comms.subscribe(PARTITION_START, self._on_start)
        comms.subscribe(TILE_COMPLETE, self._on_tile)
        comms.subscribe(PARTITION_COMPLETE, self._on_complete)

    def finalize_task(self, task: _Task) -> None:
        """Count a task as complete, whatever its worker has or has not reported."""
        self._on_complete(PARTITION_COMPLETE, {"ident": task.get_partition().get_ident()})

    def close(self) -> None:
        """End the report; messages that arrive later are ignored. May be called twice."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._reporter.end(self.state)

    def _on_start(self, topic: str, message: Mapping[str, Any]) -> None:
        ident = self._ident(topic, PARTITION_START, message)
        with self._lock:
            if ident is not None and ident not in self._complete and ident not in self._started:
                self._started[ident] = 0.0
                self._report()

    def _on_tile(self, topic: str, message: Mapping[str, Any]) -> None:
        ident = self._ident(topic, TILE_COMPLETE, message)
        with self._lock:
            if ident is not None and ident not in self._complete:
                frames = self._started.get(ident, 0.0) + message["elements"] / self._sig_sizes[ident]
                self._started[ident] = min(frames, float(self._frames[ident]))
                self._report()

    def _on_complete(self, topic: str, message: Mapping[str, Any]) -> None:
        ident = self._ident(topic, PARTITION_COMPLETE, message)
        with self._lock:
            if ident is not None and ident not in self._complete:
                self._started.pop(ident, None)
                self._complete.add(ident)
                self._complete_frames += self._frames[ident]
                self._report()

    def _ident(self, topic: str, expected: str, message: Mapping[str, Any]) -> str | None:
        """Return the partition a message is about; None when it is not one of this run."""
        if topic != expected:
            msg = f"Unrecognized topic {topic!r}, expected {expected!r}"
            raise RuntimeError(msg)
        ident: str = message["ident"]
        return ident if ident in self._frames else None

    def _report(self) -> None:
        if self._is_open:
            self._reporter.update(self.state)


def _sig_size(partition: _Partition) -> int:
    return max(1, partition.shape.sig.size)


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


class PartitionProgressTracker:
    """Reports from a worker how far one partition has come.

    A partition that is done within `min_message_interval` sends nothing for its tiles. Nothing is sent at all when the
    partition was given no worker context.

    Parameters
    ----------
    partition
        The partition; messages go through the worker context that it was given.
    min_message_interval
        At most one message in this time (s).
    """

    def __init__(self, partition: Any, min_message_interval: float = 1.0) -> None:
        self._context = getattr(partition, "_worker_context", None)
        self._ident: str = "" if self._context is None else partition.get_ident()
        self._interval = min_message_interval
        self._last_message: float | None = None
        self._elements = 0

    def signal_start(self) -> None:
        """Tell that the partition is being worked on."""
        self._send(PARTITION_START, {})

    def signal_tile_complete(self, tile: _Sized) -> None:
        """Count a tile, and tell when it is time; never for the first one."""
        if self._context is None:
            return
        self._elements += tile.size
        now = get_time()
        if self._last_message is None:
            self._last_message = now
        elif now - self._last_message >= self._interval:
            self._send(TILE_COMPLETE, {"elements": self._elements})
            self._last_message = now
            self._elements = 0

    def signal_complete(self) -> None:
        """Tell that the partition is done. The main side need not be told: it finds out from the result."""
        self._send(PARTITION_COMPLETE, {})

    def _send(self, topic: str, message: dict[str, Any]) -> None:
        if self._context is not None:
            self._context.signal(self._ident, topic, message)


class PartitionTrackerNoOp(PartitionProgressTracker):
    """Reports nothing."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__(None)


class _Queue(Protocol):
    def get(self, block: bool = ..., timeout: float | None = ...) -> AbstractContextManager[tuple[Any, Any]]: ...

    def put(self, header: Any, payload: bytes | memoryview | None = ...) -> None: ...


class CommsDispatcher:
    """Gives the messages that arrive in a queue to their subscribers, in a thread, for as long as the block lasts.

    Messages that arrived before the end of the block are all given out; the queue is empty afterwards.

    Parameters
    ----------
    queue
        A `WorkerQueue` whose headers are ``(topic, message)``.
    subscriptions
        Callbacks by topic, called in order. Messages of other topics are dropped. An exception of a callback is logged
        and does not keep the others from being called.
    """

    def __init__(self, queue: _Queue, subscriptions: Mapping[str, Sequence[Callback]]) -> None:
        self._queue = queue
        self._subscriptions = subscriptions
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._thread is not None:
            msg = "Cannot re-enter CommsDispatcher"
            raise RuntimeError(msg)
        self._thread = threading.Thread(target=self._dispatch, name="CommsDispatcher", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C while it waits until the thread has begun
            self._queue.put((_STOP, {}))
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put((_STOP, {}))
        thread.join()
        discard_all(self._queue)

    def _dispatch(self) -> None:
        while True:
            with self._queue.get() as (header, _):
                topic, message = header
            if topic == _STOP:
                return
            for callback in self._subscriptions.get(topic, ()):
                try:
                    callback(topic, message)
                except Exception:
                    log.exception("a subscriber of %r failed", topic)
