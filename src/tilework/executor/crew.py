"""Threads of one pool that serve any number of runs at a time, fairly.

::

    run A ─put─► lane A (live)         ┐
    run B ─put─► lane B (interactive)  ├─ LaneQueue.take ─► pump 1 … pump n ─► lane.serve(item)
    run C ─put─► lane C (interactive)  ┘   (priority, then    (n = size of the crew,
                                            in turn)           jobs of the thread pool)

Who owns what: a lane belongs to one run; only its run puts into it and closes it. The crew owns the queue of lanes,
and the count of pumps. One lock guards all of it; it is held for a few instructions only, never while a task runs.

A pump is a job of the thread pool. It serves until there is nothing left, so that the next short task costs one turn
of a lock instead of a job of its own. After `PUMP_SECONDS` it makes way for other jobs of the pool, which may not be
ours alone.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tilework.common.executor import Priority
from tilework.exceptions import ExecutorError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

__all__ = ["PUMP_SECONDS", "Crew", "Lane", "LaneQueue"]

T = TypeVar("T")

PUMP_SECONDS: Final = 0.1

_LONGEST_WAIT: Final = 0.1

_CHOICE: Final = 8
"""Items at the head of a lane among which one of lower rank may overtake."""


class Lane(Generic[T]):
    """The items of one run that wait for a thread.

    Parameters
    ----------
    priority
        Lanes of a lower number go first, always.
    serve
        What a thread does with an item; it must not raise.
    post
        Where what `serve` returned goes, when the item no longer counts as running.
    """

    __slots__ = ("items", "n_running", "post", "priority", "serve")

    def __init__(self, priority: Priority, serve: Callable[[T], Any], post: Callable[[Any], None]) -> None:
        self.priority = priority
        self.serve = serve
        self.post = post
        self.items: deque[T] = deque()
        self.n_running = 0


class LaneQueue:
    """Which item is next: by priority of the lanes, and among equals one of each lane in turn. Not locked.

    A KeyboardInterrupt may end `put` and `drop` anywhere. What they leave then is a lane without items that has a turn,
    which `take` passes over.
    """

    def __init__(self) -> None:
        self._turns: dict[Priority, deque[Lane[Any]]] = {priority: deque() for priority in sorted(Priority)}

    def put(self, lane: Lane[T], item: T) -> None:
        """Append an item to a lane."""
        if not lane.items:
            self._turns[lane.priority].append(lane)
        lane.items.append(item)

    def take(
        self, fits: Callable[[Any], bool] | None = None, rank: Callable[[Any], int] | None = None
    ) -> tuple[Lane[Any], Any] | None:
        """Return the next item and its lane; None when there is none, or none that fits at the head of its lane.

        With `rank` it is, of the first few of that lane, the first of the lowest rank; 0 is the lowest there is.
        """
        for turns in self._turns.values():
            for _ in range(len(turns)):
                lane = turns.popleft()
                if not lane.items:
                    continue
                if fits is not None and not fits(lane.items[0]):
                    turns.append(lane)
                    continue
                item = lane.items.popleft() if rank is None else _pop_lowest(lane.items, fits, rank)
                if lane.items:
                    turns.append(lane)
                return lane, item
        return None

    def put_back(self, lane: Lane[T], item: T) -> None:
        """Put an item that was taken back in front of the others of its lane."""
        if not lane.items:
            self._turns[lane.priority].appendleft(lane)
        lane.items.appendleft(item)

    def drop(self, lane: Lane[Any]) -> None:
        """Forget all items of a lane."""
        lane.items.clear()
        turns = self._turns[lane.priority]
        if lane in turns:
            turns.remove(lane)

    def __bool__(self) -> bool:
        return any(self._turns.values())


def _pop_lowest(items: deque[Any], fits: Callable[[Any], bool] | None, rank: Callable[[Any], int]) -> Any:
    best, best_rank = 0, rank(items[0])
    for i in range(1, min(len(items), _CHOICE)):
        if best_rank == 0:
            break
        if (fits is None or fits(items[i])) and (this := rank(items[i])) < best_rank:
            best, best_rank = i, this
    item = items[best]
    del items[best]
    return item


class Crew:
    """The threads of a pool, at the service of lanes.

    Parameters
    ----------
    pool
        Runs the pumps; its threads live in this process.
    size
        How many pumps there may be at a time.
    """

    def __init__(self, pool: Executor, size: int) -> None:
        self.size = size
        self._pool = pool
        self._queue = LaneQueue()
        # One token for each pump that is running or about to start. A pump whose token was withdrawn does nothing.
        self._pumps: set[object] = set()
        self._served: dict[int, Lane[Any] | None] = {}
        """Which lane each thread serves now."""
        self._is_closed = False
        # A KeyboardInterrupt can leave a condition locked that was entered with "with", but not a plain lock. The
        # garbage collector may come by while a thread holds it, and end a run there that nobody has any more.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def put(self, lane: Lane[T], item: T) -> None:
        """Let a thread serve this item of a lane.

        Raises
        ------
        ExecutorError
            When the crew, or its pool, was shut down.
        """
        with self._lock:
            if self._is_closed:
                msg = "the executor is closed: make a new one"
                raise ExecutorError(msg)
            self._queue.put(lane, item)
            if len(self._pumps) >= self.size:
                return
        self._start_pump()

    def take_more(self, lane: Lane[T], share: int, limit: int, fits: Callable[[T], bool]) -> list[T]:
        """Take further items of the lane that the calling thread serves, which it does together with the first.

        Parameters
        ----------
        lane
            The lane.
        share
            Not more than one part in so many of what waits: other threads get theirs.
        limit
            Not more than that.
        fits
            Whether an item may be served together with others; those from the first on that may not stay.
        """
        taken: list[T] = []
        with self._lock:
            for _ in range(min(len(lane.items) // share, limit)):
                if not fits(lane.items[0]):
                    break
                taken.append(lane.items.popleft())
        return taken

    def end(self, lane: Lane[Any], timeout: float) -> bool:
        """Forget what waits in a lane, and wait until nothing of it runs; returns whether that was so in time."""
        with self._lock:
            self._queue.drop(lane)
            # The garbage collector may end a run in the midst of one of its tasks, which would wait for itself.
            if lane.n_running == 0 or self._served.get(threading.get_ident()) is lane:
                return True
            return self._wait_for(lambda: lane.n_running == 0, timeout)

    def is_member(self) -> bool:
        """Return whether the calling thread is one of the crew, serving an item just now."""
        return threading.get_ident() in self._served

    def close(self, timeout: float) -> bool:
        """Take no more items, and wait until all threads are idle; returns whether that was so in time."""
        with self._lock:
            self._is_closed = True
            if self.is_member():
                return False  # it would wait for itself
            return self._wait_for(lambda: not self._pumps, timeout)

    def _wait_for(self, is_so: Callable[[], bool], timeout: float) -> bool:
        """Wait, with the lock held, until it is so; in pieces, since a long wait can miss a KeyboardInterrupt."""
        until = time.monotonic() + timeout
        while not is_so():
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, _LONGEST_WAIT))
        return True

    def _start_pump(self) -> None:
        """Start one more pump, if there is work and room for it."""
        token = object()
        try:
            with self._lock:
                if len(self._pumps) >= self.size or not self._queue:
                    return
                self._pumps.add(token)
            self._pool.submit(self._pump, token)
        except RuntimeError as error:
            self._withdraw(token)
            msg = f"the pool of threads takes no more work: {error}"
            raise ExecutorError(msg) from error
        except BaseException:
            # A KeyboardInterrupt. Somebody else may have counted on this pump meanwhile.
            self._withdraw(token)
            self._start_pump()
            raise

    def _withdraw(self, token: object) -> None:
        with self._lock:
            self._pumps.discard(token)
            self._changed.notify_all()

    def _pump(self, token: object) -> None:
        """Serve items until there are none, or until it is time to make way."""
        self._served[threading.get_ident()] = None
        makes_way = self._serve(token, time.monotonic() + PUMP_SECONDS)
        if makes_way:
            try:
                self._pool.submit(self._pump, token)
            except RuntimeError:  # the pool was shut down; what it took on is still served
                self._serve(token, math.inf)
        del self._served[threading.get_ident()]

    def _serve(self, token: object, until: float) -> bool:
        """Serve items; returns whether it stopped because the time is over, and did not give up its token."""
        lock, queue, me = self._lock, self._queue, threading.get_ident()
        lane: Lane[Any] | None = None
        answer: Any = None
        while True:
            with lock:
                if lane is not None:
                    lane.n_running -= 1
                    if lane.n_running == 0:
                        self._changed.notify_all()
                makes_way = bool(queue) and lane is not None and time.monotonic() >= until
                taken = queue.take() if token in self._pumps and not makes_way else None
                if taken is not None:
                    taken[0].n_running += 1
                elif not makes_way:
                    self._pumps.discard(token)
                    self._changed.notify_all()
            # Only now: a consumer that gets its last result finds nothing running any more, and need not wait for that.
            if lane is not None:
                lane.post(answer)
                answer = None
            if taken is None:
                return makes_way
            lane, item = taken
            self._served[me] = lane
            answer = lane.serve(item)
            self._served[me] = None  # else it would keep its lane until it serves the next
            del item, taken
