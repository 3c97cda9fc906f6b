"""TaskCommHandler: subscriptions, and the thread that serves them during a run."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tilework.common.comm_handler import NoopCommHandler, TaskCommHandler
from tilework.common.worker_queue import SimpleWorkerQueue, WorkerQueue


class WithoutInit(TaskCommHandler):
    """A subclass as users write them."""

    def __init__(self) -> None:
        self.pushed = 0

    def handle_task(self, task: Any, queue: WorkerQueue) -> None:
        self.pushed += 1


def test_subscriptions_need_no_init() -> None:
    """Subclasses need not call __init__, and do not share subscriptions."""
    one, two = WithoutInit(), WithoutInit()
    one.subscribe("topic", lambda *_: None)
    assert list(one.subscriptions) == ["topic"]
    assert two.subscriptions == {}


def test_monitor_passes_messages_on() -> None:
    """Everything that was put before the end of the block has been given out when it is over, in order."""
    got = []
    handler = NoopCommHandler()
    handler.subscribe("a", lambda topic, message: got.append((topic, message["i"])))
    handler.subscribe("a", lambda topic, message: got.append((topic, -message["i"])))
    queue = SimpleWorkerQueue()
    with handler.monitor(queue):
        for i in range(1, 4):
            queue.put(("a", {"i": i}))
            queue.put(("b", {"i": i}))
    assert got == [("a", 1), ("a", -1), ("a", 2), ("a", -2), ("a", 3), ("a", -3)]
    assert queue.size() == 0


def test_monitor_without_subscribers() -> None:
    """Nobody listens: no thread is started, and what was sent is discarded, also after an error."""
    queue = SimpleWorkerQueue()
    before = threading.active_count()
    with NoopCommHandler().monitor(queue):
        queue.put(("topic", {}))
        assert threading.active_count() == before
    assert queue.size() == 0
    queue.put(("topic", {}))
    with pytest.raises(LookupError), NoopCommHandler().monitor(queue):
        raise LookupError
    assert queue.size() == 0


def test_defaults() -> None:
    """start, handle_task and done do nothing."""
    queue = SimpleWorkerQueue()
    for handler in (TaskCommHandler(), NoopCommHandler()):
        handler.start()
        handler.handle_task(None, queue)
        handler.done()
    assert queue.size() == 0
