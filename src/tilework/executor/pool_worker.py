"""What happens in a worker process of somebody's pool: jobs come, answers go.

::

    run_job(job)
      the object of the job's shipment (parameters, or a function)     Cache, kept from job to job
      for every item of the job:
        note on the run's board: begun                                 so that the main side knows what killed us
        has the run ended?                                             the same board
        call it; pickle what it returned, or pack what it raised
      the answer: an outcome for each item, and the messages of the tasks

A job is small items that are worth about a millisecond together, or one that takes longer. Nothing in here may raise:
what a pool makes of an exception differs from pool to pool.

The process belongs to a pool that is not ours; all that is left in it is the cache, and that it ignores Ctrl-C, which
the main side handles for all.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tilework.common.backend import get_use_cuda
from tilework.common.executor import Environment, SimpleWorkerQueue, StopFlag, WorkerContext
from tilework.common.interrupts import let_interrupts_in
from tilework.executor.calling import call_task, note_unpicklable_result, note_unusable
from tilework.executor.remote import PackedError, dumps, loads, pack_error
from tilework.executor.shared_block import BlockGoneError, BoardView
from tilework.executor.shipping import Cache, MissingContentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.executor.shared_block import Address
    from tilework.executor.shipping import Shipment

__all__ = ["Answer", "Job", "Outcome", "prepare_process", "run_job"]

LONG_SECONDS: Final = 0.01
"""After an item that took longer, the rest of a job goes back: others may be free to do it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A few items of one run, for one process."""

    owner: str
    """The executor whose cached objects this process uses."""
    alive: tuple[str, ...]
    """Keys of all its objects."""
    shipment: Shipment
    """The parameters of the tasks, or the function."""
    is_tasks: bool
    """Whether the items are tasks to be called with parameters and environment, or arguments of the function."""
    items: bytes
    """The items, pickled as a list."""
    board: Address
    """Where the board of the run is."""
    slot: int
    """Where on the board this job says how far it is."""
    seconds_left: float | None
    """Until the run's deadline."""
    main_pid: int
    """The process that waits for the answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one item."""

    result: bytes | PackedError
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a job."""

    outcomes: tuple[Outcome, ...]
    """Of the first items; the others were not begun."""
    messages: bytes | None = None
    """What tasks signalled, pickled as a list."""
    has_board: bool = True
    """Whether the board of the run could be reached."""
    is_content_missing: bool = False
    """Whether nothing was done because the job must bring the shipment's content."""


class _BoardFlag(StopFlag):
    """A flag that is also set on the main side."""

    __slots__ = ("_board",)

    def __init__(self, board: BoardView | None, deadline: float | None) -> None:
        super().__init__(deadline)
        self._board = board

    def is_set(self) -> bool:
        """Return whether the tasks of the run should stop."""
        self._look()
        return super().is_set()

    def raise_if_set(self) -> None:
        """Raise JobCancelledError, or DeadlineExceededError when it is the time that is over."""
        self._look()
        super().raise_if_set()

    def _look(self) -> None:
        if self._board is not None and self._board.is_stopped():
            self.set("the run has ended")


class _Outbox(SimpleWorkerQueue):
    """Keeps the messages of tasks until their job is done."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Any] = []

    def put(self, header: Any, payload: bytes | memoryview | None = None) -> None:  # noqa: ARG002  (messages have none)
        """Keep a message."""
        self.messages.append(header)


_cache: Final = Cache()
_boards: Final[OrderedDict[Address, BoardView]] = OrderedDict()
_MOST_BOARDS: Final = 8
_lock: Final = threading.Lock()


def prepare_process() -> None:
    """Let Ctrl-C pass this process by: the main side gets it as well, and ends the run."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        let_interrupts_in()


def run_job(job: Job) -> Answer:
    """Do a job; this is what the main side submits to a pool."""
    if job.main_pid != os.getpid():
        prepare_process()
    board = _board(job.board)
    if board is not None:
        board.note(job.slot, 1)  # taking the parameters over is part of the first item
    try:
        shared = _take_shared(job)
        items = loads(job.items)
    except MissingContentError:
        return Answer((), has_board=board is not None, is_content_missing=True)
    except BaseException as error:  # noqa: BLE001  (users' code runs in there)
        return Answer((Outcome(pack_error(error), 0.0),), has_board=board is not None)
    deadline = None if job.seconds_left is None else time.monotonic() + job.seconds_left
    flag = _BoardFlag(board, deadline)
    outbox = _Outbox()
    call = _task_caller(shared, flag, outbox) if job.is_tasks else shared
    outcomes = []
    for n, item in enumerate(items, 1):
        if board is not None:
            board.note(job.slot, n)
        outcome = _do(call, item, flag)
        outcomes.append(outcome)
        if outcome.seconds > LONG_SECONDS:
            break
    if board is not None:
        board.note(job.slot, 0)
    return Answer(tuple(outcomes), _pack_messages(outbox.messages), has_board=board is not None)


def _take_shared(job: Job) -> Any:
    try:
        with _lock:
            return _cache.get(job.owner, job.shipment, job.alive)
    except MissingContentError:
        raise
    except Exception as error:
        if job.is_tasks:
            note_unusable(error)
        raise


def _board(address: Address) -> BoardView | None:
    """Return the board of a run; None when it is out of reach, as on another host."""
    with _lock:
        board = _boards.get(address)
        if board is None:
            try:
                board = BoardView(address)
            except BlockGoneError:
                return None
            _boards[address] = board
            if len(_boards) > _MOST_BOARDS:
                _boards.popitem(last=False)
        return board


def _task_caller(params: Any, flag: StopFlag, outbox: _Outbox) -> Callable[[Any], Any]:
    env = Environment(1, False, WorkerContext(None, outbox), get_use_cuda(), flag)
    return lambda task: call_task(task, params, env)


def _do(call: Callable[[Any], Any], item: Any, flag: StopFlag) -> Outcome:
    start = time.perf_counter()
    try:
        flag.raise_if_set()
        result = call(item)
    except BaseException as error:  # noqa: BLE001  (the run decides)
        return Outcome(pack_error(error), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    try:
        return Outcome(dumps(result), seconds)
    except BaseException as error:  # noqa: BLE001  (users' code runs in there)
        note_unpicklable_result(error, result)
        return Outcome(pack_error(error), seconds)


def _pack_messages(messages: list[Any]) -> bytes | None:
    if not messages:
        return None
    try:
        return dumps(messages)
    except Exception:  # noqa: BLE001  (progress is not worth a run)
        return None
