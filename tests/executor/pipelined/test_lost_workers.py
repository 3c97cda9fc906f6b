"""Worker processes that crash, are killed, stopped, or do not stop, and what becomes of their work."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from pipelined_harness import PipelinedHarness
from tilework.exceptions import WorkerLostError
from tilework.testing.faults import CallTask, FakePartition, FakeTask, SleepTask

if TYPE_CHECKING:
    from tilework.common.executor import Environment
    from tilework.executor.pipelined import PipelinedExecutor
    from tilework.testing.faults import Signals


def crash(params: Any, env: Environment) -> None:
    ctypes.string_at(8)


class TestLostWorkers(PipelinedHarness):
    def test_crash_in_compiled_code(self, executor: PipelinedExecutor) -> None:
        """A task that dereferences null ends its run with signal, partition and the Python traceback of the crash."""
        with pytest.raises(WorkerLostError, match=r"part-3 lost its worker 3 times") as caught:
            self.run(executor, [FakeTask(0), CallTask(3, fn=crash)])
        text = str(caught.value)
        assert "SIGSEGV" in text
        assert "Segmentation fault" in text
        assert "in crash" in text, "the traceback of the crash is missing"
        self.assert_usable(executor)
        assert any(event["event"] == "worker_lost" for event in executor.report()["events"])

    def test_functions_for_certain_items(self, executor: PipelinedExecutor) -> None:
        """Who loses workers with a function is told for which worker, or partition, it was called."""
        with pytest.raises(WorkerLostError, match=r"^the function .* on worker cpu-[01] lost its worker 3 times"):
            executor.run_each_worker(os.abort)
        with pytest.raises(WorkerLostError, match=r"<lambda> for partition part-7 lost its worker 3 times"):
            list(executor.run_each_partition([FakePartition("part-7")], lambda _: os.abort()))
        self.assert_usable(executor)

    def test_a_task_that_does_not_stop(
        self, executor: PipelinedExecutor, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A worker whose task goes on after its run has ended is killed and replaced, when its time is over.

        That is said once, and not that somebody killed it, or that memory ran out.
        """

        def work(i: int) -> None:
            if i == 0:
                signals.add("started")
                time.sleep(60)
            signals.wait("started")
            msg = "the other one"
            raise ValueError(msg)

        before = set(self.worker_pids(executor))
        with pytest.raises(ValueError, match="the other one"):
            executor.map(work, [0, 1])
        self.assert_usable(executor)
        until = time.monotonic() + 10
        while len(set(self.worker_pids(executor)) - before) != 1:
            assert time.monotonic() < until
            time.sleep(0.01)
        (told,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
        assert told.startswith("lost worker cpu-")
        assert "its task did not stop after its run had ended" in told
        assert "its task did not stop" in str(executor.report()["events"])

    def test_arguments_of_a_worker_that_did_not_stop(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """What was on its way to a worker that is killed after the end of its run leaves the shared memory."""

        def work(item: np.ndarray[Any, Any]) -> None:
            if item[0]:
                signals.wait("started")
                msg = "the other one"
                raise ValueError(msg)
            signals.add("started")
            time.sleep(60)

        items = [np.full(1 << 20, i, np.uint8) for i in (0, 1, 0, 0, 0)]
        with pytest.raises(ValueError, match="the other one"):
            executor.map(work, items)
        self.assert_usable(executor)
        arena = executor._hub.pool.arena
        until = time.monotonic() + 10
        while arena.n_blocks:
            assert time.monotonic() < until
            time.sleep(0.01)

    def test_a_stopped_worker_delays_only_its_task(self, executor: PipelinedExecutor) -> None:
        """While a worker is stopped from outside, the other one does all the rest; then it goes on."""
        pid = self.worker_pids(executor)[0]
        with self.start(executor, (SleepTask(i, seconds=0.003) for i in range(80))) as results:
            got = [next(results)[0]]
            os.kill(pid, signal.SIGSTOP)
            try:
                got += [next(results)[0] for _ in range(70)]
            finally:
                os.kill(pid, signal.SIGCONT)
            got += [index for index, _ in results]
        assert sorted(got) == list(range(80))

    def test_a_stopped_worker_does_not_keep_what_it_has_not_begun(self, executor: PipelinedExecutor) -> None:
        """Though it stays stopped, functions end that were sent to it, and others are not sent to it any more."""
        pids = self.worker_pids(executor)
        for pid in pids:  # a function goes to either of them first
            os.kill(pid, signal.SIGSTOP)
            try:
                assert executor.map(lambda i: (i, os.getpid()), range(5)) == [
                    (i, *(set(pids) - {pid})) for i in range(5)
                ]
                assert executor.run_function(os.getpid) != pid
            finally:
                os.kill(pid, signal.SIGCONT)
            assert set(self.worker_pids(executor)) == set(pids)

    def test_workers_are_replaced_quickly(self, executor: PipelinedExecutor) -> None:
        """After the loss of all workers there are new ones, pinned like those before."""
        for process in executor.report()["processes"]:
            os.kill(process["pid"], signal.SIGKILL)
        assert executor.run_each_worker(lambda: len(os.sched_getaffinity(0))) == {"cpu-0": 1, "cpu-1": 1}

    def test_the_forking_process_is_killed(self, executor: PipelinedExecutor) -> None:
        """Workers live on without the process that forked them, and new ones come from another."""
        parents = {psutil.Process(pid).ppid() for pid in self.worker_pids(executor)}
        assert len(parents) == 1
        psutil.Process(parents.pop()).kill()
        self.assert_usable(executor)
        for pid in self.worker_pids(executor):
            os.kill(pid, signal.SIGKILL)
        self.assert_usable(executor)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("doing", ["idle", "in a run", "in compiled code"])
def test_the_main_process_is_killed(how: signal.Signals, doing: str, tmp_path: Path) -> None:
    """Two seconds after the death of the main process, in whatever it was doing, nothing of it is left."""
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys, time, ctypes
            from itertools import count
            from tilework.executor.pipelined import PipelinedExecutor
            from tilework.common.executor import NoopCommHandler
            from tilework.testing.faults import CallTask

            def busy(params, env):
                if {doing == "in compiled code"}:
                    ctypes.PyDLL(None).sleep(60)  # holds the lock of the interpreter
                while True:
                    time.sleep(0.01)

            executor = PipelinedExecutor(PipelinedExecutor.make_spec(2, []))
            pids = list(executor.run_each_worker(os.getpid).values())
            print(*pids, flush=True)
            if {doing != "idle"}:
                with executor.scatter(b"x" * 10_000_000) as handle:
                    list(executor.run_tasks((CallTask(i, fn=busy) for i in count()), handle, 0, NoopCommHandler()))
            time.sleep(60)
            """
        )
    )

    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in main.stdout.readline().split()]
        family = [*workers, *{parent for each in workers if (parent := each.parent()) is not None}]
        assert len(family) == 3
        time.sleep(0.3)
        main.send_signal(how)
        main.wait()
        _, alive = psutil.wait_procs(family, timeout=2.0)
        for each in alive:
            each.kill()
        # a child of nobody is waited for by the first process of the system, which takes its time in some containers
        assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []
    assert list(Path("/dev/shm").glob(f"tilework-{main.pid}-*")) == []
