"""The contract of Ctrl-C: it ends a run, never the executor."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import BlockTask, EndlessTask, FakeTask, SleepTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import JobExecutor
    from tilework.testing.faults import Signals

__all__ = ["InterruptContract"]


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


class InterruptContract(ExecutorHarness):
    """After each of these the executor is ready, and nothing of the run goes on."""

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
