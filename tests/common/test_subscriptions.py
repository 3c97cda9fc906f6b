from __future__ import annotations

import time
from typing import Any

import pytest

from tilework.common.subscriptions import SubscriptionManager


def test_messages_reach_the_subscribers_of_their_topic_in_order() -> None:
    manager, seen = SubscriptionManager(), []
    manager.subscribe("a", lambda topic, msg: seen.append((1, topic, msg["n"])))
    manager.subscribe("a", lambda topic, msg: seen.append((2, topic, msg["n"])))
    manager.subscribe("b", lambda topic, msg: seen.append((3, topic, msg["n"])))
    manager.send("a", {"n": 7})
    manager.send("c", {"n": 8})
    assert seen == [(1, "a", 7), (2, "a", 7)]


def test_several_topics_give_several_keys() -> None:
    manager, seen = SubscriptionManager(), []
    keys = manager.subscribe(("a", "b"), lambda topic, _: seen.append(topic))
    manager.send("a", {})
    manager.send("b", {})
    assert manager.unsubscribe(keys[0])
    assert not manager.unsubscribe(keys[0])
    manager.send("a", {})
    manager.send("b", {})
    assert seen == ["a", "b", "b"]
    assert not manager.unsubscribe("no such key")


def test_a_timestamp_is_added_unless_there_is_one() -> None:
    manager = SubscriptionManager()
    messages: list[dict[str, Any]] = []
    manager.subscribe("a", lambda _, msg: messages.append(msg))
    before = time.time()
    manager.send("a", {})
    manager.send("a", {"timestamp": 1.5})
    assert before <= messages[0]["timestamp"] <= time.time()
    assert messages[1]["timestamp"] == 1.5


def test_a_callback_may_unsubscribe_itself() -> None:
    manager, seen = SubscriptionManager(), []

    def once(_topic: str, _message: dict[str, Any]) -> None:
        seen.append("once")
        manager.unsubscribe(key)

    key = manager.subscribe("a", once)
    manager.subscribe("a", lambda *_: seen.append("always"))
    manager.send("a", {})
    manager.send("a", {})
    assert seen == ["once", "always", "always"]


def test_who_fails_keeps_a_message_from_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, where whoever sends has other things to do than to hear of it."""
    manager, seen = SubscriptionManager(), []

    def fail(_topic: str, _message: dict[str, Any]) -> None:
        msg = "wrong subscriber"
        raise ValueError(msg)

    manager.subscribe("a", fail)
    manager.subscribe("a", lambda *_: seen.append("told"))
    manager.tell("a", {})
    assert seen == ["told"]
    assert "wrong subscriber" in caplog.text
    with pytest.raises(ValueError, match="wrong subscriber"):
        manager.send("a", {})
