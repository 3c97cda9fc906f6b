"""One process forks the workers of all pipelined executors of a process."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from tests_helpers import interrupt_once_started
from tilework.api import Context
from tilework.exceptions import ExecutorSpecException, PoolStateError
from tilework.executor.forked import modules_to_preload
from tilework.executor.pipelined import PipelinedExecutor
from tilework.executor.pipelined.process import WORKER_MODULES
from tilework.testing.executor_harness import ExecutorHarness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make() -> PipelinedExecutor:
    return PipelinedExecutor(PipelinedExecutor.make_spec(1, []))


def parent(executor: PipelinedExecutor) -> int:
    (pid,) = executor.run_each_worker(os.getppid).values()
    return int(pid)


def parent_of(pid: int) -> int:
    return int(psutil.Process(pid).ppid())


class TestZygote(ExecutorHarness):
    """What is left is looked at after each test."""

    can_lose_workers = True

    def make_executor(self) -> PipelinedExecutor:
        return make()

    @pytest.fixture
    def other(self, executor: PipelinedExecutor) -> Iterator[PipelinedExecutor]:
        with make() as other:
            yield other

    def test_it_lives_as_long_as_one_executor_does(self, nothing_left: None) -> None:
        first, second = make(), make()
        zygote = parent(first)
        assert parent(second) == zygote
        first.close()
        self.assert_usable(second)
        with make() as third:
            assert parent(third) == zygote
        second.close()
        assert not psutil.pid_exists(zygote)
        with make() as executor:
            assert parent(executor) != zygote

    def test_it_ends_when_no_executor_comes_to_be(self, nothing_left: None) -> None:
        """It is started before it is known whether what was asked for can be had."""
        before = psutil.Process().children()
        with pytest.raises(ExecutorSpecException, match="at least one worker"):
            Context.make_with("pipelined", cpus=0, gpus=0)
        assert psutil.Process().children() == before
        with make() as executor:
            self.assert_usable(executor)

    def test_workers_load_no_more_than_they_need(self, executor: PipelinedExecutor) -> None:
        """Nothing of the main side, and nothing of ours after the fork: that would be done by each of them."""
        loaded = executor.run_function(lambda: [name for name in sys.modules if name.split(".")[0] == "tilework"])
        main_side = {"driven", "pipelined.executor", "pipelined.hub", "pipelined.pool", "dask", "threads"}
        assert not [name for name in loaded if name.removeprefix("tilework.executor.") in main_side]
        before = ["tilework.executor.pipelined.zygote", "tilework.executor.pipelined.wire", *WORKER_MODULES]
        code = (
            f"import importlib, sys\n"
            f"for name in {[*before, *modules_to_preload()]!r}: importlib.import_module(name)\n"
            f"print(*sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert set(loaded) <= set(done.stdout.split())

    def test_environment(self, executor: PipelinedExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers have that of the time when they are started; those that are there keep theirs."""
        monkeypatch.setenv("TILEWORK_TEST_ZYGOTE", "later")
        monkeypatch.delenv("PATH")
        with make() as other:
            assert other.run_function(os.getenv, "TILEWORK_TEST_ZYGOTE") == "later"
            assert other.run_function(os.getenv, "PATH") is None
        os.kill(executor.run_function(os.getpid), signal.SIGKILL)  # one that replaces another is as those at the start
        assert executor.run_function(os.getenv, "TILEWORK_TEST_ZYGOTE") is None
        assert executor.run_function(os.getenv, "PATH") is not None

    def test_what_was_imported_later(self, executor: PipelinedExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers of a later executor find it imported, and those that are there are not disturbed."""
        name = "tilework.contrib.daskadapter"
        monkeypatch.delitem(sys.modules, name, raising=False)

        def has(name: str) -> bool:
            return name in sys.modules

        with make() as other:
            assert not other.run_function(has, name)
        importlib.import_module(name)
        with make() as other:
            assert other.run_function(has, name)
        assert not executor.run_function(has, name)

    def test_killed(self, executor: PipelinedExecutor, other: PipelinedExecutor) -> None:
        """All executors go on with their workers, and then with those of another one."""
        zygote = parent(executor)
        psutil.Process(zygote).kill()
        for each in (executor, other):
            self.assert_usable(each)
            for pid in self.worker_pids(each):
                os.kill(pid, signal.SIGKILL)
            self.assert_usable(each)
        assert parent(executor) == parent(other) != zygote

    def test_it_does_not_answer(self, nothing_left: None) -> None:
        """Workers that are there go on meanwhile; when its time is over, another one forks."""
        with PipelinedExecutor(PipelinedExecutor.make_spec(2, []), startup_timeout=5) as executor:
            before = executor.run_each_worker(os.getpid)
            zygote = psutil.Process(parent_of(before["cpu-0"]))
            zygote.suspend()
            os.kill(before["cpu-0"], signal.SIGKILL)
            while any(each["pid"] == before["cpu-0"] for each in executor.report()["processes"]):
                time.sleep(0.001)
            self.assert_usable(executor)
            assert zygote.status() == psutil.STATUS_STOPPED, "its time was over before"
            after = executor.run_each_worker(os.getpid)
            assert after["cpu-0"] != before["cpu-0"]
            assert after["cpu-1"] == before["cpu-1"]
            assert not psutil.pid_exists(zygote.pid)

    def test_it_does_not_answer_at_first(self, executor: PipelinedExecutor) -> None:
        """Who makes another executor is told; those that are there are not harmed."""
        zygote = parent(executor)
        psutil.Process(zygote).suspend()
        with pytest.raises(PoolStateError, match="Timeout while starting workers"):
            PipelinedExecutor(PipelinedExecutor.make_spec(2, []), startup_timeout=0.5)
        with make() as other:
            assert parent(other) != zygote
        self.assert_usable(executor)

    def test_more_workers_than_its_line_takes_at_once(self, executor: PipelinedExecutor) -> None:
        """While it imports, for example; those that are asked for last come to be as well."""
        zygote = psutil.Process(parent(executor))
        line = executor._hub.pool._zygote._wire
        line._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        zygote.suspend()
        threading.Timer(0.5, zygote.resume).start()
        with PipelinedExecutor(PipelinedExecutor.make_spec(12, []), startup_timeout=20) as other:
            assert len(other.run_each_worker(os.getpid)) == 12

    def test_resized_while_it_does_not_answer(self, executor: PipelinedExecutor) -> None:
        """A worker that nobody wants any more when it comes to be ends again, and one that is wanted again stays."""
        zygote = psutil.Process(parent(executor))
        zygote.suspend()
        for n in (4, 1, 2):
            executor.resize(n)
        self.assert_usable(executor)
        zygote.resume()
        until = time.monotonic() + 20
        while [each["name"] for each in executor.report()["processes"]] != ["cpu-0", "cpu-1"] or len(
            psutil.Process(zygote.pid).children()
        ) != 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert len(executor.run_each_worker(os.getpid)) == 2
        assert not any(event["event"] == "worker_lost" for event in executor.report()["events"])

    def test_blocked_signals(self, nothing_left: None) -> None:
        """What the thread has blocked that makes an executor, its processes have not: they learn how workers end."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
        try:
            with make() as executor:
                os.kill(executor.run_function(os.getpid), signal.SIGKILL)
                assert executor.run_function(signal.pthread_sigmask, signal.SIG_BLOCK, ()) == set()
                (lost,) = (event for event in executor.report()["events"] if event["event"] == "worker_lost")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert "SIGKILL" in lost["cause"]

    def test_a_worker_that_cannot_be_set_up(self, executor: PipelinedExecutor) -> None:
        """What went wrong between the fork and the first message is in the error."""
        psutil.Process(parent(executor)).rlimit(psutil.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        with pytest.raises(PoolStateError, match=r"(?s)failed to start.*SharedMemoryFullError: cannot map"):
            make()
        self.assert_usable(executor)

    def test_interrupt_while_it_starts(self, tmp_path: Path) -> None:
        """Ctrl-C reaches the main process alone, from the first moment on; the workers that come later ignore it."""
        started = tmp_path / "started"
        (tmp_path / "sitecustomize.py").write_text(
            "import os, pathlib, time\n"
            "if 'TILEWORK_TEST_STARTED' in os.environ:\n"
            "    pathlib.Path(os.environ['TILEWORK_TEST_STARTED']).touch()\n"
            "    time.sleep(1)\n"
        )
        script = textwrap.dedent(
            f"""
            import os, signal
            from tilework.executor.pipelined import PipelinedExecutor

            def is_blocked():
                return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

            def make():
                return PipelinedExecutor(PipelinedExecutor.make_spec(1, []))

            os.environ["TILEWORK_TEST_STARTED"] = {str(started)!r}
            try:
                make()
            except KeyboardInterrupt:
                print("interrupted", is_blocked())
            del os.environ["TILEWORK_TEST_STARTED"]
            with make() as executor:
                print(executor.run_function(is_blocked), executor.run_function(signal.getsignal, signal.SIGINT))
            """
        )
        told = interrupt_once_started([sys.executable, "-W", "error", "-c", script], tmp_path)
        assert told == (0, f"interrupted False\nFalse {int(signal.SIG_IGN)}\n", "")

    def test_executors_come_and_go_in_many_threads(self, nothing_left: None) -> None:
        start = threading.Barrier(8)

        def use(i: int) -> list[int]:
            start.wait(60)
            numbers = []
            for k in range(5):
                with make() as executor:
                    numbers.append(executor.run_function(abs, -10 * i - k))
            return numbers

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(use, range(8))) == [[10 * i + k for k in range(5)] for i in range(8)]
