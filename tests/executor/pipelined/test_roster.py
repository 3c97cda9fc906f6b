"""When workers are started again, without processes."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tilework.executor.pipelined.member import MemberState
from tilework.executor.pipelined.roster import Roster
from tilework.executor.pipelined.spec import make_spec

if TYPE_CHECKING:
    import pytest


class Pool:
    """One that can start nothing."""

    def __init__(self) -> None:
        self.spec = make_spec(1, [])
        self.members: list[Any] = []
        self.launches: list[Any] = []

    def launch(self, spec: Any) -> None:
        msg = "Too many open files"
        raise OSError(msg)


def test_attempts_become_rare(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Each pause is twice as long as the one before, up to a minute, and each attempt is told once."""
    now = 1000.0
    monkeypatch.setattr("tilework.executor.pipelined.roster.time.monotonic", lambda: now)
    roster = Roster(Pool())  # type: ignore[arg-type]
    roster.set_wanted(make_spec(1, []))
    pauses = []
    with caplog.at_level(logging.WARNING):
        for i in range(12):
            roster.keep_dates(now)
            assert len(caplog.records) == i + 1
            date = roster.next_date()
            roster.keep_dates((now + date) / 2)
            pauses.append(date - now)
            now = date
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert "cpu-0 cannot be started, the next attempt is in 0.25 s: Too many open files" in caplog.records[0].message
    assert not roster.is_hopeless


def test_workers_that_are_lost_as_soon_as_they_are_ready(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first is replaced at once, the others after longer and longer pauses, and then no more."""
    now = 1000.0
    monkeypatch.setattr("tilework.executor.pipelined.roster.time.monotonic", lambda: now)
    pool: Any = Pool()
    pool.launch = lambda spec: None
    roster = Roster(pool)

    def lose(*, after: float, has_begun: bool = False) -> float:
        nonlocal now
        info = SimpleNamespace(spec=pool.spec[0])
        member: Any = SimpleNamespace(name="cpu-0", info=info, ready_since=now, lacks_memory=False)
        member.state = MemberState.READY
        pool.members.append(member)
        roster.note_ready(member)
        now += after
        pool.members.remove(member)
        roster.note_loss(member, MemberState.READY, "it fell over", has_begun=has_begun)
        pause = max(0.0, roster.next_date() - now)
        now += pause
        roster.keep_dates(now)
        return round(pause, 3)

    assert [lose(after=0.1) for _ in range(3)] == [0, 0.2, 0.6]
    assert lose(after=10) == 0
    assert [lose(after=0.1) for _ in range(3)] == [0, 0.2, 0.6]
    assert lose(after=0.1, has_begun=True) == 0
    assert [lose(after=0.1) for _ in range(6)] == [0, 0.2, 0.6, 1.4, 3, float("inf")]
    assert roster.is_hopeless
    assert "it fell over" in str(roster.no_worker(None))
    assert "cpu-0 could not be started, or was lost as soon as it was, 6 times" in caplog.text


def test_workers_whose_memory_cannot_be_mapped_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tried again as those that cannot be started, and never given up."""
    now = 1000.0
    monkeypatch.setattr("tilework.executor.pipelined.roster.time.monotonic", lambda: now)
    pool: Any = Pool()
    pool.launch = lambda spec: None
    pool.members.append(SimpleNamespace(name="cpu-0", ready_since=now, state=MemberState.READY))
    roster = Roster(pool)
    roster.note_ready(pool.members[0])
    pool.members.clear()
    for _ in range(10):
        info = SimpleNamespace(spec=pool.spec[0])
        member: Any = SimpleNamespace(name="cpu-0", info=info, lacks_memory=True)
        roster.note_loss(member, MemberState.STARTING, "no files", has_begun=False)
        assert not roster.is_hopeless
        now = roster.next_date()
        roster.keep_dates(now)
