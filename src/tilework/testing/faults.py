"""Tasks, handlers and exceptions that do, on purpose, what users' code does by accident.

They use nothing but `TaskProtocol`: no datasets, no user-defined functions. Tasks and tests talk to each other through
`Signals`, folders in a folder, which work the same between threads, processes and containers that share a file system,
and do not depend on the executor under test.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from tilework.common.executor import TaskCommHandler

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.executor import Environment, TaskProtocol, WorkerQueue
    from tilework.common.scheduler import ResourceDef, WorkerSet

__all__ = [
    "BlockTask",
    "CallTask",
    "DeadlyParams",
    "EchoTask",
    "EndlessTask",
    "FakePartition",
    "FakeTask",
    "KillTask",
    "LockTask",
    "OneWayError",
    "RaiseTask",
    "Signals",
    "SleepTask",
    "StreamHandler",
    "StreamTask",
    "TwoArgumentsError",
    "UnpicklableError",
    "WantsMoreError",
    "kill_this_process",
    "raise_here",
]

POLL_SECONDS = 0.001
TILE_SECONDS = 0.002


@dataclass(frozen=True)
class Signals:
    """Named events and counters that tasks and a test share.

    Parameters
    ----------
    folder
        An empty folder for them alone.
    """

    folder: str

    def add(self, name: str) -> None:
        """Count one more of `name`."""
        # one call that an interrupt cannot leave half done, unlike opening and closing a file
        os.mkdir(f"{self.folder}/{name}@{uuid.uuid4().hex}")  # noqa: PTH102

    def count(self, name: str) -> int:
        """Return how often `name` was counted."""
        # one call that is not interrupted half way, as an iterator over the folder would be
        return sum(1 for entry in os.listdir(self.folder) if entry.startswith(f"{name}@"))  # noqa: PTH208

    def wait(self, name: str, n: int = 1, timeout: float = 60.0) -> None:
        """Wait until `name` was counted `n` times; TimeoutError when that takes too long."""
        until = time.monotonic() + timeout
        while self.count(name) < n:
            if time.monotonic() > until:
                msg = f"{name!r} was counted {self.count(name)} instead of {n} times within {timeout:g} s"
                raise TimeoutError(msg)
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class FakePartition:
    """A partition of nothing."""

    ident: str = "part-0"
    locations: WorkerSet | None = None

    def get_ident(self) -> str:
        """Return its name."""
        return self.ident

    def get_locations(self) -> WorkerSet | None:
        """Return the workers that have it."""
        return self.locations


@dataclass
class FakeTask:
    """A task that returns its index; the others add what goes wrong.

    Parameters
    ----------
    index
        Position in the run.
    resources
        What it needs of a worker.
    """

    index: int = 0
    resources: ResourceDef = field(default_factory=lambda: {"CPU": 1, "compute": 1, "ndarray": 1}, kw_only=True)

    def __call__(self, params: Any, env: Environment) -> Any:
        """Return the index."""
        return self.index

    def get_partition(self) -> FakePartition:
        """Return a partition named after the index."""
        return FakePartition(f"part-{self.index}")

    def get_resources(self) -> ResourceDef:
        """Return what was given."""
        return self.resources

    def get_locations(self) -> WorkerSet | None:
        """Return None: no preference."""
        return None

    def get_tracing_span_context(self) -> Any:
        """Return None: not traced."""
        return None


@dataclass
class EchoTask(FakeTask):
    """Returns ``(index, params)``."""

    def __call__(self, params: Any, env: Environment) -> Any:
        """Return what it was given."""
        return self.index, params


@dataclass
class CallTask(FakeTask):
    """Returns what ``fn(params, env)`` returns."""

    fn: Callable[[Any, Environment], Any] = lambda params, env: None

    def __call__(self, params: Any, env: Environment) -> Any:
        """Call it."""
        return self.fn(params, env)


@dataclass
class SleepTask(FakeTask):
    """Sleeps, in tiles, and returns its index. It stops at the next tile when its run has ended."""

    seconds: float = 0.01

    def __call__(self, params: Any, env: Environment) -> Any:
        """Sleep."""
        until = time.monotonic() + self.seconds
        while (left := until - time.monotonic()) > 0:
            env.raise_if_stopped()
            time.sleep(min(left, TILE_SECONDS))
        return self.index


@dataclass
class EndlessTask(FakeTask):
    """Works on tiles for ever, until its run has ended. Counts ``started`` and ``stopped``."""

    signals: Signals = field(kw_only=True)

    def __call__(self, params: Any, env: Environment) -> Any:
        """Never return."""
        try:
            self.signals.add("started")
            while True:
                env.raise_if_stopped()
                time.sleep(TILE_SECONDS)
        finally:
            self.signals.add("stopped")


@dataclass
class BlockTask(FakeTask):
    """Counts ``started``, waits until somebody counts `until`, counts ``done``; returns its index and its start.

    It stops when its run has ended, unless it is `stubborn`.
    """

    signals: Signals = field(kw_only=True)
    until: str = "release"
    stubborn: bool = False

    def __call__(self, params: Any, env: Environment) -> Any:
        """Wait."""
        start = time.monotonic()
        self.signals.add("started")
        while not self.signals.count(self.until):
            if not self.stubborn:
                env.raise_if_stopped()
            time.sleep(POLL_SECONDS)
        self.signals.add("done")
        return self.index, start


@dataclass
class RaiseTask(FakeTask):
    """Raises what `make_error` returns."""

    make_error: Callable[[], BaseException] = lambda: ValueError("on purpose")

    def __call__(self, params: Any, env: Environment) -> Any:
        """Raise it, two calls deep."""
        raise_here(self.make_error)


def raise_here(make_error: Callable[[], BaseException]) -> None:
    """Raise what `make_error` returns; its name is what a traceback must show."""
    raise make_error()


class UnpicklableError(Exception):
    """An exception that cannot be pickled: it holds a lock, as those of some libraries do."""

    def __init__(self, message: str = "this cannot be pickled") -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class TwoArgumentsError(Exception):
    """An exception that can be pickled, but not unpickled: a very common mistake in exception classes."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")

    def __reduce__(self) -> tuple[Any, ...]:
        # What exceptions do by default. Said here, because tblib, which Dask imports, repairs those that do not say it.
        return type(self), self.args


class WantsMoreError(Exception):
    """An exception whose constructor takes other arguments than it keeps."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")
        self.where = where


class OneWayError(Exception):
    """An exception that can be unpickled where it was raised, but nowhere else.

    Parameters
    ----------
    message
        Its text.
    obstacle
        What is raised when it is unpickled in another process.
    """

    def __init__(self, message: str, obstacle: type[BaseException] = RuntimeError) -> None:
        super().__init__(message)
        self.obstacle = obstacle

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive_nowhere_else, (os.getpid(), str(self), self.obstacle)


def _arrive_nowhere_else(pid: int, message: str, obstacle: type[BaseException]) -> OneWayError:
    if os.getpid() != pid:
        msg = "not here"
        raise obstacle(msg)
    return OneWayError(message, obstacle)


@dataclass
class LockTask(FakeTask):
    """A task that cannot be pickled: it holds a lock."""

    lock: Any = field(default_factory=threading.Lock)


def kill_this_process(how: str, main_pid: int) -> NoReturn:
    """End this process at once, as the system does when memory runs out, or a broken library.

    Parameters
    ----------
    how
        ``"SIGKILL"`` or ``"exit"``.
    main_pid
        The process in which the tests run, which is not killed: AssertionError there.
    """
    if os.getpid() == main_pid:
        msg = "the executor runs tasks in the main process: it cannot lose workers, declare can_lose_workers = False"
        raise AssertionError(msg)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # until the signal has been delivered
    os._exit(3)


@dataclass
class KillTask(FakeTask):
    """Kills its worker the first `times` times that it runs, and counts ``killed-<index>``; then returns its index."""

    signals: Signals = field(kw_only=True)
    times: int = 1
    how: str = "SIGKILL"
    main_pid: int = field(default_factory=os.getpid)

    def __call__(self, params: Any, env: Environment) -> Any:
        """Kill, or return."""
        name = f"killed-{self.index}"
        if self.signals.count(name) < self.times:
            self.signals.add(name)
            kill_this_process(self.how, self.main_pid)
        return self.index


class DeadlyParams:
    """Parameters whose arrival kills the worker, the first time; counts ``arrived``.

    Parameters
    ----------
    signals
        Where it is counted.
    value
        What the tasks look at.
    main_pid
        The process that is spared; None: this one.
    """

    def __init__(self, signals: Signals, value: int, main_pid: int | None = None) -> None:
        self.signals = signals
        self.value = value
        self.main_pid = os.getpid() if main_pid is None else main_pid

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive_deadly, (self.signals, self.value, self.main_pid)


def _arrive_deadly(signals: Signals, value: int, main_pid: int) -> DeadlyParams:
    if os.getpid() != main_pid:
        is_first = not signals.count("arrived")
        signals.add("arrived")
        if is_first:
            kill_this_process("SIGKILL", main_pid)
    return DeadlyParams(signals, value, main_pid)


@dataclass
class StreamTask(FakeTask):
    """Adds up the numbers that arrive in its queue until the header says ``"end"``."""

    def __call__(self, params: Any, env: Environment) -> Any:
        """Return the index and the sum."""
        context = env.worker_context
        assert context is not None
        queue = context.get_worker_queue()
        total = 0
        while True:
            env.raise_if_stopped()
            with queue.get() as (header, payload):
                if header == "end":
                    return self.index, total
                assert payload is not None
                total += sum(payload)


class StreamHandler(TaskCommHandler):
    """Pushes numbers to `StreamTask`, and keeps a record of its calls.

    Parameters
    ----------
    fail_at
        The task whose `handle_task` raises `error` instead of pushing anything; None for none.
    error
        What it raises.
    """

    def __init__(self, fail_at: int | None = None, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self.fail_at = fail_at
        self.error = error

    def start(self) -> None:
        """Take note."""
        self.calls.append("start")

    def handle_task(self, task: TaskProtocol, queue: WorkerQueue) -> None:
        """Push the numbers 0 to 9, each plus the task's index, in two ways."""
        assert isinstance(task, FakeTask)
        self.calls.append(f"task {task.index}")
        if task.index == self.fail_at:
            assert self.error is not None
            raise self.error
        queue.put("data", memoryview(bytes(task.index + i for i in range(5))))
        with queue.put_nocopy("data", 5) as buffer:
            buffer[:] = bytes(task.index + i for i in range(5, 10))
        queue.put("end")

    def done(self) -> None:
        """Take note."""
        self.calls.append("done")

    @staticmethod
    def expected(index: int) -> int:
        """Return the sum that the task with this index must find."""
        return 45 + 10 * index
