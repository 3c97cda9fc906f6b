"""Real event loops and threads. Every test ends by proving that no thread is left (`_no_thread_is_left`)."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tilework.common.async_utils import (
    MyStopIteration,
    adjust_event_loop_policy,
    async_generator,
    async_generator_eager,
    async_to_sync_generator,
    run_agen_get_last,
    run_gen_get_last,
    sync_to_async,
)
from tilework.common.channel import AHEAD

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")
BRIDGES = pytest.mark.parametrize("bridge", [async_generator, async_generator_eager])


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


class Source:
    """Generators that remember what happened to them."""

    def __init__(self, n: int = 5, error: BaseException | None = None) -> None:
        self.n = n
        self.error = error
        self.produced = 0
        self.closed = threading.Event()
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()

    def gen(self) -> Generator[int, None, None]:
        try:
            for i in range(self.n):
                self.threads.add(threading.get_ident())
                self.produced += 1
                yield i
                self.go.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()

    async def agen(self) -> AsyncGenerator[int, None]:
        try:
            for i in range(self.n):
                self.threads.add(threading.get_ident())
                self.produced += 1
                yield i
                await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    while not condition():  # noqa: ASYNC110  (there is nothing in that thread that could set an event)
        await asyncio.sleep(0.001)


# ---- calls ----


@pytest.mark.parametrize("own_pool", [False, True])
def test_a_blocking_function_runs_elsewhere_in_the_callers_context(own_pool: bool) -> None:
    def fn(a: int, *, b: int) -> tuple[int, int, str]:
        return a + b, threading.get_ident(), where.get()

    async def main(pool: ThreadPoolExecutor | None) -> tuple[int, int, str]:
        where.set("in main")
        return await sync_to_async(fn, pool, 1, b=2)

    with ThreadPoolExecutor(1) as pool:
        result, thread, context = asyncio.run(main(pool if own_pool else None))
    assert (result, context) == (3, "in main")
    assert thread != threading.get_ident()


def test_exceptions_of_the_function_arrive() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await sync_to_async(lambda: 1 // 0)
        with pytest.raises(MyStopIteration):
            await sync_to_async(next, None, iter(()))

    asyncio.run(main())


# ---- generators for asyncio ----


@BRIDGES
@pytest.mark.parametrize("own_pool", [False, True])
def test_all_items_in_order(bridge: Callable[..., AsyncGenerator[int, None]], own_pool: bool) -> None:
    source = Source(n=3 * AHEAD)

    async def main(pool: ThreadPoolExecutor | None) -> list[int]:
        return [i async for i in bridge(source.gen(), pool)]

    with ThreadPoolExecutor(1) as pool:
        assert asyncio.run(main(pool if own_pool else None)) == list(range(3 * AHEAD))
    assert source.closed.is_set()
    assert threading.get_ident() not in source.threads


@BRIDGES
def test_anything_can_be_iterated(bridge: Callable[..., AsyncGenerator[int, None]]) -> None:
    async def main(items: Any) -> list[int]:
        return [i async for i in bridge(items)]

    assert asyncio.run(main([1, 2, 3])) == [1, 2, 3]
    assert asyncio.run(main(iter([]))) == []


@BRIDGES
def test_an_exception_comes_after_the_items_before_it(bridge: Callable[..., AsyncGenerator[int, None]]) -> None:
    source = Source(n=3, error=ValueError("broken source"))
    seen = []

    async def main() -> None:
        async for i in bridge(source.gen()):
            seen.append(i)  # noqa: PERF401

    with pytest.raises(ValueError, match="broken source"):
        asyncio.run(main())
    assert seen == [0, 1, 2]
    assert source.closed.is_set()


@BRIDGES
def test_a_consumer_that_leaves_closes_the_generator(bridge: Callable[..., AsyncGenerator[int, None]]) -> None:
    source = Source(n=10**9)

    async def main() -> None:
        agen = bridge(source.gen())
        assert await anext(agen) == 0
        assert await anext(agen) == 1
        await agen.aclose()
        assert source.closed.is_set(), "aclose returns when the generator is closed"

    asyncio.run(main())


@BRIDGES
def test_a_consumer_cancelled_while_it_waits(bridge: Callable[..., AsyncGenerator[int, None]]) -> None:
    """The step under way is waited for; it is never left running in a thread."""
    source = Source(n=10**9)
    source.go.clear()
    seen: list[int] = []

    async def consume() -> None:
        async for i in bridge(source.gen()):
            seen.append(i)  # noqa: PERF401

    async def main() -> None:
        task = asyncio.create_task(consume())
        await until(lambda: seen == [0])
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0.001)
            assert not task.done()
        source.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.closed.is_set()

    asyncio.run(main())


@BRIDGES
def test_the_event_loop_goes_on_while_the_generator_blocks(bridge: Callable[..., AsyncGenerator[int, None]]) -> None:
    source = Source(n=2)
    source.go.clear()

    async def main() -> list[int]:
        async def release() -> None:
            await until(lambda: source.produced > 0)
            source.go.set()

        releasing = asyncio.create_task(release())
        items = [i async for i in bridge(source.gen())]
        await releasing
        return items

    assert asyncio.run(main()) == [0, 1]


@BRIDGES
def test_the_generator_sees_the_context_of_its_consumer(bridge: Callable[..., AsyncGenerator[str, None]]) -> None:
    def gen() -> Generator[str, None, None]:
        yield where.get()

    async def main() -> list[str]:
        where.set("in main")
        return [i async for i in bridge(gen())]

    assert asyncio.run(main()) == ["in main"]


def test_lazy_produces_only_what_is_asked_for() -> None:
    source = Source(n=100)

    async def main() -> None:
        agen = async_generator(source.gen())
        for n in range(1, 4):
            await anext(agen)
            assert source.produced == n
        await agen.aclose()

    asyncio.run(main())


def test_eager_runs_ahead_but_not_without_bound() -> None:
    """A slow consumer stops the producer: it gets exactly `AHEAD` items ahead and stays there."""
    source = Source(n=10 * AHEAD)

    async def main() -> None:
        agen = async_generator_eager(source.gen())
        assert await anext(agen) == 0
        taken = 1
        for _ in range(3):
            # one more than fits is produced, and held in the producer's hand
            expected = taken + AHEAD + 1
            await until(lambda expected=expected: source.produced >= expected)  # type: ignore[misc]
            for _ in range(20):
                await asyncio.sleep(0.001)
                assert source.produced == expected
            await anext(agen)
            taken += 1
        await agen.aclose()

    asyncio.run(main())


def test_eager_generator_is_closed_in_the_thread_it_ran_in() -> None:
    threads = []

    def gen() -> Generator[int, None, None]:
        threads.append(threading.get_ident())
        try:
            while True:
                yield 0
        finally:
            threads.append(threading.get_ident())

    async def main() -> None:
        agen = async_generator_eager(gen())
        await anext(agen)
        await agen.aclose()

    asyncio.run(main())
    assert len(threads) == 2
    assert len(set(threads)) == 1


def test_an_error_while_closing_is_not_lost() -> None:
    def gen() -> Generator[int, None, None]:
        try:
            while True:
                yield 0
        finally:
            raise OSError("cannot close")

    async def main() -> None:
        agen = async_generator_eager(gen())
        await anext(agen)
        with pytest.raises(OSError, match="cannot close"):
            await agen.aclose()

    asyncio.run(main())


def test_eager_in_a_pool_that_is_shut_down_before_its_turn() -> None:
    busy = threading.Event()
    pool = ThreadPoolExecutor(1)
    pool.submit(busy.wait)

    async def main() -> None:
        agen = async_generator_eager(Source().gen(), pool)
        step = asyncio.ensure_future(anext(agen))
        await asyncio.sleep(0)
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(RuntimeError, match="pool was shut down"):
            await step

    try:
        asyncio.run(main())
    finally:
        busy.set()
        pool.shutdown()


# ---- generators for blocking code ----


@pytest.mark.parametrize("own_pool", [False, True])
def test_async_to_sync_all_items(own_pool: bool) -> None:
    source = Source(n=3 * AHEAD)
    with ThreadPoolExecutor(1) as pool:
        assert list(async_to_sync_generator(source.agen(), pool if own_pool else None)) == list(range(3 * AHEAD))
    assert source.closed.is_set()
    assert threading.get_ident() not in source.threads


def test_async_to_sync_works_inside_of_a_running_loop() -> None:
    async def main() -> list[int]:
        return list(async_to_sync_generator(Source(n=3).agen()))

    assert asyncio.run(main()) == [0, 1, 2]


def test_async_to_sync_exception() -> None:
    seen: list[int] = []
    gen = async_to_sync_generator(Source(n=2, error=ValueError("broken source")).agen())
    with pytest.raises(ValueError, match="broken source"):
        seen.extend(i for i in gen)
    assert seen == [0, 1]


def test_async_to_sync_runs_ahead_but_not_without_bound() -> None:
    source = Source(n=10 * AHEAD)
    gen = async_to_sync_generator(source.agen())
    assert next(gen) == 0
    gen.close()
    assert source.closed.is_set()
    assert source.produced <= AHEAD + 2


def test_async_to_sync_consumer_that_leaves_cancels_what_the_generator_waits_for() -> None:
    cancelled = threading.Event()

    async def agen() -> AsyncGenerator[int, None]:
        yield 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    gen = async_to_sync_generator(agen())
    assert next(gen) == 0
    gen.close()
    assert cancelled.is_set()


def test_async_to_sync_generator_that_cancels_itself() -> None:
    async def agen() -> AsyncGenerator[int, None]:
        yield 0
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        list(async_to_sync_generator(agen()))


def test_there_and_back_again() -> None:
    source = Source(n=50)
    assert list(async_to_sync_generator(async_generator_eager(source.gen()))) == list(range(50))
    assert source.closed.is_set()


# ---- last items ----


def test_last_item() -> None:
    source = Source(n=4)
    assert run_gen_get_last(source.gen()) == 3
    assert source.closed.is_set()
    source = Source(n=4)
    assert asyncio.run(run_agen_get_last(source.agen())) == 3
    assert source.closed.is_set()


def test_no_last_item() -> None:
    with pytest.raises(RuntimeError, match="yielded nothing"):
        run_gen_get_last(Source(n=0).gen())
    with pytest.raises(RuntimeError, match="yielded nothing"):
        asyncio.run(run_agen_get_last(Source(n=0).agen()))
    with pytest.raises(ValueError, match="broken"):
        run_gen_get_last(Source(n=3, error=ValueError("broken")).gen())


def test_event_loops_still_work_after_the_policy_was_adjusted() -> None:
    adjust_event_loop_policy()
    assert asyncio.run(sync_to_async(lambda: 5)) == 5
