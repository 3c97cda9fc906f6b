"""A process that is forked from one with an executor neither hangs on it nor harms it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.common.executor import NoopCommHandler
from tilework.exceptions import ExecutorError
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.dask import DaskJobExecutor
from tilework.executor.delayed import DelayedJobExecutor
from tilework.executor.inline import InlineJobExecutor
from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.faults import SleepTask
from tilework.udf import UDF

if TYPE_CHECKING:
    from collections.abc import Callable

MAKERS = {
    "inline": InlineJobExecutor,
    "delayed": DelayedJobExecutor,
    "threads": ConcurrentJobExecutor.make_local,
    "processes": lambda: ConcurrentJobExecutor.make_processes(1),
    "pipelined": PipelinedExecutor.make_local,
    "dask": DaskJobExecutor.make_local,
}
WORKS_IN_FORKS = {"inline", "delayed"}


def in_fork(call: Callable[[], str]) -> str:
    """Return what a function returns in a process that is forked, and must end soon."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(there, call().encode())
        finally:
            os._exit(0)
    os.close(there)
    until = time.monotonic() + 20
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the forked process hangs")
        time.sleep(0.002)
    with os.fdopen(here, "rb") as pipe:
        return pipe.read().decode()


@pytest.mark.parametrize("name", MAKERS)
def test_forked_process(name: str) -> None:
    make: Any = MAKERS[name]
    with make() as executor:
        assert executor.run_function(abs, -1) == 1

        def use() -> str:
            try:
                result = str(executor.run_function(abs, -2))
            except ExecutorError as error:
                result = str(error)
            executor.close()
            return result

        told = in_fork(use)
        assert told == "2" if name in WORKS_IN_FORKS else "forked from: make a new one" in told
        assert executor.run_function(abs, -3) == 3


@pytest.mark.parametrize("name", sorted(set(MAKERS) - WORKS_IN_FORKS))
def test_run_that_is_closed_in_a_fork(name: str) -> None:
    """A generator that the forked process has a copy of ends there, and goes on here."""
    make: Any = MAKERS[name]
    with make() as executor, executor.scatter("params") as handle:
        tasks = [SleepTask(i, seconds=0.005) for i in range(100)]
        run = executor.run_tasks(tasks, handle, "run", NoopCommHandler())
        results = [next(run)[0]]

        def close() -> str:
            told = str(executor.cancel("run"))
            run.close()
            return told

        assert in_fork(close) == "False"
        results += [result for result, _ in run]
        assert sorted(results) == list(range(100))


@pytest.mark.parametrize("name", sorted(set(MAKERS) - WORKS_IN_FORKS))
def test_run_that_a_fork_goes_on_with(name: str) -> None:
    """It has no workers there, whether it has begun or not, and waits for none; here it goes on."""
    make: Any = MAKERS[name]
    with make() as executor, executor.scatter("params") as handle:
        tasks = [SleepTask(i, seconds=0.005) for i in range(20)]
        begun, new = (executor.run_tasks(tasks, handle, each, NoopCommHandler()) for each in ("begun", "new"))
        results = [next(begun)[0]]

        def go_on() -> str:
            told = []
            for run in (begun, new):
                with pytest.raises(ExecutorError) as caught:
                    next(run)
                told.append(str(caught.value))
            return "\n".join(told)

        assert in_fork(go_on).count("forked from: make a new one") == 2
        results += [result for result, _ in begun]
        assert sorted(results) == sorted(result for result, _ in new) == list(range(20))


def test_a_fork_does_not_wait_for_a_run() -> None:
    """Nobody drives it there, so that it would never be over; here it goes on."""
    with Context.make_with("inline") as ctx:
        run = ctx.submit_udf(dataset=ctx.load("memory", data=np.ones((2, 3, 4, 5))), udf=_WaitsForEvent())

        def wait() -> str:
            with pytest.raises(ExecutorError) as caught:
                run.result()
            return str(caught.value)

        try:
            assert "in the process that this one was forked from" in in_fork(wait)
        finally:
            _go.set()
        assert run.result(timeout=60)["sum"].data.sum() == 120
        assert in_fork(lambda: str(run.result()["sum"].data.sum())) == "120.0"


_go = threading.Event()


class _WaitsForEvent(UDF):
    def get_result_buffers(self) -> Any:
        return {"sum": self.buffer(kind="nav", dtype=float)}

    def process_frame(self, frame: Any) -> None:
        assert _go.wait(60)
        self.results.sum[:] = frame.sum()


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"processes"}))  # a pool of Python, which has its own words
def test_forked_process_exits(name: str, tmp_path: Path) -> None:
    """It ends as every program does, at once and without a word, and the workers of its parent go on."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_forks import MAKERS

if __name__ == "__main__":
    with MAKERS[{name!r}]() as executor:
        before = executor.run_each_worker(os.getpid)
        pid, start = os.fork(), time.monotonic()
        if pid == 0:
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert time.monotonic() - start < 5, "it was waited for"
        time.sleep(0.3)
        assert executor.run_each_worker(os.getpid) == before
        assert executor.run_function(abs, -1) == 1
"""
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
