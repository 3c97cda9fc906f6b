"""A pool that grows and shrinks while it is used."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from pipelined_harness import PipelinedHarness, make
from tilework.common.executor import NoopCommHandler
from tilework.exceptions import ExecutorSpecException, WorkerLostError
from tilework.testing.faults import CallTask, EchoTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import Environment
    from tilework.executor.pipelined import PipelinedExecutor
    from tilework.testing.faults import Signals


class TestResize(PipelinedHarness):
    def test_resize(self, executor: PipelinedExecutor) -> None:
        """The pool grows and shrinks while a run goes on, which loses nothing, and uses what there is."""
        begun: list[int] = []
        is_enough = False

        def tasks() -> Iterator[CallTask]:
            while not is_enough:
                begun.append(len(begun))
                yield CallTask(begun[-1], fn=_pid)

        with self.start(executor, tasks()) as results:
            got = [next(results) for _ in range(20)]
            executor.resize(4)
            while len({pid for pid, _ in got}) < 4:
                got.append(next(results))
            executor.resize(1)
            late = [next(results) for _ in range(50)]
            while len({pid for pid, _ in late[-50:]}) > 1:
                late.append(next(results))
            is_enough = True
            idents = [task.get_partition().get_ident() for _, task in [*got, *late, *results]]
        assert sorted(idents) == sorted(f"part-{i}" for i in begun)
        assert executor.get_available_workers().names() == ["cpu-0"]
        assert list(executor.run_each_worker(os.getpid)) == ["cpu-0"]
        self.assert_usable(executor)
        with pytest.raises(ExecutorSpecException, match="at least one"):
            executor.resize(0)
        with pytest.raises(ExecutorSpecException, match=r"whole number of workers, not 1\.5"):
            executor.resize(1.5)  # type: ignore[arg-type]

    def test_a_call_for_a_worker_that_is_taken_away(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """It says so, when the worker has not begun it; other calls are done by the others."""

        def work(i: int) -> int:
            signals.add("started")
            signals.wait("go on")
            return i

        with self.background() as submit:
            others = submit(executor.map, work, range(6))
            signals.wait("started", 2)
            each = submit(executor.run_each_worker, os.getpid)
            time.sleep(0.2)
            executor.resize(1)
            with pytest.raises(WorkerLostError, match=r"cpu-1 is not there any more: it was taken away by resize\(\)"):
                each.result(10)
            signals.add("go on")
            assert others.result(10) == list(range(6))
        self.assert_usable(executor)
        assert list(executor.run_each_worker(os.getpid)) == ["cpu-0"]

    def test_resize_while_workers_start(self, nothing_left: None) -> None:
        """Those that are not wanted any more when they are ready take nothing, and are not replaced."""
        with make(early_setup=lambda: time.sleep(0.3)) as executor:

            def wait_for(n: int) -> None:
                until = time.monotonic() + 20
                while len(executor.report()["processes"]) != n:
                    assert time.monotonic() < until
                    time.sleep(0.001)

            executor.resize(6)
            wait_for(6)
            executor.resize(1)
            wait_for(1)
            time.sleep(0.2)
            assert [process["name"] for process in executor.report()["processes"]] == ["cpu-0"]
            assert not any(event["event"] == "worker_lost" for event in executor.report()["events"])

    def test_scattered_objects_reach_new_workers(self, executor: PipelinedExecutor) -> None:
        """A worker that comes later has what was scattered before."""
        with executor.scatter("params") as handle:
            executor.resize(3)
            run = executor.run_tasks([EchoTask(i) for i in range(30)], handle, 0, NoopCommHandler())
            assert {params for (_, params), _ in run} == {"params"}


def _pid(params: Any, env: Environment) -> int:
    time.sleep(0.005)
    return os.getpid()
