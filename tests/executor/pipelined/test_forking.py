"""Tasks that fork, and programs that fork while they have an executor."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipelined_harness import PipelinedHarness
from tilework.exceptions import ExecutorError
from tilework.testing.faults import CallTask, EchoTask

if TYPE_CHECKING:
    from tilework.executor.pipelined import PipelinedExecutor


def open_descriptors() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


class TestForking(PipelinedHarness):
    @pytest.mark.parametrize(("ending", "status"), [("returns", 0), ("exits", 3), ("says why", 1), ("raises", 1)])
    def test_a_task_that_forks(self, executor: PipelinedExecutor, ending: str, status: int) -> None:
        """A child that comes back from the task is no worker: it ends as a program does, and its parent answers."""

        def fork(i: int) -> int:
            pid = os.fork()
            if pid == 0:
                if ending == "raises":
                    msg = "in the child"
                    raise ValueError(msg)
                if ending != "returns":
                    raise SystemExit({"exits": 3, "says why": "because"}[ending])
                return -1
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        assert executor.map(fork, range(8)) == [status] * 8
        self.assert_usable(executor)

    def test_forked_parent(self, executor: PipelinedExecutor) -> None:
        """A process that is forked from the main process can neither use nor harm the executor."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                executor.run_function(abs, -1)
            except ExecutorError as error:
                code = 0 if "forked" in str(error) else 2
            finally:
                executor.close()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        self.assert_usable(executor)

    def test_fork_after_close(self, nothing_left: None) -> None:
        """A process that is forked when an executor is closed, but not forgotten, does not close what others opened."""
        executor = self.make_executor()
        before = set(open_descriptors())
        executor.close()
        numbers = before - set(open_descriptors())
        assert len(numbers) > 6
        reused = [os.open(os.devnull, os.O_RDONLY) for _ in range(max(numbers))]
        pid = os.fork()
        if pid == 0:
            os._exit(len(set(reused) - set(open_descriptors())))
        for fd in reused:
            os.close(fd)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "descriptors were closed"

    def test_a_fork_releases_no_results(self, executor: PipelinedExecutor) -> None:
        """Results lie in shared memory: what a forked process has no use for any more, the other one still has."""

        def results(number: int) -> list[Any]:
            tasks = [CallTask(i, fn=lambda _, __: np.full(1 << 15, number)) for i in range(8)]
            return self.run(executor, tasks)

        first = results(1)
        pid = os.fork()
        if pid == 0:
            first.clear()
            gc.collect()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for number in range(2, 20):
            assert all((array == number).all() for array in results(number))
        assert all((array == 1).all() for array in first)

    def test_results_of_a_fork_are_its_own(self, executor: PipelinedExecutor) -> None:
        """What one process does with results that both have is not seen by the other one, nor what comes after them."""

        def results(number: int) -> list[Any]:
            tasks = [CallTask(i, fn=lambda _, __: np.full((1 << 15) + 3, number)) for i in range(8)]
            return self.run(executor, tasks)

        first = results(1)
        (here, child_there), (child_here, there) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            is_as_before = True
            for array in first:
                is_as_before &= bool((array == 1).all())
                array[::2] = 2
            os.write(child_there, b"written")
            os.read(child_here, 1)
            is_as_before &= all((array[::2] == 2).all() and (array[1::2] == 1).all() for array in first)
            os._exit(0 if is_as_before else 1)
        os.read(here, 1)
        assert all((array == 1).all() for array in first)
        first.clear()
        for number in range(2, 20):
            results(number)
        os.write(there, b"overwritten")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for fd in (here, child_there, child_here, there):
            os.close(fd)

    def test_forks_in_mid_run(self, executor: PipelinedExecutor) -> None:
        """Threads of the executor may be anywhere, with any lock, when another one forks: the new process lives."""
        stop = threading.Event()

        def work(number: int) -> None:
            while not stop.is_set():
                assert self.run(executor, [EchoTask(i) for i in range(20)], cancel_id=number)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(100):
                pid = os.fork()
                if pid == 0:
                    os._exit(7)
                until = time.monotonic() + 20
                while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
                    if time.monotonic() > until:
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                        pytest.fail("a forked process waits for a lock")
                    time.sleep(0.001)
                assert os.waitstatus_to_exitcode(ended[1]) == 7
        finally:
            stop.set()
            for thread in threads:
                thread.join()
