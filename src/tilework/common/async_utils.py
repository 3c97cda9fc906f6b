"""Bridges between blocking code and asyncio.

Who does what: an eager bridge has a producer that runs ahead in a thread of its own (or of a pool), and a consumer.
They meet in a `Channel` of bounded size: a producer that is too far ahead waits, so a slow consumer never makes memory
grow. Whoever leaves first tells the other: the producer ends the channel, with its exception if there was one; the
consumer closes it, waits until the producer has closed its generator, and only then goes on. So a generator is always
closed where it ran, and no thread outlives its bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, ParamSpec, Protocol, TypeVar

from tilework.exceptions import MyStopIteration

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
    from concurrent.futures import Executor, Future

__all__ = [
    "AsyncGenToQueueThread",
    "Channel",
    "MyStopIteration",
    "SyncGenToQueueThread",
    "adjust_event_loop_policy",
    "async_generator",
    "async_generator_eager",
    "async_to_sync_generator",
    "kept_awake",
    "run_agen_get_last",
    "run_gen_get_last",
    "sync_to_async",
]

T = TypeVar("T")
P = ParamSpec("P")

AHEAD: Final = 16
"""How many items an eager producer may be ahead of its consumer."""
PULSE: Final = 0.2
"""How long an event loop may sleep while it waits for a run (s)."""


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


class _Mark(Enum):
    EMPTY = "nothing there yet"
    END = "nothing will come any more"


_EMPTY: Final = _Mark.EMPTY
_END: Final = _Mark.END


# ---- the channel ----


class _Signal(Protocol):
    def set(self) -> None:
        """Wake whoever waits, or is going to wait; may be called from any thread."""


class _ThreadSignal:
    """Wakes a thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self) -> None:
        self._event.wait()
        self._event.clear()


class _LoopSignal:
    """Wakes a coroutine of the event loop it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()


class _ConsumerGoneError(Exception):
    """The consumer closed the channel; never seen outside of this module."""


class Channel(Generic[T]):
    """A bounded queue between one producer and one consumer, in different threads or event loops.

    Parameters
    ----------
    consumer
        Wakes the consumer.
    size
        How many items may wait.
    """

    def __init__(self, consumer: _Signal, size: int = AHEAD) -> None:
        self._consumer = consumer
        self._size = size
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self.is_closed = False
        self.is_ended = False
        self.error: BaseException | None = None
        self.on_space: Callable[[], object] = _nothing
        self.on_close: Callable[[], object] = _nothing

    def offer(self, item: T) -> bool:
        """Append an item; returns False when there is no space, of which `on_space` will tell."""
        with self._lock:
            if self.is_closed:
                raise _ConsumerGoneError
            if len(self._items) >= self._size:
                return False
            was_empty = not self._items
            self._items.append(item)
        if was_empty:  # only then can the consumer be waiting
            self._consumer.set()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Tell the consumer that nothing follows; the producer must not touch its generator any more."""
        with self._lock:
            self.is_ended = True
            self.error = error
        self._consumer.set()

    def take(self) -> T | Literal[_Mark.EMPTY, _Mark.END]:
        """Take the first item, if there is one."""
        with self._lock:
            if not self._items:
                return _END if self.is_ended else _EMPTY
            was_full = len(self._items) >= self._size
            item = self._items.popleft()
        if was_full:
            self.on_space()
        return item

    def close(self) -> None:
        """Tell the producer that nobody takes items any more."""
        with self._lock:
            self.is_closed = True
            self._items.clear()
        self.on_space()
        self.on_close()


def _nothing() -> None:
    pass


class _Producer(threading.Thread):
    """Fills a channel. It is a thread by itself, or lets a pool call its `run`."""

    def __init__(self, channel: Channel[Any], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._channel = channel
        self._context = contextvars.copy_context()

    def produce(self) -> None:
        """Put everything into the channel, and close the generator."""
        raise NotImplementedError

    def run(self) -> None:
        error: BaseException | None = None
        try:
            self._context.run(self.produce)
        except _ConsumerGoneError:
            pass
        except BaseException as e:  # noqa: BLE001  (raised again by the consumer)
            error = e
        self._channel.end(error)

    def launch(self, pool: Executor | None) -> Callable[[], object]:
        """Start; returns what waits until nothing of it is left."""
        if pool is None:
            self.start()
            return self.join
        over = threading.Event()

        def on_done(future: Future[None]) -> None:
            if future.cancelled():
                self._channel.end(RuntimeError("the pool was shut down before it got to this generator"))
            over.set()

        pool.submit(self.run).add_done_callback(on_done)
        return over.wait


class SyncGenToQueueThread(_Producer):
    """Runs a generator in a thread and puts its items into a channel.

    Parameters
    ----------
    gen
        Iterated and closed in that thread, in a copy of the caller's context (`contextvars`).
    channel
        Where the items go. Ended with the generator's exception if there was one.
    """

    def __init__(self, gen: Iterable[T], channel: Channel[T]) -> None:
        super().__init__(channel, name="tilework-gen")
        self._gen = gen
        self._space = _ThreadSignal()
        channel.on_space = self._space.set

    def produce(self) -> None:
        """Put everything into the channel, and close the generator."""
        try:
            for item in self._gen:
                while not self._channel.offer(item):
                    self._space.wait()
        finally:
            _close(self._gen)


class AsyncGenToQueueThread(_Producer):
    """Runs an asynchronous generator in an event loop of its own, in a thread, and puts its items into a channel.

    Parameters
    ----------
    agen
        Iterated and closed in that thread, in a copy of the caller's context. When the consumer leaves, the task that
        runs it is cancelled.
    channel
        Where the items go. Ended with the generator's exception if there was one.
    """

    def __init__(self, agen: AsyncIterator[T], channel: Channel[T]) -> None:
        super().__init__(channel, name="tilework-agen")
        self._agen = agen

    def produce(self) -> None:
        """Put everything into the channel, and close the generator."""
        asyncio.run(self._main())

    async def _main(self) -> None:
        channel, loop = self._channel, asyncio.get_running_loop()
        task = asyncio.create_task(self._forward())

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has come to its end by itself
                loop.call_soon_threadsafe(task.cancel)

        channel.on_close = cancel
        if channel.is_closed:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if not channel.is_closed:
                raise

    async def _forward(self) -> None:
        space = _LoopSignal()
        self._channel.on_space = space.set
        try:
            async for item in self._agen:
                while not self._channel.offer(item):
                    await space.wait()
        finally:
            await _aclose(self._agen)


def _close(gen: Any) -> None:
    close = getattr(gen, "close", None)
    if close is not None:
        close()


async def _aclose(agen: Any) -> None:
    aclose = getattr(agen, "aclose", None)
    if aclose is not None:
        await aclose()


# ---- the bridges ----


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
    step: asyncio.Future[T | Literal[_Mark.END]] | None = None
    iterator: Iterator[T] = iter(gen)

    def advance() -> T | Literal[_Mark.END]:
        return next(iterator, _END)

    try:
        while True:
            step = loop.run_in_executor(pool, context.run, advance)
            item = await asyncio.shield(step)
            if item is _END:
                return
            yield item
    finally:
        if step is not None and not step.done():
            await asyncio.wait({step})
            step.exception()  # looked at: nobody is left to whom it could matter
        await loop.run_in_executor(pool, context.run, _close, gen)


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
    ready = _LoopSignal()
    channel: Channel[T] = Channel(ready)
    join = SyncGenToQueueThread(gen, channel).launch(pool)
    try:
        while (item := channel.take()) is not _END:
            if item is _EMPTY:
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
    ready = _ThreadSignal()
    channel: Channel[T] = Channel(ready)
    join = AsyncGenToQueueThread(agen, channel).launch(pool)
    try:
        while (item := channel.take()) is not _END:
            if item is _EMPTY:
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
    last: T | Literal[_Mark.EMPTY] = _EMPTY
    try:
        async for item in agen:
            last = item
    finally:
        await _aclose(agen)
    return _not_empty(last)


def run_gen_get_last(gen: Iterable[T]) -> T:
    """Run a generator to its end and close it; returns its last item.

    Raises
    ------
    RuntimeError
        When it had none.
    """
    last: T | Literal[_Mark.EMPTY] = _EMPTY
    try:
        for item in gen:
            last = item
    finally:
        _close(gen)
    return _not_empty(last)


def _not_empty(last: T | Literal[_Mark.EMPTY]) -> T:
    if last is _EMPTY:
        msg = "there is no last item: the generator yielded nothing"
        raise RuntimeError(msg)
    return last


def adjust_event_loop_policy() -> None:
    """Let event loops made from now on work with sockets as tornado and ZeroMQ need them; only differs on Windows."""
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
