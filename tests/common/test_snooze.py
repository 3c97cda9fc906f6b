"""Workers that go when nobody needs them, and come back."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tilework.common.snooze import SnoozeManager, SnoozeMessage, keep_alive, keep_alive_context
from tilework.common.subscriptions import SubscriptionManager

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pool:
    """Something with workers."""

    def __init__(self, timeout: float) -> None:
        self.calls: list[str] = []
        self.subscriptions = SubscriptionManager()
        self.snooze_manager: SnoozeManager | None = SnoozeManager(
            up=self.up, down=self.down, timeout=timeout, subscriptions=self.subscriptions
        )

    def up(self) -> None:
        self.calls.append("up")

    def down(self) -> None:
        self.calls.append("down")

    @keep_alive
    def work(self, x: int) -> tuple[int, int]:
        """Say how many use the workers."""
        assert self.snooze_manager is not None
        return x, self.snooze_manager.keep_alive

    @keep_alive_context
    @contextmanager
    def block(self) -> Iterator[int]:
        yield 7


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(timeout=600)
    yield pool
    assert pool.snooze_manager is not None
    pool.snooze_manager.close()


def manager_of(pool: Pool) -> SnoozeManager:
    assert pool.snooze_manager is not None
    return pool.snooze_manager


def test_timeout_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Pool(timeout=0)


def test_down_and_up_again(pool: Pool) -> None:
    """Each happens once, is told to subscribers, and the flag says which was last."""
    heard: list[str] = []
    for topic in SnoozeMessage:
        pool.subscriptions.subscribe(topic, lambda topic, message: heard.append(topic))
    manager = manager_of(pool)
    states: list[bool] = []
    for change in (manager.snooze, manager.snooze, manager.unsnooze, manager.unsnooze):
        change()
        states.append(manager.is_snoozing)
    assert states == [True, True, False, False]
    assert pool.calls == ["down", "up"]
    assert [topic for topic in heard if topic != SnoozeMessage.UPDATE_ACTIVITY] == [
        "snooze",
        "unsnooze_start",
        "unsnooze_done",
    ]


def test_not_while_in_use(pool: Pool) -> None:
    """Whoever uses the workers keeps them."""
    manager = manager_of(pool)
    with manager.in_use(), manager.in_use():
        manager.snooze()
        assert manager.keep_alive == 2
    assert manager.keep_alive == 0
    assert pool.calls == []


def test_subscribers_that_fail(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody's use fails for it, nor does it seem to go on for ever; it is logged."""

    def fail(_topic: str, _message: Any) -> None:
        msg = "wrong subscriber"
        raise ValueError(msg)

    pool.subscriptions.subscribe(SnoozeMessage.UPDATE_ACTIVITY, fail)
    assert pool.work(3) == (3, 1)
    assert manager_of(pool).keep_alive == 0
    assert "wrong subscriber" in caplog.text


def test_methods_bring_them_back(pool: Pool) -> None:
    """Decorated methods work on workers that are there, and keep them to the end, also of a block."""
    manager = manager_of(pool)
    manager.snooze()
    assert pool.work(3) == (3, 1)
    manager.snooze()
    with pool.block() as value:
        assert value == 7
        manager.snooze()
    assert pool.calls == ["down", "up", "down", "up"]
    pool.snooze_manager = None
    with pool.block() as value:
        assert value == 7
    pool.snooze_manager = manager
    assert Pool.work.__doc__ == "Say how many use the workers."


def test_after_a_while() -> None:
    """The thread lets them go when nobody has been active for the time that was given, and not before."""
    pool = Pool(timeout=0.2)
    manager = manager_of(pool)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        with manager.in_use():
            assert pool.calls == []
        time.sleep(0.005)
    until = time.monotonic() + 10
    while not pool.calls and time.monotonic() < until:
        time.sleep(0.01)
    assert pool.calls == ["down"]
    manager.close()
    manager.close()
    assert not any(thread.name == "tilework-snooze" and thread.is_alive() for thread in threading.enumerate())


def test_the_owner_may_go() -> None:
    """The manager does not keep its owner alive, and its thread ends with it."""
    pool = Pool(timeout=0.05)
    manager = manager_of(pool)
    thread: Any = manager._thread
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()
    manager.snooze()
    manager.unsnooze()
