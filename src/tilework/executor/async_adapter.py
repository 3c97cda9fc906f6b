"""Any `JobExecutor` for asyncio: its blocking calls are made in threads.

Who does what: the event loop's thread awaits; each blocking call runs in a thread of the adapter's pool. A generator
of the wrapped executor is advanced by one thread at a time, one item for each ``await``, so that a slow consumer
slows the run down instead of filling memory.

asyncio is imported by those methods that only a running event loop can call: it is not needed to load an executor.
"""

from __future__ import annotations

import contextvars
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from tilework.common.executor import AsyncJobExecutor, RunOptions
from tilework.common.without_options import run_tasks_with

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Mapping

    from tilework.common.executor import (
        GenericTaskProtocol,
        JobExecutor,
        PartitionLike,
        TaskCommHandler,
        TaskProtocol,
    )
    from tilework.common.scheduler import WorkerSet
    from tilework.common.subscriptions import Callback

__all__ = ["AsyncAdapter", "MakingAsyncAdapter"]

T = TypeVar("T")
V = TypeVar("V")

_MAX_CALLS: Final = 64
_END: Final = object()


class AsyncAdapter(AsyncJobExecutor):
    """A `JobExecutor` for asyncio.

    Parameters
    ----------
    wrapped
        The executor. Closing the adapter closes it.
    pool
        Threads for the blocking calls; by default a pool of its own, which is shut down with the adapter.
    """

    def __init__(self, wrapped: JobExecutor, pool: Executor | None = None) -> None:
        self._wrapped = wrapped
        self._owns_pool = pool is None
        self._pool = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="tilework-async") if pool is None else pool

    def _in_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        import asyncio

        loop = asyncio.get_running_loop()
        try:
            return loop.run_in_executor(self._pool, call)
        except RuntimeError:  # it was shut down; the wrapped executor says so, and runs of it still have to end
            return loop.run_in_executor(None, call)

    async def _call(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        context = contextvars.copy_context()
        return await self._in_thread(partial(context.run, partial(fn, *args, **kwargs)))

    async def _iterate(self, generator: Generator[T, None, None], stop: Callable[[], Any]) -> AsyncGenerator[T, None]:
        """Yield what a generator yields; `stop` makes it return soon when it is needed no more while it works."""
        import asyncio

        from tilework.common.async_utils import ignore_outcome

        step: asyncio.Future[Any] | None = None
        context = contextvars.copy_context()
        advance: Callable[[], Any] = partial(context.run, partial(next, generator, _END))
        try:
            while True:
                step = self._in_thread(advance)
                step.add_done_callback(ignore_outcome)
                item = await asyncio.shield(step)
                if item is _END:
                    return
                yield item
        finally:
            if step is not None and not step.done():
                stop()
                # When this wait is cancelled as well, the generator ends by itself, and nobody waits for it.
                await asyncio.wait([step])
            await self._call(generator.close)

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

        The tasks' iterator and the handler are called in threads of the pool, one at a time. Cancelling the asyncio
        task that consumes the results cancels the runs named `cancel_id`, and waits for this one to end.
        """
        generator = run_tasks_with(self._wrapped, tasks, params_handle, cancel_id, task_comm_handler, options)
        return self._iterate(generator, partial(self._wrapped.cancel, cancel_id))

    async def run_function(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``fn(*args, **kwargs)`` on some worker."""
        return await self._call(self._wrapped.run_function, fn, *args, **kwargs)

    async def run_process_local(
        self, task: GenericTaskProtocol, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run ``task(args, kwargs, environment)`` in a thread of the pool."""
        return await self._call(self._wrapped.run_process_local, task, args, kwargs)

    async def map(self, fn: Callable[[V], T], iterable: Iterable[V]) -> Iterable[T]:
        """Run ``fn(item)`` for each item; results in the order of the items."""
        return await self._call(self._wrapped.map, fn, iterable)

    async def run_each_host(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on each host; results by host."""
        return await self._call(self._wrapped.run_each_host, fn, *args, **kwargs)

    async def run_each_worker(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on each worker; results by the worker's name."""
        return await self._call(self._wrapped.run_each_worker, fn, *args, **kwargs)

    def run_each_partition(
        self, partitions: Iterable[PartitionLike], fn: Callable[[Any], T], all_nodes: bool = False
    ) -> AsyncGenerator[T, None]:
        """Run ``fn(partition)`` for each partition; results as they are completed."""
        return self._iterate(self._wrapped.run_each_partition(partitions, fn, all_nodes), lambda: None)

    @asynccontextmanager
    async def scatter(self, obj: Any) -> AsyncIterator[Any]:
        """Give all workers an object, for the duration of an ``async with`` block that yields its handle."""
        context = self._wrapped.scatter(obj)
        handle = await self._call(context.__enter__)
        try:
            yield handle
        finally:
            await self._call(context.__exit__, None, None, None)

    async def scatter_update(self, handle: Any, obj: Any) -> None:
        """Let `handle` stand for another object; tasks that start later see it."""
        await self._call(self._wrapped.scatter_update, handle, obj)

    async def scatter_update_patch(self, handle: Any, patch: Any) -> None:
        """Call ``obj.patch(patch)`` on every worker's copy of the object that `handle` stands for."""
        await self._call(self._wrapped.scatter_update_patch, handle, patch)

    async def get_available_workers(self) -> WorkerSet:
        """Return the workers."""
        return await self._call(self._wrapped.get_available_workers)

    async def get_resource_details(self) -> list[dict[str, Any]]:
        """Return a dictionary for each host with its name under ``"host"``, and what it offers."""
        return await self._call(self._wrapped.get_resource_details)

    async def report(self) -> dict[str, Any]:
        """Return who runs where with what limits, and what happened so far."""
        return await self._call(self._wrapped.report)

    def subscribe(self, topic: str, callback: Callback) -> str:
        """Call ``callback(topic, message)`` for every event of this topic, in the thread where it happens."""
        return self._wrapped.subscribe(topic, callback)

    def unsubscribe(self, key: str) -> bool:
        """Remove a subscription; returns whether there was one."""
        return self._wrapped.unsubscribe(key)

    def ensure_sync(self) -> JobExecutor:
        """Return the wrapped executor."""
        return self._wrapped

    @property
    def snooze_manager(self) -> Any:
        """What takes workers down while nobody needs them."""
        return self._wrapped.snooze_manager

    async def cancel(self, cancel_id: Any) -> bool:
        """Cancel all runs with the given name; returns whether there was one."""
        return self._wrapped.cancel(cancel_id)

    async def close(self) -> None:
        """Close the wrapped executor, and shut down the pool if it is the adapter's own."""
        import asyncio

        # not in the pool: its threads may all be busy with runs, which this ends
        await asyncio.to_thread(self._wrapped.close)
        if self._owns_pool:
            await asyncio.to_thread(self._pool.shutdown)


class MakingAsyncAdapter(AsyncAdapter):
    """An `AsyncAdapter` for one kind of executor, which makes one when it is not given any.

    Parameters
    ----------
    wrapped
        The executor; by default one is made of the other arguments.
    *args, **kwargs
        For the kind of executor.

    Raises
    ------
    TypeError
        When there are both an executor and arguments to make one.
    """

    _kind: ClassVar[type[JobExecutor]]

    def __init__(self, wrapped: JobExecutor | None = None, *args: Any, **kwargs: Any) -> None:
        if wrapped is None:
            wrapped = self._kind(*args, **kwargs)
        elif args or kwargs:
            msg = "give either an executor to wrap, or the arguments to make one, not both"
            raise TypeError(msg)
        super().__init__(wrapped)
