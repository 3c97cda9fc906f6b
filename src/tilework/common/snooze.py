"""Workers that go to sleep while nobody needs them, and come back when somebody does.

Who does what: a daemon thread of the manager looks now and then whether anybody has been active, and lets the workers
go when nobody has. Whoever is about to use them calls `SnoozeManager.unsnooze`, which waits until they are back. One
lock is held while workers go or come, so that they never do both at a time. The manager holds its owner weakly: the
thread ends with the owner.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tilework.common.subscriptions import SubscriptionManager

__all__ = ["SnoozeManager", "SnoozeMessage", "awake", "keep_alive", "keep_alive_context"]

T = TypeVar("T")
P = ParamSpec("P")


class SnoozeMessage(StrEnum):
    """Topics of the messages of a `SnoozeManager`."""

    SNOOZE = "snooze"  # the workers are about to go
    UNSNOOZE_START = "unsnooze_start"  # they are about to come back
    UNSNOOZE_DONE = "unsnooze_done"  # they are back
    UPDATE_ACTIVITY = "update_activity"  # somebody begins or ends to use them


class SnoozeManager:
    """Lets workers go when they have been idle for a while.

    Parameters
    ----------
    up
        Bound method that brings the workers back, and returns when they are there. Held weakly.
    down
        Bound method that lets them go. Held weakly.
    timeout
        How long they must have been idle, in seconds.
    subscriptions
        Is told what happens, see `SnoozeMessage`; what a subscriber raises is logged. Held weakly.

    Raises
    ------
    ValueError
        When the timeout is not positive.
    """

    def __init__(
        self,
        *,
        up: Callable[[], Any],
        down: Callable[[], Any],
        timeout: float,
        subscriptions: SubscriptionManager | None = None,
    ) -> None:
        if not timeout > 0:
            msg = f"the time after which idle workers are released must be positive, not {timeout!r} s"
            raise ValueError(msg)
        self.keep_alive = 0
        self.is_snoozing = False
        self.last_activity = time.monotonic()
        self._timeout = timeout
        self._up = weakref.WeakMethod(up)
        self._down = weakref.WeakMethod(down)
        self._subscriptions = None if subscriptions is None else weakref.ref(subscriptions)
        self._counter_lock = threading.Lock()
        self._state_lock = threading.RLock()
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=_watch,
            args=(weakref.ref(self), self._closed, min(30.0, 0.1 * timeout)),
            name="tilework-snooze",
            daemon=True,
        )
        self._thread.start()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the workers for the duration of the block; those that are gone already stay away."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._counter_lock:
            self.keep_alive += change
            self.last_activity = time.monotonic()
        self._send(SnoozeMessage.UPDATE_ACTIVITY)

    def is_idle(self) -> bool:
        """Return whether nobody uses the workers, or has used them lately."""
        return self.keep_alive == 0 and time.monotonic() - self.last_activity > self._timeout

    def snooze(self) -> None:
        """Let the workers go; nothing when they are in use, or gone."""
        with self._state_lock:
            down = self._down()
            if self.keep_alive > 0 or self.is_snoozing or down is None or self._closed.is_set():
                return
            self._send(SnoozeMessage.SNOOZE)
            self.is_snoozing = True
            down()

    def unsnooze(self) -> None:
        """Bring the workers back, and wait until they are there; nothing when they are."""
        with self.in_use(), self._state_lock:
            up = self._up()
            if not self.is_snoozing or up is None:
                return
            self._send(SnoozeMessage.UNSNOOZE_START)
            up()
            self.is_snoozing = False
            self._send(SnoozeMessage.UNSNOOZE_DONE)

    def _send(self, topic: SnoozeMessage) -> None:
        subscriptions = None if self._subscriptions is None else self._subscriptions()
        if subscriptions is not None:
            subscriptions.tell(topic, {})

    def close(self) -> None:
        """Let nobody go any more, and end the thread; may be called twice."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=1.0)


def _watch(reference: weakref.ref[SnoozeManager], closed: threading.Event, interval: float) -> None:
    while not closed.wait(interval):
        manager = reference()
        if manager is None or manager._down() is None:
            return
        if manager.is_idle():
            manager.snooze()
        del manager


class _HasManager(Protocol):
    @property
    def snooze_manager(self) -> Any: ...


H = TypeVar("H", bound=_HasManager)


def keep_alive(fn: Callable[Concatenate[H, P], T]) -> Callable[Concatenate[H, P], T]:
    """Let a method first bring the workers of its object back, and keep them until it returns."""

    def wrapper(self: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with awake(self.snooze_manager):
            return fn(self, *args, **kwargs)

    functools.update_wrapper(wrapper, fn)
    return wrapper


def keep_alive_context(
    fn: Callable[Concatenate[H, P], AbstractContextManager[T]],
) -> Callable[Concatenate[H, P], AbstractContextManager[T]]:
    """Let a method that gives a context manager bring the workers back, and keep them until the end of the block."""

    @contextmanager
    def wrapper(self: H, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        with awake(self.snooze_manager), fn(self, *args, **kwargs) as value:
            yield value

    functools.update_wrapper(wrapper, fn)
    return wrapper


@contextmanager
def awake(manager: SnoozeManager | None) -> Iterator[None]:
    """Bring the workers back, and keep them for the duration of the block; nothing without a manager."""
    if manager is None:
        yield
        return
    with manager.in_use():
        manager.unsnooze()
        yield
