"""Data that is streamed to tasks: in order, whole, there again when a worker is lost."""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stream_tasks import ReadTask, Source, StreamHarness
from tests_helpers import collecting_by_hand, leave_run
from tilework.common.executor import TaskCommHandler, WorkerQueueEmpty
from tilework.exceptions import ExecutorError, JobCancelledError
from tilework.executor.driver import STOP_GRACE_SECONDS
from tilework.testing.faults import CallTask, FakeTask, Signals, SleepTask, StreamHandler, StreamTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.executor import Environment, WorkerQueue
    from tilework.executor.pipelined import PipelinedExecutor


class KindsTask(ReadTask):
    """Returns for each item its header, whether its payload is bytes, and the payload."""

    def __call__(self, params: Any, env: Environment) -> Any:
        assert env.worker_context is not None
        queue = env.worker_context.get_worker_queue()
        got: list[tuple[Any, bool, bytes | None]] = []
        while True:
            with queue.get() as (header, payload):
                if header == "end":
                    return got
                got.append((header, isinstance(payload, bytes), None if payload is None else bytes(payload)))


def ready_pids(executor: PipelinedExecutor) -> set[int]:
    return {process["pid"] for process in executor.report()["processes"] if process["state"] == "ready"}


def after_a_moment(value: Any) -> Any:
    time.sleep(0.02)
    return value


class Slowly:
    """Takes a moment to be unpickled."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return after_a_moment, (self.value,)


class SlowlyTask(ReadTask):
    """Returns what takes a moment to be unpickled, while other threads have the interpreter."""

    def __call__(self, params: Any, env: Environment) -> Any:
        return Slowly(super().__call__(params, env))


class TestStreams(StreamHarness):
    @pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
    def test_all_of_it_arrives_in_order(self, executor: PipelinedExecutor, signals: Signals, size: int) -> None:
        source = Source(size=max(4, size))
        got = self.run(executor, [ReadTask(i, signals=signals) for i in range(12)], handler=source, ordered=True)
        assert got == self.expect(12, source)

    def test_many_small_items(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """More for one task than there may be blocks in the shared memory."""
        source = Source(n=70_000, size=4)
        assert self.run(executor, [ReadTask(0, signals=signals)], handler=source) == self.expect(1, source)

    def test_headers(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """Any object that can be pickled, with and without payload; None, too."""
        headers = [None, "text", {"frame": 3, "time": 1.5}, (None,), b"", 0]

        class Headers(TaskCommHandler):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                for header in headers:
                    queue.put(header, memoryview(b"four"))
                queue.put("end")

        assert self.run(executor, [ReadTask(0, signals=signals)], handler=Headers()) == [(0, headers, 24)]

    def test_bytes_arrive_as_bytes(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """What was put as bytes is the reader's own; all else is a view of shared memory."""
        headers = ["text", None, b"b", ""]

        class Kinds(TaskCommHandler):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                for header in headers:
                    queue.put(header, b"four")
                    queue.put(header, memoryview(b"four"))
                    queue.put(header, b"")
                    queue.put(header)
                queue.put("end")

        each = [(True, b"four"), (False, b"four"), (True, b""), (False, None)]
        expected = [(header, *kind) for header in headers for kind in each]
        assert self.run(executor, [KindsTask(0, signals=signals)], handler=Kinds()) == [expected]

    def test_payloads_of_all_kinds(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """Arrays of any layout arrive as their values in C order; sizes may be numbers of numpy."""
        numbers = np.arange(12, dtype="u2").reshape(3, 4)
        read_only = numbers.copy()
        read_only.flags.writeable = False
        payloads: list[Any] = [
            *(numbers, numbers[:, ::2], numbers.T, read_only, numbers.astype(">u2"), numbers[:0], np.empty(0)),
            *(np.array(5), numbers.astype("f4,i2"), bytearray(b"four"), memoryview(b"")),
        ]

        class Kinds(TaskCommHandler):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                for payload in payloads:
                    queue.put("put", payload)
                with queue.put_nocopy("nocopy", np.int64(3)) as view:  # type: ignore[arg-type]
                    view[:] = b"abc"
                for size in (-1, 1.5):
                    try:
                        queue.put_nocopy("never", size)  # type: ignore[arg-type]
                    except (TypeError, ValueError) as error:
                        queue.put(type(error).__name__)
                queue.put("end")

        expected: list[Any] = [("put", False, np.asarray(payload).tobytes()) for payload in payloads]
        expected += [("nocopy", False, b"abc"), ("ValueError", False, None), ("TypeError", False, None)]
        assert self.run(executor, [KindsTask(0, signals=signals)], handler=Kinds()) == [expected]

    def test_a_consumer_that_is_away_while_a_worker_dies(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """The ticket that it gives out first when it comes back waits for those that it gives out next."""
        source = Source(n=3, size=10)
        tasks = [SlowlyTask(i, signals=signals) for i in range(12)]
        tasks[0] = SlowlyTask(0, signals=signals, die_after=1, lives=1, die_when="away")
        with self.start(executor, tasks, handler=source) as results:
            got = [next(results)[0]]
            before = ready_pids(executor)
            signals.add("away")
            until = time.monotonic() + 20
            while ready_pids(executor) == before or len(ready_pids(executor)) < 2:
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(0.2)
            got += [result for result, _ in results]
        assert sorted(got) == self.expect(12, source)

    def test_a_handler_that_forks(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """The child cannot put anything: it would write over what is on its way to tasks."""
        statuses: list[int] = []

        def fork(task: int, item: int) -> None:
            if item:
                return
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    queues[-1].put("header", b"payload")
                except ExecutorError as error:
                    status = 2 if "belongs to the process" in str(error) else 3
                finally:
                    os._exit(status)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        queues: list[WorkerQueue] = []

        class Forks(Source):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                queues.append(queue)
                super().handle_task(task, queue)

        source = Forks(pause=fork)
        got = self.run(executor, [ReadTask(i, signals=signals) for i in range(3)], handler=source, ordered=True)
        assert got == self.expect(3, source)
        assert statuses == [2] * 3

    @pytest.mark.parametrize(("ends", "code"), [("returns", 0), ("raises", 1)])
    def test_a_handler_that_forks_and_lets_the_child_come_back(
        self, executor: PipelinedExecutor, signals: Signals, ends: str, code: int
    ) -> None:
        """That ends, as nobody in it goes on with the run."""
        children: list[int] = []

        class Forks(Source):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                child = os.fork()
                if child:
                    children.append(os.pidfd_open(child))
                    super().handle_task(task, queue)
                elif ends == "raises":
                    raise ValueError

        source = Forks(n=2)
        assert self.run(executor, [ReadTask(0, signals=signals)], handler=source) == self.expect(1, source)
        (child,) = children
        try:
            has_ended = bool(select.select([child], [], [], 20)[0])
            if not has_ended:
                signal.pidfd_send_signal(child, signal.SIGKILL)
            end = os.waitid(os.P_PIDFD, child, os.WEXITED)
        finally:
            os.close(child)
        assert has_ended
        assert end is not None
        assert end.si_status == code

    def test_a_header_that_cannot_be_sent(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """Its error ends the run, and its payload takes no memory from then on."""

        class Locked(TaskCommHandler):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                with queue.put_nocopy(threading.Lock(), 1000):
                    pass

        before = executor._hub.pool.arena.n_blocks
        with pytest.raises(TypeError, match="cannot pickle"):
            self.run(executor, [ReadTask(0, signals=signals)], handler=Locked())
        assert executor._hub.pool.arena.n_blocks == before
        assert self.run(executor, [ReadTask(0, signals=signals)], handler=Source()) == self.expect(1, Source())

    def test_the_run_ends_before_its_handler(
        self, executor: PipelinedExecutor, signals: Signals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last task has its result while the handler still returns: its worker is free for the next run."""
        over = threading.Event()

        class Late(Source):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                super().handle_task(task, queue)
                over.wait(10)

        request = executor._hub.request

        def request_late(what: Callable[[], None]) -> None:
            if what.__name__ == "_end_streams":
                over.set()
                time.sleep(0.2)  # the handler has returned
            request(what)

        monkeypatch.setattr(executor._hub, "request", request_late)
        assert self.run(executor, [ReadTask(0, signals=signals)], handler=Late()) == self.expect(1, Source())
        monkeypatch.undo()
        tasks = [ReadTask(i, signals=signals) for i in range(4)]
        assert self.run(executor, tasks, handler=Source(), ordered=True) == self.expect(4, Source())

    def test_a_worker_is_lost(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """Its task is repeated on another, with all of its data, also what the first one had read."""
        source = Source()
        tasks = [
            ReadTask(i, signals=signals, die_after=5 if i == 3 else 19, lives=2 if i in {3, 7} else 0)
            for i in range(10)
        ]
        got = self.run(executor, tasks, handler=source, ordered=True)
        assert got == self.expect(10, source)
        assert signals.count("died-3") == signals.count("died-7") == 2
        assert source.calls == [*(f"task {i}" for i in range(10)), "done"], "the source was asked twice"

    def test_a_worker_is_lost_while_data_arrives(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """The rest of the data goes to the new one."""

        def pause(task: int, item: int) -> None:
            if task == 1 and item == 10:
                signals.wait("died-1")

        source = Source(pause=pause)
        tasks = [ReadTask(i, signals=signals, die_after=10 if i == 1 else -1, lives=1) for i in range(4)]
        assert self.run(executor, tasks, handler=source, ordered=True) == self.expect(4, source)

    def test_large_headers(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """They arrive with their payload, of whatever kind that is."""
        headers = ["h" * n for n in (900, 1100, 60_000, 10 << 20)]

        class Kinds(TaskCommHandler):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                for header in headers:
                    queue.put(header, b"four")
                    queue.put(header, memoryview(b"four"))
                    queue.put(header, b"")
                    queue.put(header)
                queue.put("end")

        each = [(True, b"four"), (False, b"four"), (True, b""), (False, None)]
        expected = [(header, *kind) for header in headers for kind in each]
        assert self.run(executor, [KindsTask(0, signals=signals)], handler=Kinds()) == [expected]

    def test_leftovers_reach_nobody(self, executor: PipelinedExecutor) -> None:
        """What a task did not read, because it failed or had enough, is not given to the next one."""

        def once(params: Any, env: Environment) -> Any:
            assert env.worker_context is not None
            with env.worker_context.get_worker_queue().get() as (header, _):
                return header

        assert self.run(executor, [CallTask(i, fn=once) for i in range(20)], handler=Source()) == [0] * 20
        with pytest.raises(ZeroDivisionError):
            self.run(executor, [CallTask(i, fn=lambda p, e: 1 // 0) for i in range(5)], handler=Source())
        handler = StreamHandler()
        got = self.run(executor, [StreamTask(i) for i in range(10)], handler=handler)
        assert sorted(got) == [(i, StreamHandler.expected(i)) for i in range(10)]

    def test_results_do_not_wait_for_the_next_data(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """A result is there while the source makes the next task wait."""

        def pause(task: int, item: int) -> None:
            if task == 1:
                signals.wait("got the first")

        tasks = [ReadTask(i, signals=signals) for i in range(2)]
        with self.start(executor, tasks, handler=Source(pause=pause)) as results:
            assert next(results)[0][0] == 0
            signals.add("got the first")
            assert next(results)[0][0] == 1

    def test_cancelled_while_the_source_is_silent(
        self, executor: PipelinedExecutor, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A handler that waits for ever does not keep the user from cancelling; the pool stays usable."""
        silence = threading.Event()

        def pause(task: int, item: int) -> None:
            signals.add("silent")
            silence.wait()

        def cancel() -> None:
            signals.wait("silent")
            executor.cancel("mine")

        with self.background() as call:
            cancelled = call(cancel)
            tasks = (ReadTask(i, signals=signals) for i in count())
            with pytest.raises(JobCancelledError):
                self.run(executor, tasks, handler=Source(pause=pause), cancel_id="mine")
            cancelled.result()
        assert "still waits for its source" in caplog.text
        self.assert_usable(executor)
        silence.set()

    def test_runs_in_garbage_that_a_feeder_finds(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """The thread that streams holds the hub's lock at times: it waits for no run that it ends in there."""

        def collect(task: int, item: int) -> None:
            if item == 1:
                with executor._hub.lock:
                    gc.collect()

        source = Source(3, pause=collect)

        with collecting_by_hand(), executor.scatter(None) as handle:
            start = time.monotonic()
            leave_run(executor, handle, [SleepTask(i) for i in range(10)])
            got = self.run(executor, [ReadTask(i, signals=signals) for i in range(3)], handler=source, ordered=True)
        assert got == self.expect(3, source)
        assert time.monotonic() - start < STOP_GRACE_SECONDS

    def test_closed_while_tasks_wait_for_data(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """They are told that none will come, and so need not be killed when the time for closing is over."""
        go_on = threading.Event()

        def wait(task: int, item: int) -> None:
            if item == 1:
                signals.add("waiting")
                go_on.wait(20)

        with self.background() as submit:
            tasks = [ReadTask(i, signals=signals) for i in range(4)]
            done = submit(self.run, executor, tasks, handler=Source(3, pause=wait))
            signals.wait("waiting")
            start = time.monotonic()
            executor.close()
            assert time.monotonic() - start < 8
            go_on.set()
            with pytest.raises(JobCancelledError, match="closed"):
                done.result(10)

    def test_two_streams_at_a_time(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """Runs that stream, and one that does not, share the workers without mixing anything up."""
        with self.background() as call:
            sources = [Source(n=10 + k, size=1000 * (k + 1)) for k in range(3)]
            runs = [
                call(self.run, executor, [ReadTask(i, signals=signals) for i in range(15)], handler=s, cancel_id=k)
                for k, s in enumerate(sources)
            ]
            plain = call(self.run, executor, [FakeTask(i) for i in range(100)], cancel_id="plain")
            for source, run in zip(sources, runs, strict=True):
                assert sorted(run.result()) == self.expect(15, source)
            assert sorted(plain.result()) == list(range(100))

    def test_the_queue_of_a_task(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """It can be asked without waiting, and only read."""

        def ask(params: Any, env: Environment) -> list[str]:
            assert env.worker_context is not None
            queue = env.worker_context.get_worker_queue()
            seen = []
            for wait in ({"block": False}, {"timeout": 0.01}):
                try:
                    with queue.get(**wait):
                        seen.append("something")
                except WorkerQueueEmpty:
                    seen.append("nothing")
            try:
                queue.put("back")
            except ExecutorError as error:
                seen.append(str(error).split()[0])
            signals.add("asked")
            with queue.get() as (header, payload):
                seen.append(header)
                assert payload is None
            return seen

        class Late(TaskCommHandler):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                signals.wait("asked")
                queue.put("header")

        (seen,) = self.run(executor, [CallTask(0, fn=ask)], handler=Late())
        assert seen == ["nothing", "nothing", "the", "header"]
