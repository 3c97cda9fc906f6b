"""What a worker does for runs that reach it straight, without Dask: messages in an event loop, seats in threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import distributed
import pytest

from tilework.executor.dask import orphans, table
from tilework.executor.dask import seat as module
from tilework.executor.dask.sealed import SharedSealed, seal
from tilework.executor.dask.seat import close_seats, end_run, feed, recall, sit
from tilework.executor.dask.table import Feed, Table
from tilework.executor.dask.worker import Batch, BatchReport
from tilework.testing.faults import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

PRIORITY = 10
KEY = "the Dask task"


class Worker:
    """What a seat sees of a Dask worker."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(
            ready=[], constrained=[], nthreads=1, tasks={KEY: SimpleNamespace(state="executing")}
        )
        self.data: dict[str, Any] = {}

    def get_current_task(self) -> str:
        return KEY


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """The worker that all threads of this process are of, with a table of its own."""
    worker = Worker()
    monkeypatch.setattr(module, "_table", Table())
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.setattr(table, "LATE_SECONDS", 15.0)
    monkeypatch.setattr(table, "LINGER_SECONDS", 15.0)  # no seat goes but for a reason
    monkeypatch.setitem(orphans._watched, worker, {})  # nobody asks what is wanted while a batch runs
    return worker


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """The threads of the worker."""
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    """The name of a run: which have ended, a process remembers for good."""
    return str(request.node.name)


def order(run: str, *seats: str, ident: str = "batch", fn: Callable[[Any], Any] = abs, **kwargs: Any) -> Feed:
    """Return the message that brings ``fn(-1)`` and ``fn(-2)``."""
    numbers = kwargs.pop("numbers", (7, 8))
    items = seal([-1, -2]) if "items_key" not in kwargs else None
    is_call = kwargs.get("content") is None
    batch = Batch(f"{run}-{ident}", run, numbers, items, seal(fn) if is_call else None, (), None, "topic")
    return Feed(batch, frozenset(seats), PRIORITY, kwargs.pop("content", None), **kwargs)


def results(report: BatchReport | None) -> dict[int, Any]:
    assert report is not None
    assert all(outcome.error is None for outcome in report.outcomes), report
    return {outcome.number: outcome.result.open() for outcome in report.outcomes if outcome.result is not None}


def in_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), 10))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (what is waited for happens in another thread)
        await asyncio.sleep(0.001)


def test_a_batch_is_done_at_its_seat(worker: Worker, threads: ThreadPoolExecutor, run: str) -> None:
    """Whether it comes first or the seat does; the answer has the results."""

    async def main() -> None:
        early = asyncio.create_task(feed(order(run, "s0", ident="early"), worker))
        await asyncio.sleep(0)
        sitting = threads.submit(sit, "s0", run, PRIORITY, None)
        assert results(await early) == {7: 1, 8: 2}
        assert results(await feed(order(run, "s0", ident="late"), worker)) == {7: 1, 8: 2}
        assert not sitting.done(), "it waits for more"
        assert end_run(run, frozenset({"s0"})) == []
        await asyncio.wrap_future(sitting)

    in_loop(main)


def test_a_seat_goes_from_run_to_run(worker: Worker, threads: ThreadPoolExecutor, run: str) -> None:
    """The end of one leaves it there for the next; one that wants another seat sends it away at once."""

    async def main() -> None:
        sitting = threads.submit(sit, "s0", run, PRIORITY, None)
        assert results(await feed(order(run, "s0"), worker)) == {7: 1, 8: 2}
        assert end_run(run) == []
        assert results(await feed(order(f"{run} 2", "s0"), worker)) == {7: 1, 8: 2}
        assert end_run(f"{run} 2") == []
        assert not sitting.done()
        other = asyncio.create_task(feed(order(f"{run} 3", "s1", gone=frozenset({"s0"})), worker))
        await asyncio.wrap_future(sitting)
        sitting = threads.submit(sit, "s1", f"{run} 3", PRIORITY, None)
        assert results(await other) == {7: 1, 8: 2}
        close_seats(frozenset({"s1"}))
        await asyncio.wrap_future(sitting)

    in_loop(main)


def test_a_seat_gives_its_thread_to_another_task(worker: Worker, threads: ThreadPoolExecutor, run: str) -> None:
    """As soon as one is ready, with or without resources; what comes then is refused."""

    async def main(queue: list[str]) -> None:
        seat = f"s{id(queue)}"
        sitting = threads.submit(sit, seat, run, PRIORITY, None)
        assert results(await feed(order(run, seat), worker)) == {7: 1, 8: 2}
        assert not sitting.done()
        queue.append("another task")
        assert await feed(order(run, seat), worker) is None
        await asyncio.wrap_future(sitting)
        queue.clear()
        assert await feed(order(run, seat), worker) is None, "this seat is no more"

    in_loop(lambda: main(worker.state.ready))
    in_loop(lambda: main(worker.state.constrained))


@pytest.mark.parametrize("how", ["left", "released", "cancelled"])
def test_the_end_of_a_run(
    worker: Worker, threads: ThreadPoolExecutor, run: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the main side, or by Dask, which misses its client: the seat goes, and what waits is not done."""
    begun, go_on = threading.Event(), threading.Event()
    n_calls = 0

    def run_batch(batch: Batch, *_: Any) -> BatchReport:
        nonlocal n_calls
        n_calls += 1
        begun.set()
        assert go_on.wait(10)
        return BatchReport((), batch.numbers)

    monkeypatch.setattr(module, "run_batch", run_batch)

    async def main() -> None:
        sitting = threads.submit(sit, "s0", run, PRIORITY, None)
        first = asyncio.create_task(feed(order(run, "s0", ident="first"), worker))
        second = asyncio.create_task(feed(order(run, "s0", ident="second"), worker))
        await until(begun.is_set)
        if how == "left":
            end_run(run, frozenset({"s0"}))
        elif how == "released":
            worker.state.tasks.clear()
        else:
            worker.state.tasks[KEY].state = "cancelled"
        go_on.set()
        await asyncio.wrap_future(sitting)
        assert await second is None
        assert await first == BatchReport((), (7, 8))

    in_loop(main)
    assert n_calls == 1


def test_a_run_that_has_ended(worker: Worker, run: str) -> None:
    """A batch that comes after its end goes back as it is, and no parameters are kept."""
    end_run(run)

    async def main() -> None:
        report = await feed(order(run, "s0", content="p", params=seal(1, SharedSealed)), worker)
        assert report == BatchReport((), (7, 8))

    in_loop(main)
    assert module._table.contents == {}


def test_recall(worker: Worker, run: str) -> None:
    """A batch that waits is taken back whole, which answers it, too; one that is not here is known by that later."""

    async def main() -> None:
        waiting = asyncio.create_task(feed(order(run, "s0"), worker))
        await asyncio.sleep(0)
        assert recall(f"{run}-batch") == BatchReport((), (7, 8))
        assert await waiting == BatchReport((), (7, 8))
        assert recall(f"{run}-batch") is None

    in_loop(main)


class _Slow:
    """Says when it is unpickled, and waits."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.signals,)


def _unpickle(signals: Signals) -> Any:
    signals.add("arrived")
    signals.wait("go")
    return abs


def test_recall_of_what_is_unpickled(worker: Worker, threads: ThreadPoolExecutor, run: str, tmp_path: Path) -> None:
    """The first ticket has begun then, as a worker that is lost meanwhile may be lost by it; the others have not."""
    signals = Signals(str(tmp_path))

    async def main() -> None:
        sitting = threads.submit(sit, "s0", run, PRIORITY, None)
        fed = asyncio.create_task(feed(order(run, "s0", fn=_Slow(signals)), worker))  # type: ignore[arg-type]
        await until(lambda: signals.count("arrived") == 1)
        assert recall(f"{run}-batch") == BatchReport((), (8,))
        signals.add("go")
        assert results(await fed) == {7: 1}
        end_run(run, frozenset({"s0"}))
        await asyncio.wrap_future(sitting)

    in_loop(main)


def test_recall_of_what_is_done(worker: Worker, threads: ThreadPoolExecutor, run: str) -> None:
    """It says that there is nothing to be taken back, and not that it was taken back: else it would be done again."""

    async def main() -> None:
        sitting = threads.submit(sit, "s0", run, PRIORITY, None)
        assert results(await feed(order(run, "s0"), worker)) == {7: 1, 8: 2}
        assert recall(f"{run}-batch") == BatchReport(())
        end_run(run, frozenset({"s0"}))
        await asyncio.wrap_future(sitting)

    in_loop(main)


def test_seats_that_dask_has_given_up(worker: Worker, run: str) -> None:
    """What waits for them is refused, and the task that comes in spite of that ends at once."""

    async def main() -> None:
        waiting = asyncio.create_task(feed(order(run, "s0"), worker))
        other = asyncio.create_task(feed(order(run, "s0", "s1", ident="other"), worker))
        await asyncio.sleep(0)
        close_seats(frozenset({"s0"}))
        assert await waiting is None
        assert not other.done()
        sit("s0", run, PRIORITY, None)
        assert recall(f"{run}-other") == BatchReport((), (7, 8)), "it waits for the other seat"
        await other

    in_loop(main)


def test_items_that_dask_holds(worker: Worker, threads: ThreadPoolExecutor, run: str) -> None:
    """They are found by their key; a batch whose items are lost is refused."""
    worker.data["items"] = seal([-3, -4])

    async def main() -> None:
        assert await feed(order(run, "s0", items_key="lost"), worker) is None
        sitting = threads.submit(sit, "s0", run, PRIORITY, None)
        assert results(await feed(order(run, "s0", items_key="items"), worker)) == {7: 3, 8: 4}
        end_run(run, frozenset({"s0"}))
        await asyncio.wrap_future(sitting)

    in_loop(main)


def test_batches_that_do_not_come(worker: Worker, threads: ThreadPoolExecutor, run: str) -> None:
    """One that is refused or recalled before it came does not hold up those that were sent after it."""

    async def main() -> None:
        sitting = threads.submit(sit, "s0", run, PRIORITY, None)
        assert await feed(order(run, "s0", ident="lost", items_key="lost"), worker) is None
        assert recall(f"{run}-recalled") is None
        for before in ("lost", "recalled"):
            after = f"{run}-{before}"
            assert results(await feed(order(run, "s0", ident=f"after {before}", after=after), worker)) == {7: 1, 8: 2}
        end_run(run, frozenset({"s0"}))
        await asyncio.wrap_future(sitting)

    in_loop(main)


def test_parameters(worker: Worker, threads: ThreadPoolExecutor, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a batch, or of the seat, or those that came before; a batch whose parameters are not here is refused."""
    seen: list[Any] = []

    def run_batch(batch: Batch, params: Any, items: Any) -> BatchReport:
        seen.append(params)
        return BatchReport((), batch.numbers)

    monkeypatch.setattr(module, "run_batch", run_batch)
    small, large = seal("small", SharedSealed), seal("large", SharedSealed)

    async def main() -> None:
        sitting = threads.submit(sit, "s0", run, PRIORITY, "large", large)
        await until(lambda: "s0" in module._table.taken)
        for content, params in (("small", small), ("small", None), ("large", None)):
            assert await feed(order(run, "s0", content=content, params=params), worker) is not None
        assert await feed(order(run, "s0", content="unknown"), worker) is None
        assert await feed(order(run, "s0"), worker) is not None, "without parameters"
        end_run(run, frozenset({"s0"}))
        await asyncio.wrap_future(sitting)

    in_loop(main)
    assert seen == [small, small, large, None]


def test_an_answer_that_nobody_can_get(worker: Worker, run: str) -> None:
    """An event loop that has ended meanwhile is no error: its worker ends."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(feed(order(run, "s0"), worker))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    assert recall(f"{run}-batch") == BatchReport((), (7, 8))
