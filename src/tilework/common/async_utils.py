"""Bridges between blocking code and asyncio; what the eager ones are made of is in `tilework.common.channel`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar

from tilework.common.channel import (
    EMPTY,
    END,
    AsyncGenToQueueThread,
    Channel,
    LoopSignal,
    Mark,
    SyncGenToQueueThread,
    ThreadSignal,
    aclose_generator,
    close_generator,
)
from tilework.exceptions import MyStopIteration

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
    from concurrent.futures import Executor

__all__ = [
    "AsyncGenToQueueThread",
    "Channel",
    "MyStopIteration",
    "SyncGenToQueueThread",
    "adjust_event_loop_policy",
    "async_generator",
    "async_generator_eager",
    "async_to_sync_generator",
    "ignore_outcome",
    "kept_awake",
    "run_agen_get_last",
    "run_gen_get_last",
    "sync_to_async",
]

T = TypeVar("T")
P = ParamSpec("P")

PULSE: Final = 0.2
"""How long an event loop may sleep while it waits for a run (s)."""


def ignore_outcome(future: asyncio.Future[Any]) -> None:
    """Look at the outcome of what is done, so that asyncio does not report an error that nobody waits for any more."""
    if not future.cancelled():
        future.exception()


@contextlib.contextmanager
def kept_awake() -> Iterator[None]:
    """Let the running event loop look around now and then, while a coroutine waits for another thread in the block.

    A handler of `signal.signal` runs in the middle of the loop's sleep, and what it asks for with ``call_soon`` does
    not wake the loop. Jupyter's kernels cancel a cell in that way, so "interrupt" would have no effect until the run
    is over.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def beat() -> None:
        nonlocal timer
        timer = loop.call_later(PULSE, beat)

    beat()
    try:
        yield
    finally:
        timer.cancel()


async def sync_to_async(fn: Callable[P, T], pool: Executor | None = None, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a blocking function in a thread of a pool, in a copy of the caller's context.

    Parameters
    ----------
    fn, args, kwargs
        What to call.
    pool
        Where to call it; None for the default pool of the event loop.

    Raises
    ------
    MyStopIteration
        When `fn` raised StopIteration.
    """

    def call() -> T:
        try:
            return fn(*args, **kwargs)
        except StopIteration as e:
            raise MyStopIteration(*e.args) from e

    return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, call)


async def async_generator(gen: Iterable[T], pool: Executor | None = None) -> AsyncGenerator[T, None]:
    """Iterate in threads of a pool, one step each time an item is asked for.

    When the consumer leaves or is cancelled, a step that is under way is waited for, and then `gen` is closed.

    Parameters
    ----------
    gen
        A generator, or anything to iterate.
    pool
        Where its steps run; None for the default pool of the event loop.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    step: asyncio.Future[T | Literal[Mark.END]] | None = None
    iterator: Iterator[T] = iter(gen)

    def advance() -> T | Literal[Mark.END]:
        return next(iterator, END)

    try:
        while True:
            step = loop.run_in_executor(pool, context.run, advance)
            item = await asyncio.shield(step)
            if item is END:
                return
            yield item
    finally:
        if step is not None and not step.done():
            await asyncio.wait({step})
            step.exception()  # looked at: nobody is left to whom it could matter
        await loop.run_in_executor(pool, context.run, close_generator, gen)


async def async_generator_eager(gen: Iterable[T], pool: Executor | None = None) -> AsyncGenerator[T, None]:
    """Iterate in a thread that runs ahead of the consumer, by a bounded number of items.

    When the consumer leaves, the thread stops after the step it is in, `gen` is closed in it, and it is waited for.

    Parameters
    ----------
    gen
        A generator, or anything to iterate. Its exception is raised here, after the items that came before it.
    pool
        Where the thread comes from; it is occupied until the end. None for a thread of its own.
    """
    ready = LoopSignal()
    channel: Channel[T] = Channel(ready)
    join = SyncGenToQueueThread(gen, channel).launch(pool)
    try:
        while (item := channel.take()) is not END:
            if item is EMPTY:
                await ready.wait()
            else:
                yield item
    finally:
        channel.close()
        while not channel.is_ended:
            await ready.wait()
        join()
        if channel.error is not None:
            raise channel.error


def async_to_sync_generator(agen: AsyncIterator[T], pool: Executor | None = None) -> Generator[T, None, None]:
    """Iterate over an asynchronous generator from blocking code.

    It runs in an event loop of its own in a thread, ahead of the consumer by a bounded number of items. When the
    consumer leaves, it is cancelled and closed there, and the thread is waited for.

    Parameters
    ----------
    agen
        An asynchronous generator that belongs to no other event loop. Its exception is raised here.
    pool
        Where the thread comes from; it is occupied until the end. None for a thread of its own.
    """
    ready = ThreadSignal()
    channel: Channel[T] = Channel(ready)
    join = AsyncGenToQueueThread(agen, channel).launch(pool)
    try:
        while (item := channel.take()) is not END:
            if item is EMPTY:
                ready.wait()
            else:
                yield item
    finally:
        channel.close()
        join()
        if channel.error is not None:
            raise channel.error


async def run_agen_get_last(agen: AsyncIterator[T]) -> T:
    """Run an asynchronous generator to its end and close it; returns its last item.

    Raises
    ------
    RuntimeError
        When it had none.
    """
    last: T | Literal[Mark.EMPTY] = EMPTY
    try:
        async for item in agen:
            last = item
    finally:
        await aclose_generator(agen)
    return _not_empty(last)


def run_gen_get_last(gen: Iterable[T]) -> T:
    """Run a generator to its end and close it; returns its last item.

    Raises
    ------
    RuntimeError
        When it had none.
    """
    last: T | Literal[Mark.EMPTY] = EMPTY
    try:
        for item in gen:
            last = item
    finally:
        close_generator(gen)
    return _not_empty(last)


def _not_empty(last: T | Literal[Mark.EMPTY]) -> T:
    if last is EMPTY:
        msg = "there is no last item: the generator yielded nothing"
        raise RuntimeError(msg)
    return last


def adjust_event_loop_policy() -> None:
    """Let event loops made from now on work with sockets as tornado and ZeroMQ need them; only differs on Windows."""
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
