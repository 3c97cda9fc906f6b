"""What runs in a Dask worker: batches of tickets as Dask tasks, and the messages that reach them while they run.

::

      main side                       worker process
    ┌───────────┐  Dask task,    ┌───────────────────────────────────────────┐
    │ Carriage  │  or message    │ run_batch    task thread: one after the   │
    │  Seating  ├───────────────►│   │          other, until none is left    │
    │           │◄───────────────┤   ▼                                       │
    │           │  BatchReport   │  Desk        slips of the running batches │
    │           │  client.run    │   ▲                                       │
    │ Courier   ├───────────────►│ stop_run, take_back    event loop         │
    └───────────┘   (1 ms)       └───────────────────────────────────────────┘

A batch is a Dask task (`Carriage`), or a message to one (`Seating`), whose thread does it: see `seat`. The end of a run
and what is recalled come by `seat.end_run` and `seat.recall`, which look among the batches that wait there first.

Who owns what: the desk is one for each process, and locked. A slip belongs to the batch that runs; the task thread
takes one ticket after the other from it, the event loop takes away all that have not begun. Whoever takes a ticket
has it: none is run twice, and none is forgotten.

Nothing here imports more of tilework than what an executor needs. What a task is made of is imported by unpickling it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tilework.common.backend import get_use_cuda
from tilework.common.executor import Environment, SimpleWorkerQueue, StopFlag, WorkerContext
from tilework.executor.calling import call_task, note_unpicklable_result, note_unusable
from tilework.executor.dask.latest_names import LatestNames
from tilework.executor.dask.orphans import stopped_when_released
from tilework.executor.dask.sealed import Sealed, SharedSealed, seal
from tilework.executor.remote import PackedError, dumps, pack_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Batch",
    "BatchReport",
    "Outcome",
    "has_ended",
    "note_missing",
    "run_batch",
    "stop_run",
    "take_back",
]

T = TypeVar("T")

LONG_BATCH_SECONDS: Final = 0.05
"""A batch that takes longer than this ends before its next ticket: results should not wait for each other."""

_REMEMBERED: Final = 4096
"""How many runs that have ended, and batches that were taken back, a worker remembers."""


# ---- messages ----


@dataclass(frozen=True, slots=True)
class Batch:
    """Tickets of one run for one worker: what the argument of the Dask task is."""

    ident: str
    """Unique."""
    run: str
    """Names the run, for `stop_run`."""
    numbers: tuple[int, ...]
    """Numbers of the tickets."""
    items: Sealed | None
    """The tasks, or the arguments of the function, as a list; None: they travel by themselves."""
    fn: Sealed | None
    """The function that is called with each item; None: the items are tasks."""
    patches: tuple[bytes, ...]
    """Patches of the scattered parameters."""
    seconds_left: float | None
    """Until the deadline of the run."""
    topic: str
    """Where messages of tasks go: a topic of Dask's event log."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one ticket."""

    number: int
    seconds: float
    result: Sealed | None
    error: PackedError | None = None


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a batch: the outcomes so far, and the tickets that were not begun."""

    outcomes: tuple[Outcome, ...]
    unbegun: tuple[int, ...] = ()
    n_messages: int = 0
    """How many messages of its tasks have been sent, which take another way."""


# ---- the desk ----


@dataclass(eq=False)
class _Slip:
    """One batch that runs here."""

    run: str
    flag: StopFlag
    todo: deque[tuple[int, Any]]
    outcomes: deque[Outcome] = field(default_factory=deque)
    n_messages: int = 0

    def take(self) -> tuple[int, Any] | None:
        """Take the next ticket, which has begun then; None: there is none."""
        return next(_drain(self.todo), None)

    def stop(self) -> None:
        """Let nothing more begin, and what runs stop at its next tile: nobody is there for its result."""
        self.flag.set("the program that wanted the result is gone, or has cancelled it with Dask")
        self.todo.clear()

    def report(self) -> BatchReport:
        """Take away the outcomes so far, and what has not begun."""
        unbegun = tuple(number for number, _ in _drain(self.todo))
        return BatchReport(tuple(_drain(self.outcomes)), unbegun, self.n_messages)


def _drain(items: deque[T]) -> Iterator[T]:
    """Take one after the other away; two threads may do so at a time."""
    while True:
        try:
            yield items.popleft()
        except IndexError:
            return


class _Desk:
    """The batches of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.slips: dict[str, _Slip] = {}  # by the batch's ident
        self.ended = LatestNames(_REMEMBERED)  # runs
        self.taken = LatestNames(_REMEMBERED)  # batches that were taken back before they began
        self.done = LatestNames(_REMEMBERED)  # batches whose answer is on its way, or has arrived


_desk: Final = _Desk()


def stop_run(run: str, reason: str) -> list[str]:
    """Let the tasks of a run stop at their next tile, and none begin any more; returns the batches that are running."""
    with _desk.lock:
        _desk.ended.add(run)
        running = [(ident, slip) for ident, slip in _desk.slips.items() if slip.run == run]
    for _, slip in running:
        slip.flag.set(reason)
        slip.todo.clear()
    return [ident for ident, _ in running]


def take_back(ident: str) -> BatchReport | None:
    """Take back what a batch has not begun, with the outcomes so far; None: all of it, it has not begun at all."""
    with _desk.lock:
        slip = _desk.slips.get(ident)
        if slip is None and ident in _desk.done:
            return BatchReport(())
        if slip is None:
            _desk.taken.add(ident)
            return None
    return slip.report()


def has_ended(run: str) -> bool:
    """Return whether this process was told that a run has ended."""
    return run in _desk.ended


# ---- batches ----


class _Messages(SimpleWorkerQueue):
    """Where the messages of tasks go: to the scheduler's event log, and from there to the main side."""

    def __init__(self, batch: Batch, slip: _Slip) -> None:
        from distributed import get_worker

        super().__init__()
        self._worker = get_worker()
        self._batch = batch
        self._slip = slip

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:  # noqa: ARG002
        """Send a message."""
        batch = self._batch
        message = {"run": batch.run, "batch": batch.ident, "message": dumps(header)}
        self._slip.n_messages += 1
        self._worker.log_event(batch.topic, message)


def run_batch(batch: Batch, params: SharedSealed | None = None, items: Sealed | None = None) -> BatchReport:
    """Do the tickets of a batch, one after the other; called by Dask, in a thread of the worker.

    Parameters
    ----------
    batch
        The tickets.
    params
        The scattered parameters of tasks.
    items
        The batch's items, when they were too large to travel in it.
    """
    deadline = None if batch.seconds_left is None else time.monotonic() + batch.seconds_left
    slip = _Slip(batch.run, StopFlag(deadline), deque(zip(batch.numbers, range(len(batch.numbers)), strict=True)))
    with _desk.lock:
        if batch.run in _desk.ended or batch.ident in _desk.taken:
            return BatchReport((), batch.numbers)
        _desk.slips[batch.ident] = slip
    try:
        with stopped_when_released(slip.stop):
            _do(batch, params, batch.items if items is None else items, slip)
    finally:
        with _desk.lock:
            del _desk.slips[batch.ident]
            _desk.done.add(batch.ident)
    return slip.report()


def _do(batch: Batch, params: SharedSealed | None, sealed: Sealed | None, slip: _Slip) -> None:
    begin = time.perf_counter()
    # It begins here: whoever is lost while something is unpickled may be lost by that, and must not be called unbegun.
    begun = slip.take()
    if begun is None:
        return
    try:
        assert sealed is not None
        items: list[Any] = sealed.open()
        call = _make_call(batch, params, slip)
    except BaseException as error:  # noqa: BLE001  (the run decides)
        from distributed import get_worker

        note_missing(error, get_worker().name, get_worker().address)
        slip.outcomes.append(Outcome(begun[0], 0.0, None, pack_error(error)))
        return
    while begun is not None:
        number, position = begun
        start = time.perf_counter()
        try:
            slip.flag.raise_if_set()
            result = call(items[position])
            outcome = Outcome(number, time.perf_counter() - start, _seal_result(result))
        except BaseException as error:  # noqa: BLE001  (the run decides)
            slip.outcomes.append(Outcome(number, 0.0, None, pack_error(error)))
            return
        del result
        slip.outcomes.append(outcome)
        if time.perf_counter() - begin > LONG_BATCH_SECONDS:
            return
        begun = slip.take()


def _seal_result(result: Any) -> Sealed:
    try:
        sealed: Sealed = seal(result)
    except Exception as error:
        note_unpicklable_result(error, result)
        raise
    return sealed


def note_missing(error: BaseException, name: str, address: str) -> None:
    """Add to an error of modules that a worker lacks, or has in another version, which worker it is and what to do."""
    if isinstance(error, ImportError | AttributeError):
        error.add_note(
            f"when the worker {name} at {address} unpickled its tasks: tilework, and the modules that they use, must "
            "be there, too, in the same versions; install them there, or send a module with "
            "client.upload_file('module.py'); what the program itself defines travels with its tasks"
        )


def _make_call(batch: Batch, params: SharedSealed | None, slip: _Slip) -> Callable[[Any], Any]:
    if batch.fn is not None:
        fn: Callable[[Any], Any] = batch.fn.open()
        return fn
    from distributed import get_worker

    assert params is not None
    try:
        opened = params.open_patched(batch.patches)
    except Exception as error:
        note_unusable(error)
        raise
    is_threaded = get_worker().state.nthreads > 1
    context = WorkerContext(None, _Messages(batch, slip))
    env = Environment(1, is_threaded, context, get_use_cuda(), slip.flag)
    return lambda task: call_task(task, opened, env)
