"""The contract of a run that does not end by itself: cancel, deadline, consumers that leave.

Interrupts, and executors that are closed, or not, are parts of it with files of their own.
"""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from tilework.common.executor import JobExecutor, NoopCommHandler
from tilework.exceptions import DeadlineExceededError, JobCancelledError
from tilework.testing.executor_closing import ClosingContract
from tilework.testing.executor_interrupts import InterruptContract
from tilework.testing.faults import (
    CallTask,
    EchoTask,
    EndlessTask,
    FakeTask,
    RaiseTask,
    SleepTask,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import Environment
    from tilework.testing.faults import Signals

__all__ = ["EndingContract"]


class ConsumerError(Exception):
    """Raised by consumers in these tests."""


class EndingContract(InterruptContract, ClosingContract):
    """After each of these the executor is ready, and nothing of the run goes on."""

    # ---- cancel and deadline ----

    def test_cancel(self, executor: JobExecutor, signals: Signals) -> None:
        """Cancelling stops the running tasks at their next tile, and drops the others."""

        def cancel() -> bool:
            signals.wait("started", self.parallelism)
            return executor.cancel("mine")

        endless = (EndlessTask(i, signals=signals) for i in count())
        with self.background() as call:
            cancelled = call(cancel)
            with pytest.raises(JobCancelledError, match="cancelled"):
                self.run(executor, endless, cancel_id="mine")
        assert cancelled.result() is True
        assert signals.count("started") == signals.count("stopped") == self.parallelism
        assert executor.cancel("mine") is False
        self.assert_usable(executor)

    def test_cancel_between_results(self, executor: JobExecutor) -> None:
        """A consumer that cancels its own run gets nothing more from it, not even what is ready."""
        with self.start(executor, [FakeTask(i) for i in range(50)], cancel_id="mine") as results:
            next(results)
            assert executor.cancel("mine")
            with pytest.raises(JobCancelledError):
                next(results)
            assert list(results) == []
        self.assert_usable(executor)

    def test_cancel_before_the_first_result(self, executor: JobExecutor, signals: Signals) -> None:
        """A run may be cancelled as soon as it was asked for."""
        with self.start(executor, [EndlessTask(0, signals=signals)], cancel_id="mine") as results:
            assert executor.cancel("mine")
            with pytest.raises(JobCancelledError):
                next(results)
        assert signals.count("started") == 0

    def test_cancel_one_of_two(self, executor: JobExecutor, signals: Signals) -> None:
        """Cancelling one run leaves the others alone; a name that no run has is no error."""
        assert executor.cancel("nobody") is False
        with (
            self.start(executor, [EchoTask(i) for i in range(50)], cancel_id="keep") as keep,
            self.start(executor, (FakeTask(i) for i in count()), cancel_id="drop") as drop,
        ):
            first = next(keep)[0]
            next(drop)
            assert executor.cancel("drop")
            assert sorted([first, *(result for result, _ in keep)]) == [(i, None) for i in range(50)]
            with pytest.raises(JobCancelledError):
                next(drop)

    def test_deadline(self, executor: JobExecutor, signals: Signals) -> None:
        """A run whose time is over stops its running tasks, and ends with an error that is also a TimeoutError."""
        with pytest.raises(DeadlineExceededError, match="longer than the time") as caught:
            self.run(executor, (EndlessTask(i, signals=signals) for i in count()), timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, JobCancelledError)
        assert signals.count("started") == signals.count("stopped")
        self.assert_usable(executor)

    def test_deadline_that_is_kept(self, executor: JobExecutor) -> None:
        """A run that is done in time is not disturbed, and neither is one whose consumer is late to notice."""
        assert sorted(self.run(executor, [FakeTask(i) for i in range(20)], timeout=600)) == list(range(20))

    @pytest.mark.parametrize("cancelled", [False, True])
    def test_a_task_cancels_its_run(self, executor: JobExecutor, cancelled: bool) -> None:
        """A task that finds its source interrupted ends the run with its own JobCancelledError."""
        error = JobCancelledError if cancelled else InterruptedError
        with pytest.raises(error, match="source is gone"):
            self.run(executor, [FakeTask(0), RaiseTask(1, make_error=lambda: error("source is gone"))])
        self.assert_usable(executor)

    # ---- consumers that leave ----

    @pytest.mark.parametrize("ordered", [False, True])
    def test_generator_closed_early(self, executor: JobExecutor, signals: Signals, ordered: bool) -> None:
        """Closing drops what is queued, and stops what runs, before close() returns."""

        def tasks() -> Iterator[FakeTask]:
            yield FakeTask(0)
            yield from (EndlessTask(i, signals=signals) for i in count(1))

        with self.start(executor, tasks(), ordered=ordered) as results:
            assert next(results)[0] == 0
            results.close()
            assert signals.count("started") == signals.count("stopped") <= self.parallelism
            results.close()
            assert list(results) == []
        self.assert_usable(executor)

    def test_generator_never_started(self, executor: JobExecutor) -> None:
        """A generator that nobody asks for anything holds nothing up, closed or just forgotten."""
        with executor.scatter(1) as handle:
            forgotten = executor.run_tasks([FakeTask(0)], handle, "forgotten", NoopCommHandler())
            closed = executor.run_tasks([FakeTask(0)], handle, "closed", NoopCommHandler())
            closed.close()
            del forgotten
            gc.collect()
        assert executor.cancel("forgotten") is False
        self.assert_usable(executor)

    @pytest.mark.parametrize("error", [ConsumerError, KeyboardInterrupt, SystemExit])
    def test_consumer_throws(self, executor: JobExecutor, signals: Signals, error: type[BaseException]) -> None:
        """What is thrown into the generator comes out of it, after the run was stopped."""

        def tasks() -> Iterator[FakeTask]:
            yield FakeTask(0)
            yield from (EndlessTask(i, signals=signals) for i in count(1))

        with self.start(executor, tasks()) as results:
            next(results)
            with pytest.raises(error, match="enough"):
                results.throw(error("enough"))
            assert signals.count("started") == signals.count("stopped")
        self.assert_usable(executor)

    def test_consumer_fails_in_its_loop(self, executor: JobExecutor, signals: Signals) -> None:
        """An error in the body of the consumer's loop ends the run when the generator goes away."""

        def consume() -> None:
            with self.start(executor, (SleepTask(i) for i in count())) as results:
                for _ in results:
                    msg = "in the loop"
                    raise ConsumerError(msg)

        with pytest.raises(ConsumerError):
            consume()
        self.assert_usable(executor)

    # ---- again and again ----

    def test_memory_is_flat(self, executor: JobExecutor) -> None:
        """Runs with a megabyte of parameters, of results and in an error, again and again, do not add up anywhere."""

        def used() -> int:
            gc.collect()
            total = 0
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            return total

        def fail(params: Any, env: Environment) -> None:
            raise ValueError(params + 1)

        def runs(n: int) -> None:
            for i in range(n):
                params = np.full(2**17, float(i))
                for index, got in self.run(executor, [EchoTask(k) for k in range(2)], params):
                    assert got[index] == i
                with pytest.raises(ValueError):  # noqa: PT011
                    self.run(executor, [CallTask(0, fn=fail)], params)

        runs(15)
        before = used()
        runs(45)
        assert used() - before < 20 * 2**20

    def test_repeated_runs_keep_nothing(self, executor: JobExecutor, signals: Signals) -> None:
        """After runs that ended in every way, neither parameters nor results nor errors are kept alive."""

        class Big:
            """Something that can be watched."""

        alive: list[weakref.ref[Any]] = []

        def watched() -> Big:
            big = Big()
            alive.append(weakref.ref(big))
            return big

        def fail(params: Any, env: Environment) -> None:
            raise ValueError(params)

        for i in range(12):
            params = watched() if self.shares_memory else None
            self.run(executor, [EchoTask(k) for k in range(3)], params)
            with pytest.raises(ValueError):  # noqa: PT011
                self.run(executor, [CallTask(0, fn=fail)], params)
            with self.start(executor, (EchoTask(k) for k in count()), params, ordered=bool(i % 2)) as results:
                next(results)
            if self.shares_memory:
                self.run(executor, [CallTask(0, fn=lambda p, e: watched())])
            del params, results
        gc.collect()
        assert [ref for ref in alive if ref() is not None] == []
