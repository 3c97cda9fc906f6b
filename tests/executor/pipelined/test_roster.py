"""When workers are started again, without processes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

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
