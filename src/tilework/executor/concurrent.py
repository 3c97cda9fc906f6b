"""Tasks on a pool of `concurrent.futures`: threads of this process, or other processes.

::

    ConcurrentJobExecutor ── Workforce
                               ├ ThreadWorkforce  (threads)  tasks see the memory of this process
                               └ PoolWorkforce    (pool)     everything is pickled; a process that dies is replaced

Who owns what: the executor owns its workforce, which owns what it needs to use the pool; the pool is shut down with the
executor if it is local. Each run has a way to the workers of its own, so that runs and functions never wait for each
other's replies; they share the workers only, in turn, by priority.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tilework.exceptions import ExecutorSpecException
from tilework.executor.async_adapter import MakingAsyncAdapter
from tilework.executor.at_exit import cancel_at_exit, come_before, no_more
from tilework.executor.calling import Call
from tilework.executor.driver import STOP_GRACE_SECONDS
from tilework.executor.local import workers_here
from tilework.executor.steady_threads import SteadyThreads
from tilework.executor.storing import StoringJobExecutor
from tilework.executor.threads import ThreadWorkforce
from tilework.utils.device_ids import check_number
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.executor import GPUSpec, RunOptions, TaskCommHandler, TaskProtocol
    from tilework.common.scheduler import WorkerSet
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.run import Bounds
    from tilework.executor.workforce import Workforce

__all__ = ["AsyncConcurrentJobExecutor", "ConcurrentJobExecutor"]

T = TypeVar("T")
V = TypeVar("V")


class ConcurrentJobExecutor(StoringJobExecutor):
    """Runs tasks and functions on any pool of `concurrent.futures`.

    On threads (`~concurrent.futures.ThreadPoolExecutor`) nothing is copied, and what is asked for from inside a task,
    a function or any other job of the pool runs in its thread at once, so that it cannot wait for threads that wait
    for it. Any other pool is taken for one of other processes: `~concurrent.futures.ProcessPoolExecutor`,
    ``loky.get_reusable_executor()``, ``mpi4py.futures.MPIPoolExecutor``. There, tasks, functions and results are
    pickled (by cloudpickle), scattered objects reach each process once, and data cannot be streamed to tasks. Numerical
    libraries are limited to one thread inside each task.

    A process that dies takes its pool with it. A pool of `make_processes`, and loky's reusable one, are replaced then,
    and the unfinished tasks run again; with any other pool the run ends with a WorkerLostError. Which process does what
    is the pool's business: `run_each_worker` reaches each one when all become free within a while, else some may
    be missed. On hosts other than this one a running task does not hear that its run was cancelled, and ends by itself
    or at the run's deadline.

    Parameters
    ----------
    client
        The pool. A `~concurrent.futures.ThreadPoolExecutor` can be left locked by Ctrl-C; `make_local` has one that
        cannot.
    is_local
        Whether to shut the pool down when the executor closes.
    main_process_gpu
        GPU for what runs outside of tasks: the number of a CUDA device, True for the first one, False for none; None
        for the first one if CuPy can use it.

    Raises
    ------
    ExecutorSpecException
        When `client` is not a pool, or the GPU is not there.
    """

    def __init__(self, client: Executor, is_local: bool = False, main_process_gpu: GPUSpec = None) -> None:
        given: object = client
        if not isinstance(given, Executor):
            msg = (
                f"client must be a pool, such as a concurrent.futures.ThreadPoolExecutor, not {given!r}; "
                "ConcurrentJobExecutor.make_local() makes one of threads, make_processes() one of processes"
            )
            raise ExecutorSpecException(msg)
        super().__init__(main_process_gpu)
        self.is_local = is_local
        self._workforce = _workforce(client)
        self._store = self._workforce.store
        cancel_at_exit(self)
        come_before(ThreadPoolExecutor)

    @property
    def client(self) -> Executor:
        """The pool that does the work now."""
        return self._workforce.client

    @classmethod
    def make_local(cls, n_threads: int | None = None, main_process_gpu: GPUSpec = None) -> Self:
        """Make an executor with threads of its own.

        Parameters
        ----------
        n_threads
            How many; by default as many as there are CPUs that this process may use.
        main_process_gpu
            See the class.

        Returns
        -------
        ConcurrentJobExecutor
            Shuts its threads down when it is closed.

        Raises
        ------
        ExecutorSpecException
            When `n_threads` is less than 1.
        """
        n_threads = _count("n_threads", n_threads)
        return cls(SteadyThreads(n_threads, "tilework"), is_local=True, main_process_gpu=main_process_gpu)

    @classmethod
    def make_processes(cls, n_processes: int | None = None, main_process_gpu: GPUSpec = None) -> Self:
        """Make an executor with processes of its own, for Python code that holds the GIL and does not share memory.

        The processes are spawned when they are first needed, and import the main module of the program: what a script
        does must stand under ``if __name__ == "__main__":``. One that dies is replaced.

        Parameters
        ----------
        n_processes
            How many; by default as many as there are CPUs that this process may use.
        main_process_gpu
            See the class.

        Returns
        -------
        ConcurrentJobExecutor
            Ends its processes when it is closed.

        Raises
        ------
        ExecutorSpecException
            When `n_processes` is less than 1.
        ExecutorError
            When there is no room in /dev/shm for what they need to be started.
        """
        from tilework.executor.renewable import SpawnedProcesses

        client = SpawnedProcesses(_count("n_processes", n_processes))
        return cls(client, is_local=True, main_process_gpu=main_process_gpu)

    def get_available_workers(self) -> WorkerSet:
        """Return one worker for each process.

        It is called ``concurrent``, and has as many threads as the pool, or ``process-0``, ``process-1`` and so on;
        which of the processes of a pool has which of these names is not defined.
        """
        return workers_here(self._workforce.names, self._workforce.threads)

    def run_each_worker(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once in each process: for threads, on one of them, since they share everything.

        The processes of a pool cannot be addressed. The calls wait for each other, so that each is in a process of its
        own; when not all become free within ten seconds, a process may do two of them, and another none.
        """
        self._check_open()
        names = self._workforce.names
        with self._workforce.meeting(Call(fn, args, kwargs)) as each:
            return dict(zip(names, self.map(each, range(len(names))), strict=True))

    def check_handler(self, handler: TaskCommHandler) -> None:
        """Raise ExecutorError when the handler streams data, and the workers are processes."""
        self._workforce.check_handler(handler)

    def _open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        return self._workforce.open_tasks(asked)

    def _open_calls(self, fn: Callable[[V], Any], control: RunControl, options: RunOptions) -> Backend[V]:
        return self._workforce.open_calls(fn, control, options)

    def _bounds(self, *, is_streamed: bool) -> Bounds:
        return self._workforce.bounds(is_streamed=is_streamed)

    def _limits(self) -> dict[str, Any]:
        return {**super()._limits(), **self._workforce.limits()}

    def _release(self) -> None:
        self._workforce.close(STOP_GRACE_SECONDS, shut_down=self.is_local)
        no_more(self)


def _workforce(client: Executor) -> Workforce:
    if isinstance(client, ThreadPoolExecutor):
        return ThreadWorkforce(client)
    from tilework.executor.pool import PoolWorkforce

    return PoolWorkforce(client)


def _count(name: str, n: int | None) -> int:
    if n is None:
        return available_cpu_count()
    if n < 1:
        msg = f"{name} must be at least 1, or None for all CPUs, not {n}"
        raise ExecutorSpecException(msg)
    check_number(name, n)
    return n


class AsyncConcurrentJobExecutor(MakingAsyncAdapter):
    """A `ConcurrentJobExecutor` for asyncio.

    Parameters
    ----------
    wrapped
        The executor; by default one is made of the other arguments.
    *args, **kwargs
        For `ConcurrentJobExecutor`.
    """

    _kind = ConcurrentJobExecutor

    @classmethod
    async def make_local(cls, n_threads: int | None = None, main_process_gpu: GPUSpec = None) -> Self:
        """Make an executor with threads of its own; see `ConcurrentJobExecutor.make_local`."""
        return cls(ConcurrentJobExecutor.make_local(n_threads, main_process_gpu))

    @classmethod
    async def make_processes(cls, n_processes: int | None = None, main_process_gpu: GPUSpec = None) -> Self:
        """Make an executor with processes of its own; see `ConcurrentJobExecutor.make_processes`."""
        return cls(ConcurrentJobExecutor.make_processes(n_processes, main_process_gpu))
