"""Callbacks for events, by topic."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, overload

__all__ = ["Callback", "SubscriptionManager"]

log = logging.getLogger(__name__)

Callback: TypeAlias = Callable[[str, dict[str, Any]], None]


class SubscriptionManager:
    """Passes messages to the callbacks that are subscribed to their topic.

    Callbacks run in the thread that sends, in the order of subscription. They may subscribe and unsubscribe;
    that takes effect with the next message. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, dict[str, Callback]] = {}

    @overload
    def subscribe(self, topic: str, callback: Callback) -> str: ...
    @overload
    def subscribe(self, topic: tuple[str, ...], callback: Callback) -> tuple[str, ...]: ...
    def subscribe(self, topic: str | tuple[str, ...], callback: Callback) -> str | tuple[str, ...]:
        """Call ``callback(topic, message)`` for every message of the topic, or of each of several topics.

        Returns
        -------
        str or tuple of str
            Key for `unsubscribe`; one for each topic when several were given.
        """
        if isinstance(topic, tuple):
            return tuple(self._subscribe(one, callback) for one in topic)
        return self._subscribe(topic, callback)

    def _subscribe(self, topic: str, callback: Callback) -> str:
        key = str(uuid.uuid4())
        with self._lock:
            self._topics[topic] = {**self._topics.get(topic, {}), key: callback}
        return key

    def unsubscribe(self, key: str) -> bool:
        """Remove a subscription; returns whether there was one with this key."""
        with self._lock:
            for topic, callbacks in self._topics.items():
                if key in callbacks:
                    self._topics[topic] = {k: callback for k, callback in callbacks.items() if k != key}
                    return True
        return False

    def send(self, topic: str, msg_dict: dict[str, Any]) -> None:
        """Give a message to every subscriber of its topic, now and in this thread; raises what one of them raises.

        ``"timestamp"`` (`time.time`, s) is added to `msg_dict` when it is missing.
        """
        for callback in self._callbacks(topic, msg_dict):
            callback(topic, msg_dict)

    def tell(self, topic: str, msg_dict: dict[str, Any]) -> None:
        """Do as `send`, but log what a subscriber raises: it is no concern of the others, nor of who tells them."""
        for callback in self._callbacks(topic, msg_dict):
            try:
                callback(topic, msg_dict)
            except Exception:
                log.exception("a subscriber of %r failed", topic)

    def _callbacks(self, topic: str, msg_dict: dict[str, Any]) -> Iterable[Callback]:
        msg_dict.setdefault("timestamp", time.time())
        return self._topics.get(topic, {}).values()
