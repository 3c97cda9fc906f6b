"""Who is next (without threads), and the pumps that serve them (with threads)."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.common.executor import Priority
from tilework.exceptions import ExecutorError
from tilework.executor.crew import PUMP_SECONDS, Crew, Lane, LaneQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def make_lane(priority: Priority = Priority.INTERACTIVE) -> Lane[Any]:
    return Lane(priority, lambda item: item, lambda answer: None)


@given(
    st.lists(st.sampled_from(Priority), min_size=1, max_size=6),
    st.lists(st.tuples(st.sampled_from(["put", "take", "drop"]), st.integers(0, 5)), max_size=200),
)
def test_lane_queue(priorities: list[Priority], steps: list[tuple[str, int]]) -> None:
    """Any sequence of steps: nothing is lost or doubled, priority is kept, a lane keeps its order, turns are fair."""
    lanes = [make_lane(priority) for priority in priorities]
    queue = LaneQueue()
    expected: list[deque[int]] = [deque() for _ in lanes]
    n = 0
    waited = [0] * len(lanes)  # takes of others of the same priority since a lane with items had its turn
    for step, which in steps:
        i = which % len(lanes)
        if step == "put":
            queue.put(lanes[i], n)
            expected[i].append(n)
            n += 1
        elif step == "drop":
            queue.drop(lanes[i])
            expected[i].clear()
            waited[i] = 0
        else:
            taken = queue.take()
            busy = [k for k in range(len(lanes)) if expected[k]]
            assert (taken is None) == (not busy)
            if taken is not None:
                k = lanes.index(taken[0])
                assert priorities[k] == min(priorities[b] for b in busy)
                assert taken[1] == expected[k].popleft()
                for other in busy:
                    waited[other] = 0 if other == k else waited[other] + (priorities[other] == priorities[k])
                    assert waited[other] < len(lanes)
        assert bool(queue) == any(expected)


def test_interrupted_put_and_drop() -> None:
    """What a KeyboardInterrupt in the middle of put or drop leaves behind is passed over."""
    queue = LaneQueue()
    a, b = make_lane(), make_lane()
    queue.put(a, 1)
    a.items.clear()  # as drop does first
    queue.put(b, 2)
    queue.put(a, 3)
    assert [queue.take(), queue.take(), queue.take()] == [(a, 3), (b, 2), None]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def serve_all(crew: Crew, lane: Lane[Any], answers: list[Any], n: int) -> list[Any]:
    """Put n items, and wait for the answers."""
    for i in range(n):
        crew.put(lane, i)
    done = threading.Event()
    crew.put(lane, done.set)
    assert done.wait(60)
    return answers


def collecting_lane(answers: list[Any], priority: Priority = Priority.INTERACTIVE) -> Lane[Any]:
    return Lane(priority, lambda item: item() if callable(item) else item, answers.append)


def test_serves_everything(pool: ThreadPoolExecutor) -> None:
    """Every item is served once, by at most `size` threads; afterwards no pump is left."""
    crew = Crew(pool, 2)
    threads = set()

    def serve(item: int) -> int:
        threads.add(threading.get_ident())
        return item

    answers: list[int] = []
    lane = Lane(Priority.BATCH, serve, answers.append)
    for i in range(1000):
        crew.put(lane, i)
    assert crew.close(60)
    assert sorted(answers) == list(range(1000))
    assert len(threads) <= 2
    assert threading.get_ident() not in threads


def test_end_of_a_lane(pool: ThreadPoolExecutor) -> None:
    """Ending a lane drops what waits, and waits for what runs, for as long as one likes."""
    crew = Crew(pool, 1)
    started, release = threading.Event(), threading.Event()
    served = []

    def serve(item: int) -> None:
        served.append(item)
        started.set()
        release.wait(60)

    lane = Lane(Priority.BATCH, serve, lambda answer: None)
    for i in range(10):
        crew.put(lane, i)
    assert started.wait(60)
    assert not crew.end(lane, 0.01)
    assert not crew.close(0.01)
    release.set()
    assert crew.end(lane, 60)
    assert crew.close(60)
    assert served == [0]


def test_makes_way_for_other_jobs_of_the_pool() -> None:
    """A crew that has work for ever lets other jobs of the same pool run."""
    with ThreadPoolExecutor(1) as pool:
        crew = Crew(pool, 1)
        over = threading.Event()
        lane: Lane[int]

        def serve(item: int) -> int:
            over.wait(PUMP_SECONDS / 10)
            if not over.is_set():
                crew.put(lane, item + 1)
            return item

        lane = Lane(Priority.LIVE, serve, lambda answer: None)
        crew.put(lane, 0)
        try:
            assert pool.submit(lambda: "my turn").result(60) == "my turn"
        finally:
            over.set()
        assert crew.close(60)


def test_a_pool_that_is_shut_down_while_it_makes_way() -> None:
    """What was taken on is still served when the pool takes no new jobs."""
    with ThreadPoolExecutor(1) as pool:
        crew = Crew(pool, 1)
        blocked, release = threading.Event(), threading.Event()

        def block() -> None:
            blocked.set()
            release.wait(60)
            threading.Event().wait(2 * PUMP_SECONDS)

        answers: list[Any] = []
        lane = collecting_lane(answers)
        crew.put(lane, block)
        assert blocked.wait(60)
        crew.put(lane, 1)
        pool.shutdown(wait=False)
        release.set()
        assert crew.close(60)
        assert answers == [None, 1]


def test_refuses_when_closed(pool: ThreadPoolExecutor) -> None:
    """A closed crew, and one whose pool was shut down by its owner, say so."""
    crew = Crew(pool, 1)
    assert crew.close(60)
    with pytest.raises(ExecutorError, match="closed"):
        crew.put(make_lane(), 1)
    crew = Crew(pool, 1)
    pool.shutdown()
    lane = make_lane()
    with pytest.raises(ExecutorError, match="takes no more work"):
        crew.put(lane, 1)
    assert crew.end(lane, 0)
    assert crew.close(60)


class InterruptedPool(ThreadPoolExecutor):
    """A pool in which Ctrl-C hits the n-th call of submit, before or after it did its work."""

    def __init__(self, n: int, *, before: bool) -> None:
        super().__init__(1)
        self.n = n
        self.before = before

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.n -= 1
        if self.n == 0 and self.before:
            raise KeyboardInterrupt
        future = super().submit(fn, *args, **kwargs)
        if self.n == 0:
            raise KeyboardInterrupt
        return future


@pytest.mark.parametrize("before", [True, False])
def test_interrupted_while_starting_a_pump(before: bool) -> None:
    """The interrupt comes out, no pump is counted twice or for ever, and everything is served."""
    with InterruptedPool(1, before=before) as pool:
        crew = Crew(pool, 1)
        answers: list[Any] = []
        with pytest.raises(KeyboardInterrupt):
            crew.put(collecting_lane(answers), "interrupted")
        other: list[Any] = []
        assert serve_all(crew, collecting_lane(other), other, 100)[:100] == list(range(100))
        assert crew.close(60)
        assert answers == ["interrupted"]


def test_members(pool: ThreadPoolExecutor) -> None:
    """A thread is a member exactly while it serves; closing from inside does not wait for itself."""
    crew = Crew(pool, 1)
    seen: list[Any] = []
    crew.put(Lane(Priority.LIVE, lambda _: (crew.is_member(), crew.close(60)), seen.append), 0)
    assert crew.close(60)
    assert seen == [(True, False)]
    assert not crew.is_member()
    assert pool.submit(crew.is_member).result(60) is False


def test_take_more() -> None:
    """A share of what waits, up to a limit, and only as far as the items fit."""
    with ThreadPoolExecutor(1) as pool:
        crew = Crew(pool, 2)
        lane = make_lane()
        lane.items.extend(range(12))
        assert crew.take_more(lane, 2, 4, lambda item: True) == [0, 1, 2, 3]
        assert crew.take_more(lane, 2, 99, lambda item: True) == [4, 5, 6, 7]
        assert crew.take_more(lane, 1, 99, lambda item: item != 10) == [8, 9]
        assert crew.take_more(lane, 1, 99, lambda item: item != 10) == []
        assert crew.take_more(lane, 3, 99, lambda item: True) == []
        assert crew.take_more(lane, 1, 0, lambda item: True) == []
        assert list(lane.items) == [10, 11]
