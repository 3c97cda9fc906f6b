"""Generators that run ahead of their consumer, in another thread or event loop.

Who does what: a producer runs in a thread of its own (or of a pool), and meets its consumer in a `Channel` of bounded
size: a producer that is too far ahead waits, so a slow consumer never makes memory grow. Whoever leaves first tells the
other: the producer ends the channel, with its exception if there was one; the consumer closes it, waits until the
producer has closed its generator, and only then goes on. So a generator is always closed where it ran, and no thread
outlives its consumer.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from concurrent.futures import Executor, Future

__all__ = [
    "EMPTY",
    "END",
    "AsyncGenToQueueThread",
    "Channel",
    "LoopSignal",
    "Mark",
    "SyncGenToQueueThread",
    "ThreadSignal",
    "aclose_generator",
    "close_generator",
]

T = TypeVar("T")

AHEAD: Final = 16
"""How many items a producer may be ahead of its consumer."""


class Mark(Enum):
    """What is taken from a channel in place of an item."""

    EMPTY = "nothing there yet"
    END = "nothing will come any more"


EMPTY: Final = Mark.EMPTY
END: Final = Mark.END


class _Signal(Protocol):
    def set(self) -> None:
        """Wake whoever waits, or is going to wait; may be called from any thread."""


class ThreadSignal:
    """Wakes a thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Wake it, now or when it waits."""
        self._event.set()

    def wait(self) -> None:
        """Wait until `set` is called, or return at once if it was."""
        self._event.wait()
        self._event.clear()


class LoopSignal:
    """Wakes a coroutine of the event loop it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake it, now or when it waits; may be called from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait until `set` is called, or return at once if it was."""
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

    def take(self) -> T | Literal[Mark.EMPTY, Mark.END]:
        """Take the first item, if there is one."""
        with self._lock:
            if not self._items:
                return END if self.is_ended else EMPTY
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
        self._space = ThreadSignal()
        channel.on_space = self._space.set

    def produce(self) -> None:
        """Put everything into the channel, and close the generator."""
        try:
            for item in self._gen:
                while not self._channel.offer(item):
                    self._space.wait()
        finally:
            close_generator(self._gen)


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
        space = LoopSignal()
        self._channel.on_space = space.set
        try:
            async for item in self._agen:
                while not self._channel.offer(item):
                    await space.wait()
        finally:
            await aclose_generator(self._agen)


def close_generator(gen: Any) -> None:
    """Close a generator, or whatever else that can be closed."""
    close = getattr(gen, "close", None)
    if close is not None:
        close()


async def aclose_generator(agen: Any) -> None:
    """Close an asynchronous generator, or whatever else that can be closed."""
    aclose = getattr(agen, "aclose", None)
    if aclose is not None:
        await aclose()
