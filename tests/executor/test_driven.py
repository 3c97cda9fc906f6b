"""Runs that have no way to the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tilework.common.executor import NoopCommHandler
from tilework.executor.inline import InlineJobExecutor
from tilework.testing.faults import SleepTask

if TYPE_CHECKING:
    from tilework.common.executor import TaskProtocol
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend


def test_a_run_without_a_way_to_the_workers_is_not_running() -> None:
    class NoWay(InlineJobExecutor):
        def _open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
            msg = "no way"
            raise ZeroDivisionError(msg)

    ended: list[str] = []
    with NoWay() as executor, executor.scatter(None) as handle:
        executor.subscribe("run_end", lambda _, message: ended.append(message["state"]))
        with pytest.raises(ZeroDivisionError, match="no way"):
            list(executor.run_tasks([SleepTask()], handle, "x", NoopCommHandler()))
        assert executor.report()["runs"] == {"active": 0, "closed": 1}
    assert ended == ["closed"]
