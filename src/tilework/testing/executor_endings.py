"""The contract of a run that does not end by itself: cancel, deadline, interrupts, consumers that leave."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from tilework.common.executor import JobExecutor, NoopCommHandler
from tilework.exceptions import DeadlineExceededError, ExecutorError, JobCancelledError
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import (
    BlockTask,
    CallTask,
    EchoTask,
    EndlessTask,
    FakeTask,
    RaiseTask,
    SleepTask,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tilework.common.executor import Environment
    from tilework.testing.faults import Signals

__all__ = ["EndingContract"]


class ConsumerError(Exception):
    """Raised by consumers in these tests."""


def _send_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def _ctrl_c_is_heard() -> Iterator[threading.Event]:
    """Let SIGINT raise KeyboardInterrupt only while the event is set: a test says where it may hit."""
    heard = threading.Event()
    heard.set()

    def on_sigint(*_: object) -> None:
        if heard.is_set():
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, on_sigint)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, previous)


class EndingContract(ExecutorHarness):
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

    @pytest.mark.skipif(sys.platform == "win32", reason="signals to a thread")
    def test_ctrl_c(self, executor: JobExecutor, signals: Signals) -> None:
        """A KeyboardInterrupt while a result is waited for ends the run, and comes out of the generator."""
        assert threading.current_thread() is threading.main_thread()

        def interrupt() -> None:
            signals.wait("started", self.parallelism)
            _send_ctrl_c()

        with self.background() as call, self.start(executor, (EndlessTask(i, signals=signals) for i in count())) as run:
            interrupter = call(interrupt)
            with pytest.raises(KeyboardInterrupt):
                next(run)
            interrupter.result()
            assert signals.count("started") == signals.count("stopped")
        self.assert_usable(executor)

    @pytest.mark.skipif(sys.platform == "win32", reason="signals to a thread")
    def test_second_ctrl_c_does_not_wait(self, executor: JobExecutor, signals: Signals) -> None:
        """When a running task ignores that its run has ended, a second KeyboardInterrupt leaves it behind."""

        def interrupt() -> None:
            signals.wait("started", self.parallelism)
            _send_ctrl_c()
            # Time enough to reach the wait for the running tasks. If it were not, that wait would take longer, no more.
            time.sleep(0.5)
            _send_ctrl_c()

        stubborn = (BlockTask(i, signals=signals, stubborn=True) for i in count())
        with self.background() as call, self.start(executor, stubborn) as run:
            with _ctrl_c_is_heard() as heard:
                interrupter = call(interrupt)
                with pytest.raises(KeyboardInterrupt):
                    next(run)
                heard.clear()
                interrupter.result()
            assert signals.count("done") == 0, "it waited for a task that does not stop"
            signals.add("release")
        self.assert_usable(executor)

    # Python reports an interrupt that hits a destructor, and goes on.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.skipif(sys.platform == "win32", reason="signals to a thread")
    def test_ctrl_c_at_any_time(self, executor: JobExecutor) -> None:
        """Wherever a KeyboardInterrupt hits a run, the executor is usable afterwards, and other runs go on."""
        rng = random.Random(3)
        over, go = threading.Event(), threading.Event()

        def others() -> None:
            while not over.is_set():
                got = self.run(executor, [SleepTask(i, seconds=0.001) for i in range(10)], cancel_id="other")
                assert sorted(got) == list(range(10))

        def interrupt(delay: float) -> None:
            go.wait()
            time.sleep(delay)
            _send_ctrl_c()

        def interrupted_run() -> None:
            with suppress(KeyboardInterrupt):
                heard.set()
                go.set()
                with self.start(executor, (FakeTask(i) for i in range(200))) as results:
                    list(results)
                executor.run_function(abs, -1)
                heard.clear()

        with self.background() as call, _ctrl_c_is_heard() as heard:
            other = call(others)
            try:
                for _ in range(40):
                    heard.clear()
                    go.clear()
                    interrupter = call(interrupt, rng.random() * 0.005)
                    interrupted_run()
                    interrupter.result()
            finally:
                over.set()
            other.result()
        self.assert_usable(executor)

    @pytest.mark.skipif(sys.platform == "win32", reason="process groups")
    def test_ctrl_c_in_a_terminal(self, signals: Signals) -> None:
        """Ctrl-C reaches all processes of a terminal at once: it ends the run, never a worker, busy or idle."""
        script = textwrap.dedent(self.make_code) + textwrap.dedent(
            f"""
            import sys, time
            from itertools import count
            from tilework.common.executor import NoopCommHandler
            from tilework.testing.faults import EndlessTask, FakeTask, Signals
            signals = Signals({signals.folder!r})
            with executor.scatter(1) as handle:
                def look():
                    results = executor.run_tasks([FakeTask(i) for i in range(9)], handle, "run", NoopCommHandler())
                    return sorted(result for result, _ in results) == list(range(9)) and executor.run_function(abs, -1)
                run = executor.run_tasks(
                    (EndlessTask(i, signals=signals) for i in count()), handle, "run", NoopCommHandler()
                )
                try:
                    next(run)
                except KeyboardInterrupt:
                    sys.stdout.write(f"in a run: {{look()}}; ")
                try:
                    signals.add("idle")
                    time.sleep(60)
                except KeyboardInterrupt:
                    sys.stdout.write(f"idle: {{look()}}; ")
            sys.stdout.write(f"losses: {{executor.report()['losses']}}")
            executor.close()
            """
        )
        program = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
        try:
            signals.wait("started", self.parallelism)
            os.killpg(program.pid, signal.SIGINT)
            signals.wait("idle")
            time.sleep(0.05)  # until it sleeps; an interrupt that comes before is reported as one, by the output
            os.killpg(program.pid, signal.SIGINT)
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()
            program.wait()
        assert (program.returncode, out, err) == (0, "in a run: 1; idle: 1; losses: 0", "")
        assert signals.count("started") == signals.count("stopped")

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

    # ---- closing ----

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
