"""What the parts of the executors' contract have in common: the hooks, and the proof that nothing is left."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import pytest

from tilework.common.executor import JobExecutor, NoopCommHandler, RunOptions
from tilework.testing.faults import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

    from tilework.common.executor import Priority, TaskCommHandler, TaskProtocol

__all__ = ["ExecutorHarness", "Leftovers"]

SHM = Path("/dev/shm")
SETTLE_SECONDS = 10.0


class Leftovers:
    """What this process holds: threads, file descriptors, child processes, shared memory.

    Parameters
    ----------
    shm_prefix
        What the names of its entries in /dev/shm begin with; those of other programs come and go.
    """

    def __init__(self, shm_prefix: str) -> None:
        self.threads = {thread for thread in threading.enumerate() if thread.is_alive()}
        self.files = _open_files()
        self.children = set(psutil.Process().children(recursive=True))
        self.shm = {entry.name for entry in SHM.glob(f"{shm_prefix}*")}

    def since(self, before: Leftovers) -> dict[str, list[str]]:
        """Return, in words, what was not there `before`; empty when there is nothing."""
        new = {
            "threads": sorted(thread.name for thread in self.threads - before.threads),
            "files": sorted(f"{fd}: {target}" for fd, target in (self.files.items() - before.files.items())),
            "processes": sorted(str(child) for child in self.children - before.children),
            "shared memory": sorted(self.shm - before.shm),
        }
        return {kind: names for kind, names in new.items() if names}


def _open_files() -> dict[int, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else ():  # noqa: PTH208
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115  (not a path for sockets and pipes)
        except OSError:  # the descriptor of the listing itself
            continue
    return {fd: target for fd, target in found.items() if not target.startswith(f"/proc/{os.getpid()}")}


class ExecutorHarness:
    """Hooks and declarations of one executor, and helpers for tests.

    A subclass overrides `make_executor` and `make_code`, and declares what its executor is and can do. What it
    declares not to have is skipped, and shows up in pytest's report with its name.
    """

    make_code: ClassVar[str]
    """Statements that bind a new executor to the name ``executor``; they run in a fresh interpreter."""
    worker_names: ClassVar[tuple[str, ...]]
    """Names of its workers."""
    hosts: ClassVar[tuple[str, ...]] = ("localhost",)
    """Names of its hosts."""
    parallelism: ClassVar[int] = 1
    """How many tasks it runs at the same time."""
    threads_per_worker: ClassVar[int | None] = 1
    """Limit for numerical libraries inside a task."""
    threaded: ClassVar[bool] = False
    """Whether tasks run in several threads of one process."""
    max_ahead: ClassVar[int] = 16
    """How many tasks per worker may be pulled ahead of the results that were consumed; tasks take at least 5 ms."""
    shares_memory: ClassVar[bool] = True
    """Whether workers see the objects of the main side themselves, rather than copies."""
    streams: ClassVar[bool] = True
    """Whether a TaskCommHandler can stream data to tasks."""
    shm_prefix: ClassVar[str] = "tilework-{pid}-"
    """What the names of its entries in /dev/shm begin with; ``{pid}`` stands for the main process."""
    prioritises: ClassVar[bool] = True
    """Whether a run of higher priority overtakes others that are queued."""
    can_lose_workers: ClassVar[bool] = False
    """Whether workers are processes, and the loss of one costs its unfinished tasks only; see `worker_pids`."""
    settle_seconds: ClassVar[float] = 0.0
    """How long it may take until a task that was submitted is queued: where another thread or process does that."""
    tells_interrupts: ClassVar[bool] = True
    """Whether a KeyboardInterrupt that a task raises is told from Ctrl-C, which it is not in the consumer's thread."""

    def make_executor(self) -> JobExecutor:
        """Return a new executor; the test closes it."""
        raise NotImplementedError

    def settle(self) -> None:
        """Let what was there before the test, and stays, drop what it only keeps to use it again."""

    def wait_queued(self, executor: JobExecutor, priority: Priority) -> None:
        """Wait until what was submitted last, with this priority, is where those that are free look for work."""
        time.sleep(self.settle_seconds)

    def worker_pids(self, executor: JobExecutor) -> list[int]:
        """Return the process ids of all workers; used when `can_lose_workers` is declared."""
        return sorted(set(executor.run_each_worker(os.getpid).values()))

    def kill_worker(self, pid: int) -> None:
        """Kill a worker, and return when it is dead."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.kill()
            until = time.monotonic() + SETTLE_SECONDS
            # a child of ours stays as a zombie until its parent, the executor, has looked at it
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < until, f"process {pid} does not die"
                time.sleep(0.001)

    # ---- fixtures ----

    @pytest.fixture(autouse=True)
    def nothing_left(self) -> Iterator[None]:
        """Prove, after each test, that no thread, file, process or shared memory is left."""
        prefix = self.shm_prefix.format(pid=os.getpid())
        self.settle()
        if self.can_lose_workers:
            # Python has one process that looks after others; it starts with the first, and ends with the interpreter.
            resource_tracker.ensure_running()
        before = Leftovers(prefix)
        yield
        until = time.monotonic() + SETTLE_SECONDS
        n_looks = 0
        while new := Leftovers(prefix).since(before):
            if time.monotonic() > until:
                pytest.fail(f"left behind: {new}")
            self.settle()
            n_looks += 1
            if n_looks % 5 == 0:  # takes longer than most things take to end
                gc.collect()
            multiprocessing.active_children()  # until somebody asks, Python keeps a pipe of a child that has ended
            time.sleep(0.01)

    @pytest.fixture
    def executor(self, nothing_left: None) -> Iterator[JobExecutor]:
        """An executor that is closed before `nothing_left` looks."""
        executor = self.make_executor()
        yield executor
        executor.close()

    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        """Events and counters that tasks and the test share."""
        return Signals(str(tmp_path))

    # ---- helpers ----

    def require(self, capability: str) -> None:
        """Skip the test when the executor declares that it does not have this."""
        if not getattr(self, capability):
            pytest.skip(f"declared: {capability} = {getattr(self, capability)!r}")

    @contextmanager
    def start(
        self,
        executor: JobExecutor,
        tasks: Iterable[TaskProtocol],
        params: Any = None,
        cancel_id: Any = "run",
        handler: TaskCommHandler | None = None,
        **options: Any,
    ) -> Iterator[Generator[tuple[Any, TaskProtocol], None, None]]:
        """Scatter the parameters, and give the generator of a run; see `JobExecutor.run_tasks`."""
        with executor.scatter(params) as handle:
            generator = executor.run_tasks(
                tasks, handle, cancel_id, handler or NoopCommHandler(), options=RunOptions(**options)
            )
            try:
                yield generator
            finally:
                generator.close()

    def run(self, executor: JobExecutor, tasks: Iterable[TaskProtocol], params: Any = None, **kwargs: Any) -> list[Any]:
        """Run tasks to the end, and return the results as they came; see `start`."""
        with self.start(executor, tasks, params, **kwargs) as results:
            return [result for result, _ in results]

    def assert_usable(self, executor: JobExecutor) -> None:
        """Prove that the executor takes and finishes new work."""
        from tilework.testing.faults import FakeTask

        assert sorted(self.run(executor, [FakeTask(i) for i in range(5)])) == list(range(5))
        assert executor.run_function(divmod, 17, 5) == (3, 2)

    @contextmanager
    def background(self) -> Iterator[Callable[..., Future[Any]]]:
        """Give a function that calls others in threads of the test; all must have ended at the end of the block."""
        with ThreadPoolExecutor(16, thread_name_prefix="test") as pool:
            yield pool.submit
