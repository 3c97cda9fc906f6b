"""The interface of all executors: they decide where and how work is done, and know nothing of datasets or UDFs.

An executor moves callables and tasks. Everything that touches data or computes goes through one, which is what lets
the same user-defined function run in a debugger, on threads, in worker processes or on a cluster.

`JobExecutor` is for blocking callers, `AsyncJobExecutor` for asyncio; each gives the other with ``ensure_sync()`` and
``ensure_async()``. What only some executors can do is a protocol: `ChoosyExecutor`, `LazyExecutor`. All that their
methods take can be imported from here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from tilework.common.comm_handler import NoopCommHandler, TaskCommHandler
from tilework.common.environment import Environment, StopFlag
from tilework.common.run_options import Priority, RunOptions
from tilework.common.scheduler import ResourceDef
from tilework.common.tasks import GenericTaskProtocol, PartitionLike, TaskProtocol
from tilework.common.worker_queue import (
    SimpleMPWorkerQueue,
    SimpleWorkerQueue,
    WorkerContext,
    WorkerQueue,
    WorkerQueueEmpty,
)
from tilework.exceptions import ExecutorError, JobCancelledError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
    from concurrent.futures import Executor
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType

    from tilework.common.scheduler import WorkerSet
    from tilework.common.subscriptions import Callback

__all__ = [
    "AsyncJobExecutor",
    "ChoosyExecutor",
    "Environment",
    "ExecutorError",
    "GPUSpec",
    "GenericTaskProtocol",
    "JobCancelledError",
    "JobExecutor",
    "LazyExecutor",
    "NoopCommHandler",
    "PartitionLike",
    "Priority",
    "ResourceDef",
    "RunOptions",
    "SimpleMPWorkerQueue",
    "SimpleWorkerQueue",
    "StopFlag",
    "TaskCommHandler",
    "TaskProtocol",
    "WorkerContext",
    "WorkerQueue",
    "WorkerQueueEmpty",
]

T = TypeVar("T")
V = TypeVar("V")

GPUSpec: TypeAlias = int | bool | None
"""Which GPU the main process uses: a CUDA device number, True for the first, False for none, None to find out."""


class JobExecutor(ABC):
    """Runs tasks and functions on workers.

    Any number of runs, functions and scatters may be under way at a time, from any threads. An executor stays usable
    after whatever a task, a function or a consumer does; after `close` everything that needs a worker raises
    ExecutorError. It is a context manager that closes itself.
    """

    @abstractmethod
    def run_tasks(
        self,
        tasks: Iterable[TaskProtocol],
        params_handle: Any,
        cancel_id: Any,
        task_comm_handler: TaskCommHandler,
        *,
        options: RunOptions = RunOptions(),
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        """Run tasks, and yield what each returned.

        Tasks are taken from the iterable one by one, never more than a small multiple of the workers ahead of the
        results that were consumed. The first error ends the run: the other tasks are dropped or told to stop, and the
        executor is ready for the next run. Closing the generator, or throwing into it, does the same. When it ends
        for whatever reason, no task of the run is running any more; only tasks that ignore ``env.raise_if_stopped``
        may outlive it.

        Parameters
        ----------
        tasks
            The tasks; may be a generator.
        params_handle
            What `scatter` gave for the parameters of the tasks.
        cancel_id
            Name for `cancel`; several runs may share it.
        task_comm_handler
            Streams data to the tasks and subscribes to their messages; ``NoopCommHandler()`` for tasks that need none.
        options
            Order, priority, deadline.

        Yields
        ------
        result, task
            What ``task(params, env)`` returned, and the task: as they are completed, or with ``options.ordered`` in the
            order of the tasks.

        Raises
        ------
        JobCancelledError
            When the run was cancelled, or the source of its data was interrupted.
        DeadlineExceededError
            When the run's time was over.
        WorkerLostError
            When a task lost its worker too often.
        ResourceError
            When a task asks for something that no worker offers.
        RemoteError
            When what a task raised cannot be raised here: it cannot be sent, or would end the consumer's interpreter.
        Exception
            What a task raised, with its type, message and traceback.
        """

    @abstractmethod
    def cancel(self, cancel_id: Any) -> bool:
        """Cancel all runs with the given name; may be called from any thread, and does not wait for them to end.

        Returns
        -------
        bool
            Whether there was such a run. Its consumer gets a JobCancelledError.
        """

    @abstractmethod
    def run_function(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``fn(*args, **kwargs)`` on some worker, and return what it returns or raise what it raises.

        When its worker is lost, it is called again on another one, three times in all: what it does to files or
        devices must bear being begun more than once, like that of a task. The same is true of `map` and
        `run_each_partition`.
        """

    @abstractmethod
    def run_process_local(
        self, task: GenericTaskProtocol, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return ``task(args, kwargs, environment)``, run in this thread, with the environment of the main process."""

    @abstractmethod
    def map(self, fn: Callable[[V], T], iterable: Iterable[V]) -> Iterable[T]:
        """Run ``fn(item)`` for each item, on arbitrary workers.

        Returns
        -------
        Iterable
            The results, in the order of the items. The first error is raised, and ends the rest.
        """

    @abstractmethod
    def run_each_host(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on each host, and return the results by host.

        When its worker is lost, the function is called again; see `run_function`.
        """

    @abstractmethod
    def run_each_worker(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on each worker, and return the results by the worker's name.

        When a worker is lost meanwhile, the function is called again on the one that replaces it; see `run_function`.
        """

    @abstractmethod
    def run_each_partition(
        self,
        partitions: Iterable[PartitionLike],
        fn: Callable[[Any], T],
        all_nodes: bool = False,
    ) -> Generator[T, None, None]:
        """Run ``fn(partition)`` for each partition, and yield the results as they are completed.

        Parameters
        ----------
        partitions
            The partitions.
        fn
            What to call.
        all_nodes
            Run it on every host that has the partition, instead of on any worker; a partition without location
            is left out then.
        """

    @abstractmethod
    def scatter(self, obj: T) -> AbstractContextManager[Any]:
        """Give all workers an object, for the duration of a ``with`` block.

        Returns
        -------
        context manager
            It yields the handle of the object.
        """

    @abstractmethod
    def scatter_update(self, handle: Any, obj: Any) -> None:
        """Let `handle` stand for another object; tasks that start later see it."""

    @abstractmethod
    def scatter_update_patch(self, handle: Any, patch: Any) -> None:
        """Call ``obj.patch(patch)`` on every worker's copy of the object that `handle` stands for.

        Raises
        ------
        TypeError
            When the object has no method ``patch``.
        Exception
            Of any kind, that ``obj.patch`` raises; no worker sees the patch then. Where workers share the object of
            the caller, it is as ``obj.patch`` left it.
        """

    @abstractmethod
    def get_available_workers(self) -> WorkerSet:
        """Return the workers, one entry for each process or group of threads."""

    @abstractmethod
    def get_resource_details(self) -> list[dict[str, Any]]:
        """Return a dictionary for each host with its name under ``"host"``, and what it offers."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """Return who runs where with what limits, and what happened so far, as plain values that JSON can hold."""

    @abstractmethod
    def subscribe(self, topic: str, callback: Callback) -> str:
        """Call ``callback(topic, message)`` for every event of this topic, in the thread where it happens.

        Returns
        -------
        str
            Key for `unsubscribe`.
        """

    @abstractmethod
    def unsubscribe(self, key: str) -> bool:
        """Remove a subscription; returns whether there was one."""

    @abstractmethod
    def ensure_async(self, pool: Executor | None = None) -> AsyncJobExecutor:
        """Return this executor for use with asyncio.

        Parameters
        ----------
        pool
            Threads in which blocking calls are made; by default a pool of its own.
        """

    def ensure_sync(self) -> JobExecutor:
        """Return this executor for blocking use: itself."""
        return self

    def modify_buffer_type(self, buf: T) -> T:
        """Return what to use in place of a result buffer of the main side: the same, for most executors."""
        return buf

    @property
    def snooze_manager(self) -> Any:
        """What takes workers down while nobody needs them; None where workers are always up."""
        return None

    def close(self) -> None:  # noqa: B027  (most executors have nothing to release)
        """End all runs and release everything; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncJobExecutor(ABC):
    """A `JobExecutor` for asyncio: the same methods, which never block the event loop."""

    @abstractmethod
    def run_tasks(
        self,
        tasks: Iterable[TaskProtocol],
        params_handle: Any,
        cancel_id: Any,
        task_comm_handler: TaskCommHandler,
        *,
        options: RunOptions = RunOptions(),
    ) -> AsyncGenerator[tuple[Any, TaskProtocol], None]:
        """Run tasks, and yield what each returned; see `JobExecutor.run_tasks`.

        Cancelling the asyncio task that consumes the results cancels the run.
        """

    @abstractmethod
    async def run_function(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``fn(*args, **kwargs)`` on some worker."""

    @abstractmethod
    async def run_process_local(
        self, task: GenericTaskProtocol, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return ``task(args, kwargs, environment)``, run here, in another thread than the event loop's."""

    @abstractmethod
    async def map(self, fn: Callable[[V], T], iterable: Iterable[V]) -> Iterable[T]:
        """Run ``fn(item)`` for each item; results in the order of the items."""

    @abstractmethod
    async def run_each_host(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on each host; results by host."""

    @abstractmethod
    async def run_each_worker(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on each worker; results by the worker's name."""

    @abstractmethod
    def run_each_partition(
        self,
        partitions: Iterable[PartitionLike],
        fn: Callable[[Any], T],
        all_nodes: bool = False,
    ) -> AsyncGenerator[T, None]:
        """Run ``fn(partition)`` for each partition; results as they are completed; see `run_each_partition` there."""

    @abstractmethod
    def scatter(self, obj: T) -> AbstractAsyncContextManager[Any]:
        """Give all workers an object, for the duration of an ``async with`` block that yields its handle."""

    @abstractmethod
    async def scatter_update(self, handle: Any, obj: Any) -> None:
        """Let `handle` stand for another object; tasks that start later see it."""

    @abstractmethod
    async def scatter_update_patch(self, handle: Any, patch: Any) -> None:
        """Call ``obj.patch(patch)`` on every worker's copy of the object that `handle` stands for."""

    @abstractmethod
    async def get_available_workers(self) -> WorkerSet:
        """Return the workers, one entry for each process or group of threads."""

    @abstractmethod
    async def get_resource_details(self) -> list[dict[str, Any]]:
        """Return a dictionary for each host with its name under ``"host"``, and what it offers."""

    @abstractmethod
    async def report(self) -> dict[str, Any]:
        """Return who runs where with what limits, and what happened so far."""

    @abstractmethod
    def subscribe(self, topic: str, callback: Callback) -> str:
        """Call ``callback(topic, message)`` for every event of this topic, in the thread where it happens."""

    @abstractmethod
    def unsubscribe(self, key: str) -> bool:
        """Remove a subscription; returns whether there was one."""

    @abstractmethod
    def ensure_sync(self) -> JobExecutor:
        """Return the same executor for blocking use."""

    def ensure_async(self, pool: Executor | None = None) -> AsyncJobExecutor:  # noqa: ARG002
        """Return this executor: itself."""
        return self

    async def cancel(self, cancel_id: Any) -> bool:  # noqa: ARG002
        """Cancel all runs with the given name; returns whether there was one."""
        return False

    @property
    def snooze_manager(self) -> Any:
        """What takes workers down while nobody needs them; None where workers are always up."""
        return None

    async def close(self) -> None:  # noqa: B027  (most executors have nothing to release)
        """End all runs and release everything; may be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


@runtime_checkable
class ChoosyExecutor(Protocol):
    """What an executor can that does not serve every `TaskCommHandler`: say so before a detector is made ready."""

    def check_handler(self, handler: TaskCommHandler) -> None:
        """Raise ExecutorError when the handler wants what this executor cannot do, as `JobExecutor.run_tasks` would."""
        ...


@runtime_checkable
class LazyExecutor(Protocol):
    """What an executor can that computes nothing: its tasks become parts of a Dask graph."""

    def register_master_udfs(self, udfs: Iterable[Any]) -> None:
        """Say what the tasks of the next run of this thread return, so that their results can be Dask arrays.

        Parameters
        ----------
        udfs
            Main-side instances in the order of the tasks' results, whose ``results`` hold declared buffers.
        """
        ...

    def run_delayed(
        self, fn: Callable[..., Any], *args: Any, _delayed_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Return the `dask.delayed.Delayed` of ``fn(*args, **kwargs)``."""
        ...
