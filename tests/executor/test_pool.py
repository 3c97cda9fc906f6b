"""ConcurrentJobExecutor keeps the contract on pools of other processes: Python's, and loky's reusable one.

Processes take long to start. So all of the contract runs on pools that the tests of a class share, and what kills
workers on pools of its own, in classes of their own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import loky
import numpy as np
import psutil
import pytest
from loky.backend import resource_tracker

from tests_helpers import FrameMax, TileSum, counts, interrupt_once_started
from tilework.api import Context
from tilework.common.executor import NoopCommHandler
from tilework.exceptions import ExecutorError, JobCancelledError, WorkerLostError
from tilework.executor.concurrent import AsyncConcurrentJobExecutor, ConcurrentJobExecutor
from tilework.testing.executor_losses import LossContract
from tilework.testing.executors import ExecutorContract
from tilework.testing.faults import BlockTask, CallTask, EchoTask, FakeTask, KillTask, Signals
from tilework.udf import StdDevUDF, SumSigUDF, SumUDF

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE = "from tilework.executor.concurrent import ConcurrentJobExecutor\nexecutor = ConcurrentJobExecutor"
SPAWN = multiprocessing.get_context("spawn")


class TestSpawned(ExecutorContract):
    """Somebody else's `ProcessPoolExecutor`."""

    make_code = (
        "import multiprocessing\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        f"{CODE}(ProcessPoolExecutor(2, multiprocessing.get_context('spawn')), is_local=True)"
    )
    worker_names = ("process-0", "process-1")
    parallelism = 2
    shares_memory = False
    streams = False
    settle_seconds = 0.05
    pool: ClassVar[Executor]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def shared_pool(cls) -> Iterator[None]:
        """What is here before a test begins is not left behind by it."""
        with ProcessPoolExecutor(2, SPAWN) as cls.pool:
            with ConcurrentJobExecutor(cls.pool) as executor:
                assert len(set(executor.run_each_worker(os.getpid).values())) == 2
            yield

    def make_executor(self) -> ConcurrentJobExecutor:
        return ConcurrentJobExecutor(self.pool)


class TestLoky(TestSpawned):
    make_code = f"import loky\n{CODE}(loky.get_reusable_executor(2))"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def shared_pool(cls) -> Iterator[None]:
        cls.pool = loky.get_reusable_executor(2, timeout=300)
        with ConcurrentJobExecutor(cls.pool) as executor:
            assert len(set(executor.run_each_worker(os.getpid).values())) == 2
        yield
        cls.pool.shutdown(wait=True)


class TestOwnProcesses(LossContract):
    make_code = f"{CODE}.make_processes(2)"
    worker_names = ("process-0", "process-1")
    parallelism = 2
    can_lose_workers = True

    def make_executor(self) -> ConcurrentJobExecutor:
        return ConcurrentJobExecutor.make_processes(2)


class TestLokyLosses(LossContract):
    make_code = TestLoky.make_code
    worker_names = ("process-0", "process-1")
    parallelism = 2
    can_lose_workers = True

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _tracker(cls) -> None:
        """Start the process that loky keeps for as long as the interpreter lives."""
        resource_tracker.ensure_running()

    @pytest.fixture(autouse=True)
    def _no_pool(self, nothing_left: None) -> Iterator[None]:
        """The reusable pool stays up between executors; so it is ended here before `nothing_left` looks."""
        yield
        loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)

    def make_executor(self) -> ConcurrentJobExecutor:
        return ConcurrentJobExecutor(loky.get_reusable_executor(2))


# ---- a pool that nobody but its owner can replace ----


def test_broken_pool_of_somebody_else(tmp_path: Path) -> None:
    """The run ends with an error that says what happened and what to do; so does whatever follows."""
    task = KillTask(0, signals=Signals(str(tmp_path)))
    with ProcessPoolExecutor(1, SPAWN) as pool, ConcurrentJobExecutor(pool) as executor:
        told = pytest.raises(WorkerLostError, match=r"(?s)SIGKILL.*ProcessPoolExecutor.*make_processes")
        with executor.scatter(None) as handle, told:
            list(executor.run_tasks([task], handle, "run", NoopCommHandler()))
        with pytest.raises(WorkerLostError, match="make a new pool"):
            executor.run_function(abs, -1)


def _end_with_status_3() -> None:
    time.sleep(0.2)  # until the others are there, which loky kills then
    os._exit(3)


def test_what_loky_says_of_the_end() -> None:
    """The processes that it kills itself are not taken for the cause."""
    told = pytest.raises(WorkerLostError, match=r"a worker died: the exit codes of the workers are \{EXIT\(3\)\}")
    with loky.ProcessPoolExecutor(4) as pool, ConcurrentJobExecutor(pool) as executor, told:
        executor.run_function(_end_with_status_3)


def test_pool_shut_down_by_its_owner() -> None:
    """An executor whose pool is gone says so instead of waiting for ever."""
    pool = ProcessPoolExecutor(1, SPAWN)
    with ConcurrentJobExecutor(pool) as executor:
        pool.shutdown()
        with pytest.raises(ExecutorError, match="takes no more work"):
            executor.run_function(abs, -1)


def test_somebody_elses_pool_stays_open() -> None:
    """Several executors share a pool, and it keeps working for others."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        with ConcurrentJobExecutor(pool) as one, ConcurrentJobExecutor(pool) as two:
            assert one.run_function(abs, -1) == two.run_function(abs, -1) == 1
            one.close()
            assert two.run_function(abs, -2) == 2
        assert pool.submit(abs, -3).result() == 3


def test_processes_that_cannot_start(tmp_path: Path) -> None:
    """A script without a guard makes processes that die at once: the error says so, in bounded time."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from tilework.executor.concurrent import ConcurrentJobExecutor\n"
        "executor = ConcurrentJobExecutor.make_processes(1)\n"
        "executor.run_function(abs, -1)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]


class InPlace(Executor):
    """A pool of nothing: calls are made by whoever submits them."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("make_pool", [InPlace, lambda: ProcessPoolExecutor(2)], ids=["in place", "default context"])
def test_any_other_pool(make_pool: Any) -> None:
    """Whatever has the interface of a pool will do."""
    with ConcurrentJobExecutor(make_pool(), is_local=True) as executor, executor.scatter([7]) as handle:
        results = executor.run_tasks((EchoTask(i) for i in range(200)), handle, "run", NoopCommHandler())
        assert sorted(result for result, _ in results) == [(i, [7]) for i in range(200)]
        assert executor.map(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]


# ---- what is particular to processes ----


def test_own_processes_end_with_the_main_process(tmp_path: Path) -> None:
    """Also when that is killed, busy and idle."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, time\n"
        "from tilework.executor.concurrent import ConcurrentJobExecutor\n"
        "if __name__ == '__main__':\n"
        "    executor = ConcurrentJobExecutor.make_processes(2)\n"
        "    print(*executor.run_each_worker(os.getpid).values(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(set(pids)) == 2
    until = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < until, "processes are left"
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups")
def test_ctrl_c_in_a_terminal_while_processes_start(tmp_path: Path) -> None:
    """It is for the main process alone: the others go on, without a word, and ignore it from then on."""
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, time\n"
        "if 'TILEWORK_TEST_STARTED' in os.environ:\n"
        "    pathlib.Path(os.environ['TILEWORK_TEST_STARTED']).touch()\n"
        "    time.sleep(0.3)\n"  # less than a run waits for its tasks at the end
    )
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import os, signal\n"
        "from tilework.executor.concurrent import ConcurrentJobExecutor\n"
        "def is_blocked():\n"
        "    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "if __name__ == '__main__':\n"
        "    with ConcurrentJobExecutor.make_processes(2) as executor:\n"
        f"        os.environ['TILEWORK_TEST_STARTED'] = {str(started)!r}\n"
        "        try:\n"
        "            executor.run_function(abs, -1)\n"
        "        except KeyboardInterrupt:\n"
        "            print('interrupted', is_blocked())\n"
        "        print(executor.run_function(is_blocked), executor.run_function(signal.getsignal, signal.SIGINT))\n"
        "        print(executor.report()['limits']['pools_replaced'])\n"
    )
    told = interrupt_once_started([sys.executable, str(script)], tmp_path)
    assert told == (0, f"interrupted False\nFalse {int(signal.SIG_IGN)}\n0\n", "")


@pytest.fixture(scope="module")
def processes() -> Iterator[ConcurrentJobExecutor]:
    """An executor for several tests."""
    with ConcurrentJobExecutor.make_processes(2) as executor:
        yield executor


def test_same_bits_as_inline(processes: ConcurrentJobExecutor) -> None:
    """Built-in and users' functions give the same bits as inline, with a ROI as well."""
    data = counts((12, 10, 16, 16))
    udfs = [StdDevUDF(), SumUDF(), SumSigUDF(), TileSum(), FrameMax()]

    def bits(context: Context, roi: Any) -> list[bytes]:
        dataset = context.load("memory", data=data, num_partitions=7)
        results = context.run_udf(dataset=dataset, udf=udfs, roi=roi)
        return [buffer.raw_data.tobytes() for result in results for buffer in result.values()]

    roi = np.random.default_rng(1).random((12, 10)) < 0.5
    with Context.make_with("inline") as inline:
        context = Context(executor=processes)
        for selected in (None, roi):
            assert bits(context, selected) == bits(inline, selected)


def test_parameters_are_mapped_once(processes: ConcurrentJobExecutor) -> None:
    """A large array is in memory once for all processes, which may write to what they see: it is theirs alone."""

    def look(params: Any, env: Any) -> tuple[int, float, int]:
        params[0] += 1
        lines = Path("/proc/self/smaps").read_text(encoding="ascii").splitlines()
        private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
        return os.getpid(), float(params.sum()), private

    params = np.ones(64 * 2**17)
    seen: dict[int, list[float]] = {}
    with processes.scatter(params) as handle:
        tasks = [CallTask(i, fn=look) for i in range(20)]
        for (pid, total, private), _ in processes.run_tasks(tasks, handle, "run", NoopCommHandler()):
            seen.setdefault(pid, []).append(total)
            assert private < 64 * 1024, "a process has a copy of its own, in KiB"
    for totals in seen.values():
        assert sorted(totals) == [len(params) + 1 + i for i in range(len(totals))]
    assert params[0] == 1


def test_short_tasks_share_a_job(processes: ConcurrentJobExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of short tasks need far fewer jobs than tasks."""
    jobs = []
    submit = processes.client.submit

    def count(*args: Any, **kwargs: Any) -> Future[Any]:
        jobs.append(args)
        return submit(*args, **kwargs)

    monkeypatch.setattr(processes.client, "submit", count)
    with processes.scatter(None) as handle:
        n = sum(1 for _ in processes.run_tasks((FakeTask(i) for i in range(5000)), handle, "r", NoopCommHandler()))
    assert n == 5000
    assert 0 < len(jobs) < 2500


def test_stubborn_function_is_left_behind(
    processes: ConcurrentJobExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error surfaces although another call does not stop; its process is there again when it does."""
    signals = Signals(str(tmp_path))

    def work(i: int) -> None:
        if i == 0:
            signals.add("started")
            signals.wait("release")
        else:
            signals.wait("started")
            msg = "the other one"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="the other one"):
        processes.map(work, [0, 1])
    assert "did not stop" in caplog.text
    assert processes.run_function(abs, -1) == 1
    assert processes.map(abs, range(300)) == list(range(300))
    signals.add("release")
    assert len(set(processes.run_each_worker(os.getpid).values())) == 2


def test_stubborn_task_is_killed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own that does not stop is killed when the executor closes."""
    monkeypatch.setattr("tilework.executor.concurrent.STOP_GRACE_SECONDS", 0.1)
    signals = Signals(str(tmp_path))
    executor = ConcurrentJobExecutor.make_processes(1)
    pid = executor.run_function(os.getpid)
    task = BlockTask(0, signals=signals, stubborn=True)

    def run() -> None:
        with executor.scatter(None) as handle, suppress(ExecutorError, JobCancelledError):
            list(executor.run_tasks([task], handle, "run", NoopCommHandler()))

    thread = threading.Thread(target=run)
    thread.start()
    signals.wait("started")
    executor.close()
    thread.join()
    assert not psutil.pid_exists(pid)
    assert signals.count("done") == 0


def test_async_processes() -> None:
    """AsyncConcurrentJobExecutor makes processes as well."""

    async def main() -> list[int]:
        async with await AsyncConcurrentJobExecutor.make_processes(1) as executor:
            return list(await executor.map(abs, [-1, -2]))

    assert asyncio.run(main()) == [1, 2]


def test_report_names_pool_and_losses(tmp_path: Path) -> None:
    """The report names the kind of pool, and how often it was replaced."""
    with ConcurrentJobExecutor.make_processes(1) as executor, executor.scatter(None) as handle:
        task = KillTask(0, signals=Signals(str(tmp_path)))
        assert [r for r, _ in executor.run_tasks([task], handle, "run", NoopCommHandler())] == [0]
        report = executor.report()
    assert report["limits"]["pool"] == "SpawnedProcesses"
    assert report["limits"]["pools_replaced"] == 1
    assert report["losses"] == 1


def test_same_bits_after_losses() -> None:
    """Processes that are killed at random in the middle of runs of UDFs change nothing in the results."""
    data = counts((24, 16, 16, 16))
    rng = random.Random(11)
    n_killed = 0
    with Context.make_with("inline") as inline:
        dataset = inline.load("memory", data=data, num_partitions=48)
        expected = [b.raw_data.tobytes() for r in inline.run_udf(dataset, [StdDevUDF(), TileSum()]) for b in r.values()]
    with ConcurrentJobExecutor.make_processes(2) as executor:
        context = Context(executor=executor)
        dataset = context.load("memory", data=data, num_partitions=48)
        while n_killed < 3:
            pids = executor.run_each_worker(os.getpid)
            run = context.submit_udf(dataset, [StdDevUDF(), TileSum()])
            time.sleep(rng.random() * 0.05)
            if not run.done():
                os.kill(rng.choice(list(pids.values())), signal.SIGKILL)
                n_killed += 1
            assert [b.raw_data.tobytes() for r in run.result(60) for b in r.values()] == expected
