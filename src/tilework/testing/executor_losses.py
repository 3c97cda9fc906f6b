"""The contract of workers that die: only what they had not finished runs again, and what was scattered is restored."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tilework.common.executor import JobExecutor, NoopCommHandler
from tilework.exceptions import WorkerLostError
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.executor_services import Patched
from tilework.testing.faults import CallTask, DeadlyParams, EchoTask, FakeTask, KillTask, SleepTask, kill_this_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import Environment
    from tilework.testing.faults import Signals

__all__ = ["LossContract"]


def _value(params: Any, env: Environment) -> int:
    value: int = params.value
    return value


def _kill(item: tuple[int, bytes]) -> None:
    kill_this_process("SIGKILL", item[0])


class _Deadly:
    """Kills every worker that it arrives at; counts ``arrived``."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.signals, os.getpid())

    def call(self, number: int) -> int:
        return number


def _arrive(signals: Signals, main_pid: int) -> None:
    signals.add("arrived")
    kill_this_process("SIGKILL", main_pid)


class LossContract(ExecutorHarness):
    """Only for executors that declare `can_lose_workers`."""

    @pytest.fixture(autouse=True)
    def _can_lose_workers(self, request: pytest.FixtureRequest) -> None:
        if request.function.__qualname__.startswith(LossContract.__name__):
            self.require("can_lose_workers")

    @pytest.mark.parametrize(("how", "ordered"), [("SIGKILL", True), ("exit", False)])
    def test_killed_by_its_task(self, executor: JobExecutor, signals: Signals, how: str, ordered: bool) -> None:
        """A task that kills its worker once is done on another; every task is delivered once, in order if asked for."""
        killers = {7, 31}
        tasks = [
            KillTask(i, signals=signals, how=how) if i in killers else SleepTask(i, seconds=0.002) for i in range(60)
        ]
        got = self.run(executor, tasks, ordered=ordered)
        assert (got if ordered else sorted(got)) == list(range(60))
        assert all(signals.count(f"killed-{i}") == 1 for i in killers)
        assert executor.report()["losses"] >= len(killers)
        self.assert_usable(executor)

    def test_killed_from_outside(self, executor: JobExecutor) -> None:
        """Workers that are killed again and again in the middle of a run cost time, and no results."""

        def look(params: Any, env: Environment) -> tuple[Any, int]:
            time.sleep(0.01)
            return params, os.getpid()

        got = []
        pids = set()
        with self.start(executor, (CallTask(i, fn=look) for i in range(120)), "params", ordered=True) as results:
            for n, ((params, pid), task) in enumerate(results):
                assert isinstance(task, CallTask)
                got.append((task.index, params))
                pids.add(pid)
                if n in {10, 40, 80}:
                    self.kill_worker(pid)
        assert got == [(i, "params") for i in range(120)]
        assert len(pids) > 1
        self.assert_usable(executor)

    def test_all_killed_at_once(self, executor: JobExecutor) -> None:
        """A run survives the death of all workers."""
        pids = self.worker_pids(executor)
        got = []
        with self.start(executor, (SleepTask(i, seconds=0.005) for i in range(60))) as results:
            for n, (index, _) in enumerate(results):
                got.append(index)
                if n == 5:
                    for pid in pids:
                        self.kill_worker(pid)
        assert sorted(got) == list(range(60))
        self.assert_usable(executor)

    def test_killed_while_idle(self, executor: JobExecutor) -> None:
        """What is scattered is there again, in its latest state, and the next run does not notice anything."""
        tasks = [CallTask(i, fn=_value) for i in range(10)]

        def look() -> set[int]:
            return {result for result, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())}

        with executor.scatter(Patched(1)) as handle, executor.scatter("other") as other:
            executor.scatter_update(other, "updated")
            for total in (11, 21):
                executor.scatter_update_patch(handle, 10)
                assert look() == {total}
                for pid in self.worker_pids(executor):
                    self.kill_worker(pid)
                assert look() == {total}
            (seen, _), *_ = executor.run_tasks([EchoTask(0)], other, "run", NoopCommHandler())
            assert seen == (0, "updated")
        for pid in self.worker_pids(executor):
            self.kill_worker(pid)
        assert executor.run_function(divmod, 17, 5) == (3, 2)
        self.assert_usable(executor)

    @pytest.mark.parametrize("how", ["scatter", "update"])
    def test_killed_while_parameters_arrive(self, executor: JobExecutor, signals: Signals, how: str) -> None:
        """A worker that dies from an object on its way is replaced, and the next one gets it."""
        deadly = DeadlyParams(signals, 5)
        with executor.scatter(deadly if how == "scatter" else "harmless") as handle:
            if how == "update":
                executor.scatter_update(handle, deadly)
            tasks = [CallTask(i, fn=_value) for i in range(10)]
            got = [result for result, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())]
        assert got == [5] * 10
        assert signals.count("arrived") > 1
        self.assert_usable(executor)

    def test_task_that_always_kills(self, executor: JobExecutor, signals: Signals) -> None:
        """It is given up after three times, with an error that names its partition; the executor stays usable."""

        def tasks() -> Iterator[FakeTask]:
            for i in range(40):
                yield KillTask(i, signals=signals, times=1000) if i == 5 else SleepTask(i, seconds=0.002)

        with pytest.raises(WorkerLostError, match=r"part-5\b"):
            self.run(executor, tasks())
        assert signals.count("killed-5") == 3
        self.assert_usable(executor)

    def test_function_that_kills(self, executor: JobExecutor) -> None:
        """It ends with a WorkerLostError that names it, not with a hang; the executor stays usable."""
        with pytest.raises(WorkerLostError, match=r"^the function kill_this_process\b"):
            executor.run_function(kill_this_process, "SIGKILL", os.getpid())
        with pytest.raises(WorkerLostError, match=r"^the function _kill for item 0\b") as caught:
            executor.map(_kill, [(os.getpid(), bytes(1_000_000))])
        assert len(str(caught.value)) < 10_000, "the item is in the message"
        self.assert_usable(executor)

    def test_function_whose_arrival_kills(self, executor: JobExecutor, signals: Signals) -> None:
        """What kills the worker that unpickles it, a function or its arguments, is given up after three times, too."""
        deadly = _Deadly(signals)
        with pytest.raises(WorkerLostError):
            executor.run_function(id, deadly)
        assert signals.count("arrived") == 3
        with pytest.raises(WorkerLostError):
            executor.map(deadly.call, [1, 2])
        with pytest.raises(WorkerLostError):
            executor.map(id, [deadly])
        self.assert_usable(executor)

    def test_other_runs_are_not_harmed(self, executor: JobExecutor, signals: Signals) -> None:
        """While one run kills its workers until it is given up, another one that shares them is completed."""
        with self.background() as call:
            other = call(self.run, executor, [SleepTask(i, seconds=0.01) for i in range(100)], cancel_id="other")
            with pytest.raises(WorkerLostError, match=r"part-1000\b"):
                self.run(executor, [KillTask(1000, signals=signals, times=1000)])
            assert sorted(other.result()) == list(range(100))
        self.assert_usable(executor)
