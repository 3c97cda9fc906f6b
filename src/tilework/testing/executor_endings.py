"""The contract of a run that does not end by itself: errors, cancel, deadline, interrupts, consumers that leave."""

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
import traceback
import weakref
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tilework.common.executor import JobExecutor, NoopCommHandler
from tilework.exceptions import DeadlineExceededError, ExecutorError, JobCancelledError, RemoteError
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import (
    BlockTask,
    CallTask,
    EchoTask,
    EndlessTask,
    FakeTask,
    RaiseTask,
    SleepTask,
    UnpicklableError,
    raise_here,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tilework.common.executor import Environment
    from tilework.testing.faults import Signals

__all__ = ["EndingContract"]


class ConsumerError(Exception):
    """Raised by consumers in these tests."""


def _main_error() -> Exception:
    """Return an exception of a class that a notebook would define."""
    return type("NotebookError", (Exception,), {"__module__": "__main__"})("from a cell")  # type: ignore[no-any-return]


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

    # ---- errors ----

    @pytest.mark.parametrize("ordered", [False, True])
    def test_error_of_a_task(self, executor: JobExecutor, ordered: bool) -> None:
        """It arrives with its type, message and the traceback of the place where it was raised."""
        tasks = [FakeTask(0), RaiseTask(1, make_error=lambda: ValueError("on purpose")), FakeTask(2)]
        with pytest.raises(ValueError, match="on purpose") as caught:
            self.run(executor, tasks, ordered=ordered)
        assert type(caught.value) is ValueError
        assert raise_here.__name__ in "".join(traceback.format_exception(caught.value))
        self.assert_usable(executor)

    def test_error_of_a_class_from_main(self, executor: JobExecutor) -> None:
        """The class may be defined where other processes cannot import it."""
        with pytest.raises(Exception, match="from a cell") as caught:
            self.run(executor, [RaiseTask(0, make_error=_main_error)])
        assert type(caught.value).__name__ == "NotebookError"
        self.assert_usable(executor)

    def test_error_of_a_class_from_a_function(self, executor: JobExecutor) -> None:
        """The class may be local to a function, and known to the consumer."""

        class LocalError(KeyError):
            pass

        with pytest.raises(KeyError, match="local") as caught:
            self.run(executor, [RaiseTask(0, make_error=lambda: LocalError("local"))])
        assert type(caught.value).__name__ == "LocalError"
        self.assert_usable(executor)

    def test_error_that_cannot_be_pickled(self, executor: JobExecutor) -> None:
        """It arrives as itself, or as a RemoteError with its type, text and traceback; never as something else."""
        with pytest.raises((UnpicklableError, RemoteError), match="this cannot be pickled") as caught:
            self.run(executor, [FakeTask(0), RaiseTask(1, make_error=UnpicklableError)])
        if self.shares_memory:
            assert type(caught.value) is UnpicklableError
        text = "".join(traceback.format_exception(caught.value))
        assert "UnpicklableError" in text
        assert raise_here.__name__ in text
        self.assert_usable(executor)

    def test_first_error_wins(self, executor: JobExecutor, signals: Signals) -> None:
        """One error ends an endless run at once, running tasks included, and nothing more of it begins."""

        def tasks() -> Iterator[FakeTask]:
            yield from (EndlessTask(i, signals=signals) for i in range(self.parallelism - 1))
            yield RaiseTask(self.parallelism, make_error=lambda: ValueError("the first"))
            yield from (CallTask(i, fn=lambda p, e: signals.add("later")) for i in count(self.parallelism + 1))

        with pytest.raises(ValueError, match="the first"):
            self.run(executor, tasks())
        assert signals.count("started") == signals.count("stopped")
        later = signals.count("later")
        self.assert_usable(executor)
        assert signals.count("later") == later

    def test_every_task_fails(self, executor: JobExecutor) -> None:
        """When all fail, the error is that of one of them, and only that one is raised."""
        tasks = [RaiseTask(i, make_error=lambda i=i: ValueError(f"number {i}")) for i in range(100)]  # type: ignore[misc]
        with pytest.raises(ValueError, match=r"^number \d+$"):
            self.run(executor, tasks)
        self.assert_usable(executor)

    def test_error_of_the_iterator(self, executor: JobExecutor) -> None:
        """An error of the iterator of tasks surfaces as it is."""

        def tasks() -> Iterator[FakeTask]:
            yield FakeTask(0)
            msg = "no more tasks"
            raise LookupError(msg)

        with pytest.raises(LookupError, match="no more tasks"):
            self.run(executor, tasks())
        self.assert_usable(executor)

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

    # ---- again and again ----

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
        assert (done.returncode, done.stdout, done.stderr) == (0, "bye", "")
