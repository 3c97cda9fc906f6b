"""The hub's thread, which all messages pass: nothing ends it, holds it up, or has it wait for itself."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pipelined_harness import PipelinedHarness
from tests_helpers import collecting_by_hand, leave_run
from tilework.exceptions import ExecutorError, JobCancelledError
from tilework.testing.faults import TILE_SECONDS, CallTask, SleepTask

if TYPE_CHECKING:
    from tilework.common.executor import Environment
    from tilework.executor.pipelined import PipelinedExecutor
    from tilework.testing.faults import Signals


def talk_at_the_end(signals: Signals, params: Any, env: Environment) -> None:
    """Send more messages than a line takes, when the run has been cancelled."""
    signals.add("started")
    try:
        while True:
            env.raise_if_stopped()
            time.sleep(TILE_SECONDS)
    finally:
        assert env.worker_context is not None
        for _ in range(5000):
            env.worker_context.signal("part", "topic", {})


class TestHub(PipelinedHarness):
    def test_an_error_in_the_hub_costs_nothing_else(
        self, executor: PipelinedExecutor, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither a request that fails nor nonsense from a worker keeps others from being heard."""

        def work(params: Any, env: Environment) -> int:
            if not signals.count("said"):
                signals.add("said")
                context: Any = env.worker_context
                context._messages._wire.send(b"nonsense")
            return 5

        def fail() -> None:
            raise ZeroDivisionError

        executor._hub.request(fail)
        tasks = [CallTask(i, fn=work if i == 3 else lambda *_: 5) for i in range(20)]
        assert self.run(executor, tasks) == [5] * 20
        assert caplog.text.count("an error in the hub") == 2
        # The run may be over before the process is.
        until = time.monotonic() + 10
        while "something that it sent could not be taken" not in str(executor.report()["events"]):
            assert time.monotonic() < until, executor.report()["events"]
            time.sleep(0.01)

    def test_subscribers_that_wait_or_end_the_thread(self, executor: PipelinedExecutor) -> None:
        """One that waits for the executor which has called it is told so; and none ends the thread of the hub."""
        told: list[str] = []

        def wait(*_: Any) -> None:
            try:
                executor.run_function(abs, -1)
            except ExecutorError as error:
                told.append(str(error))

        def leave(*_: Any) -> None:
            sys.exit("on purpose")

        executor.subscribe("worker_lost", wait)
        executor.subscribe("worker_lost", leave)
        self.kill_worker(self.worker_pids(executor)[0])
        self.assert_usable(executor)
        assert len(told) == 1
        assert "let another thread do that" in told[0]

    def test_handlers_of_log_messages_that_raise(self, executor: PipelinedExecutor) -> None:
        """As one whose window is gone: what a worker writes, its loss and the end of the executor are logged."""

        class Gone(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise SystemExit(record.getMessage())

        handler, logger = Gone(), logging.getLogger("tilework")
        logger.addHandler(handler)
        try:
            executor.run_each_worker(os.write, 2, b"a warning\n")
            self.kill_worker(self.worker_pids(executor)[0])
            self.assert_usable(executor)
            executor.close()
        finally:
            logger.removeHandler(handler)
        assert executor._hub._is_over

    def test_the_hub_does_not_wait_for_itself(self, executor: PipelinedExecutor) -> None:
        """A run that nobody has any more may be found by the garbage collector in the hub's own thread."""

        with collecting_by_hand(), executor.scatter(None) as handle:
            leave_run(executor, handle, [SleepTask(i) for i in range(10)])
            start = time.monotonic()
            executor._hub.request(gc.collect)  # type: ignore[arg-type]
            self.assert_usable(executor)
            while executor.cancel("left"):
                assert time.monotonic() - start < 5

    def test_closed_while_a_worker_has_much_to_say(
        self, executor: PipelinedExecutor, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It does not wait until somebody listens, which nobody does any more, and so need not be killed."""
        with self.background() as submit:
            done = submit(self.run, executor, [CallTask(0, fn=partial(talk_at_the_end, signals))])
            signals.wait("started")
            executor.close()
            with pytest.raises(JobCancelledError, match="closed"):
                done.result(10)
        assert not [record for record in caplog.records if "did not end within" in record.message]
