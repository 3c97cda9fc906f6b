"""The contract of an executor's end: closed in good order, in the middle of a run, or never."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tilework.common.executor import NoopCommHandler, TaskCommHandler
from tilework.exceptions import ExecutorError, JobCancelledError
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import EndlessTask, FakeTask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tilework.testing.faults import Signals

__all__ = ["ClosingContract"]


class ClosingContract(ExecutorHarness):
    """After each of these nothing is left."""

    def test_closed_executor(self, nothing_left: None) -> None:
        """Closing twice is fine; afterwards all work is refused with an ExecutorError."""
        with self.make_executor() as executor, executor.scatter(1) as handle:
            self.assert_usable(executor)
            executor.close()
            executor.close()
            refused: list[Callable[[], Any]] = [
                lambda: executor.run_tasks([FakeTask()], handle, "run", NoopCommHandler()),
                lambda: executor.run_function(abs, -1),
                lambda: executor.map(abs, [-1]),
                lambda: executor.run_each_host(abs, -1),
                lambda: executor.run_each_worker(abs, -1),
                lambda: list(executor.run_each_partition([], abs)),
                lambda: executor.scatter(1).__enter__(),
                lambda: executor.scatter_update(handle, 2),
                lambda: executor.scatter_update_patch(handle, 2),
            ]
            for call in refused:
                with pytest.raises(ExecutorError, match="closed"):
                    call()
            assert executor.cancel("run") is False
            assert executor.report()["closed"] is True

    def test_closed_in_the_middle_of_a_run(self, nothing_left: None, signals: Signals) -> None:
        """Closing from another thread ends a run with JobCancelledError, and stops its tasks."""
        executor = self.make_executor()

        def close() -> None:
            signals.wait("started", self.parallelism)
            executor.close()

        endless = (EndlessTask(i, signals=signals) for i in count())
        with self.background() as call:
            closing = call(close)
            with pytest.raises(JobCancelledError, match="closed"):
                self.run(executor, endless)
            closing.result()
        assert signals.count("started") == signals.count("stopped")

    def test_closed_as_a_run_begins(self, nothing_left: None) -> None:
        """A handler that closes the executor before the first task has cancelled its run."""
        executor = self.make_executor()

        class Closes(TaskCommHandler):
            def start(self) -> None:
                executor.close()

        with pytest.raises(JobCancelledError, match="closed"):
            self.run(executor, [FakeTask()], handler=Closes())

    @pytest.mark.parametrize("how", ["idle", "in a run", "generator closed"])
    def test_exit_without_close(self, how: str, tmp_path: Path) -> None:
        """An interpreter that exits without closing its executor does exit, quietly, also in the middle of a run."""
        script = textwrap.dedent(self.make_code) + textwrap.dedent(
            f"""
            import sys
            from itertools import chain, count
            from tilework.common.executor import NoopCommHandler
            from tilework.testing.faults import EndlessTask, FakeTask, Signals
            endless = (EndlessTask(i, signals=Signals({str(tmp_path)!r})) for i in count(1))
            block = executor.scatter(1)
            handle = block.__enter__()
            run = executor.run_tasks(chain([FakeTask(0)], endless), handle, "run", NoopCommHandler())
            how = {how!r}
            if how != "idle":
                next(run)
            if how == "generator closed":
                run.close()
            sys.stdout.write("bye")
            """
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "bye", ""), done
