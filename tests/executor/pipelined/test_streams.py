"""Data that is streamed to tasks: in order, whole, held up when nobody takes it, there again when a worker is lost."""

from __future__ import annotations

import gc
import os
import threading
import time
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests_helpers import collecting_by_hand, leave_run
from tilework.common.executor import Priority, TaskCommHandler, WorkerQueueEmpty
from tilework.exceptions import ExecutorError, JobCancelledError, WorkerLostError
from tilework.executor.driver import STOP_GRACE_SECONDS
from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import CallTask, FakeTask, Signals, SleepTask, StreamHandler, StreamTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.executor import Environment, WorkerQueue


@dataclass
class ReadTask(FakeTask):
    """Reads what is streamed to it until the end; dies after `die_after` items, as often as `lives` says."""

    signals: Signals = field(kw_only=True)
    die_after: int = -1
    lives: int = 0
    die_when: str | None = None

    def __call__(self, params: Any, env: Environment) -> tuple[int, list[int], int]:
        assert env.worker_context is not None
        queue = env.worker_context.get_worker_queue()
        headers: list[Any] = []
        total = 0
        while True:
            if len(headers) == self.die_after and self.signals.count(f"died-{self.index}") < self.lives:
                if self.die_when is not None:
                    self.signals.wait(self.die_when)
                self.signals.add(f"died-{self.index}")
                os.kill(os.getpid(), 9)
            with queue.get() as (header, payload):
                if header == "end":
                    return self.index, headers, total
                assert payload is not None
                headers.append(header)
                total += len(payload)


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


class Source(TaskCommHandler):
    """Streams `n` items of `size` bytes to each task; `pause` is called before each item."""

    def __init__(self, n: int = 20, size: int = 50_000, pause: Callable[[int, int], None] | None = None) -> None:
        self.n, self.size = n, size
        self.pause = pause or (lambda task, item: None)
        self.put = 0
        self.calls: list[str] = []

    def handle_task(self, task: Any, queue: WorkerQueue) -> None:
        self.calls.append(f"task {task.index}")
        for i in range(self.n):
            self.pause(task.index, i)
            with queue.put_nocopy(i, self.size) as buffer:
                buffer[:4] = i.to_bytes(4, "little")
            self.put += 1
        queue.put("end")

    def done(self) -> None:
        self.calls.append("done")


class TestStreams(ExecutorHarness):
    """Each test proves that nothing is left behind."""

    can_lose_workers = True

    def make_executor(self) -> PipelinedExecutor:
        return PipelinedExecutor(PipelinedExecutor.make_spec(2, []), shared_memory=256 << 20)

    def expect(self, tasks: int, source: Source) -> list[tuple[int, list[int], int]]:
        return [(i, list(range(source.n)), source.n * source.size) for i in range(tasks)]

    @pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
    def test_all_of_it_arrives_in_order(self, executor: PipelinedExecutor, signals: Signals, size: int) -> None:
        source = Source(size=max(4, size))
        got = self.run(executor, [ReadTask(i, signals=signals) for i in range(12)], handler=source, ordered=True)
        assert got == self.expect(12, source)

    def test_many_small_items(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """More for one task than there may be blocks in the shared memory."""
        source = Source(n=70_000, size=4)
        assert self.run(executor, [ReadTask(0, signals=signals)], handler=source) == self.expect(1, source)

    def test_runs_at_once_in_little_memory(self, signals: Signals) -> None:
        """The data of tasks that wait behind those of another run leaves room for the data of these."""

        def slowly(task: int, item: int) -> None:
            time.sleep(0.005)

        with PipelinedExecutor(PipelinedExecutor.make_spec(2, []), shared_memory=32 << 20) as small:
            got: list[Any] = []

            def stream(source: Source) -> None:
                got.append(self.run(small, [ReadTask(i, signals=signals) for i in range(6)], handler=source))

            # each task's data is as much as there is room for
            threads = [threading.Thread(target=stream, args=(Source(16, 1 << 20, slowly),)) for _ in range(3)]
            for thread in threads:
                thread.start()
                time.sleep(0.02)
            for thread in threads:
                thread.join(30)
            running = [thread.is_alive() for thread in threads]
        assert running == [False] * 3
        assert [sorted(each) for each in got] == [self.expect(6, Source(16, 1 << 20))] * 3

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

    def test_a_task_that_waits_for_another_worker_leaves_room(self, signals: Signals) -> None:
        """Its data must not take what those need that come before it now, for it would wait for them for ever."""

        def pause(task: int, item: int) -> None:
            if item == 5:  # more than half is used
                signals.wait("died-0")
                time.sleep(0.3)  # until that is known here

        def wait(task: int, item: int) -> None:
            signals.wait("died-0")
            time.sleep(1 if item == 0 else 0)  # until the other source has filled what it may fill

        with PipelinedExecutor(PipelinedExecutor.make_spec(1, []), shared_memory=32 << 20) as small:
            got: list[Any] = []

            def stream(source: Source, priority: Priority, **kwargs: Any) -> None:
                task = ReadTask(0, signals=signals, **kwargs)
                got.append(self.run(small, [task], handler=source, priority=priority))

            other = Source(7, 2 << 20, pause)
            urgent = Source(8, 3 << 20, wait)
            threads = [
                threading.Thread(
                    target=stream, args=(other, Priority.BATCH), kwargs={"die_after": 2, "lives": 1, "die_when": "go"}
                ),
                threading.Thread(target=stream, args=(urgent, Priority.LIVE)),
            ]
            for thread in threads:
                thread.start()
                while small._hub.exchange.describe()[0]["tickets"] <= threads.index(thread):
                    time.sleep(0.01)
            signals.add("go")
            for thread in threads:
                thread.join(20)
            running = [thread.is_alive() for thread in threads]
        assert running == [False] * 2
        assert got == [self.expect(1, urgent), self.expect(1, other)]

    def test_an_item_for_which_there_is_no_place(self, signals: Signals) -> None:
        """What others have in the memory waits for the worker of the task that waits for the item."""
        calls: list[threading.Thread] = []
        sums: list[int] = []

        with PipelinedExecutor(PipelinedExecutor.make_spec(1, []), shared_memory=8 << 20) as small:

            def call() -> None:
                sums.append(small.run_function(np.sum, np.ones(3_000_000, np.uint8)))

            def pause(task: int, item: int) -> None:
                if item == 1:
                    calls.append(threading.Thread(target=call))
                    calls[0].start()
                    while small._hub.exchange.describe()[0]["tickets"] < 2:
                        time.sleep(0.01)

            source = Source(4, 2 << 20, pause)
            stream = threading.Thread(
                target=lambda: sums.append(self.run(small, [ReadTask(0, signals=signals)], handler=source)[0][2])
            )
            stream.start()
            stream.join(20)
            is_running = stream.is_alive()
            if not is_running:
                calls[0].join(20)
        assert not is_running
        assert sorted(sums) == [3_000_000, 4 * (2 << 20)]

    def test_data_that_waits_for_a_worker_while_others_have_it(self, signals: Signals) -> None:
        """More urgent runs take the worker that was lost: they have room, though that data has all there is."""

        def wait(task: int, item: int) -> None:
            signals.wait("died-0")
            time.sleep(1 if item == 0 else 0)  # until that is known here

        with PipelinedExecutor(PipelinedExecutor.make_spec(1, []), shared_memory=32 << 20) as small:
            got: list[Any] = []

            def stream(source: Source, priority: Priority, **kwargs: Any) -> None:
                task = ReadTask(0, signals=signals, **kwargs)
                got.append(self.run(small, [task], handler=source, priority=priority))

            other = Source(15, 1 << 20)
            urgent = Source(8, 3 << 20, wait)
            threads = [
                threading.Thread(
                    target=stream, args=(other, Priority.BATCH), kwargs={"die_after": 0, "lives": 1, "die_when": "go"}
                ),
                threading.Thread(target=stream, args=(urgent, Priority.LIVE)),
            ]
            for thread in threads:
                thread.start()
                while small._hub.exchange.describe()[0]["tickets"] <= threads.index(thread) or other.put < 15:
                    time.sleep(0.01)
            signals.add("go")
            for thread in threads:
                thread.join(20)
            running = [thread.is_alive() for thread in threads]
        assert running == [False] * 2
        assert sorted(got) == sorted([self.expect(1, urgent), self.expect(1, other)])

    def test_a_task_whose_worker_is_not_replaced(self, signals: Signals) -> None:
        """It takes that of a task whose data comes after its own, when its data leaves no room for more."""
        with PipelinedExecutor(PipelinedExecutor.make_spec(2, []), shared_memory=32 << 20) as small:

            def pause(task: int, item: int) -> None:
                if (task, item) == (0, 12):  # more than half is used, and nothing read
                    while [each["tickets"] for each in small._hub.exchange.describe()] != [1, 1]:
                        time.sleep(0.01)
                    small._hub.resize(PipelinedExecutor.make_spec(2, [])[1:])
                    signals.add("go")
                    while len(small._hub.exchange.describe()) > 1:
                        time.sleep(0.01)

            source = Source(20, 1 << 20, pause)
            got: list[Any] = []
            tasks = [
                ReadTask(i, signals=signals, die_after=0 if i == 0 else -1, lives=1, die_when="go") for i in range(2)
            ]
            thread = threading.Thread(target=lambda: got.append(self.run(small, tasks, handler=source)))
            thread.start()
            thread.join(20)
            is_running = thread.is_alive()
        assert not is_running
        assert sorted(got[0]) == self.expect(2, source)

    @pytest.mark.parametrize(("n", "size", "most"), [(100_000, 1, 70_000), (3000, 100_000, 1400)])
    def test_a_source_of_headers_is_held_up(
        self, executor: PipelinedExecutor, signals: Signals, n: int, size: int, most: int
    ) -> None:
        """They take room as data does."""
        put = 0

        class Headers(TaskCommHandler):
            def handle_task(self, task: Any, queue: WorkerQueue) -> None:
                nonlocal put
                for i in range(n):
                    queue.put(bytes([i % 251]) * size)
                    put += 1
                queue.put("end")

        def read(params: Any, env: Environment) -> int:
            assert env.worker_context is not None
            queue = env.worker_context.get_worker_queue()
            signals.wait("read")
            n = 0
            while True:
                with queue.get() as (header, payload):
                    if header == "end":
                        return n
                    assert header == bytes([n % 251]) * size
                    assert payload is None
                    n += 1

        with self.background() as call:
            run = call(self.run, executor, [CallTask(0, fn=read)], handler=Headers())
            seen = -1
            while seen != put or seen < 1:
                seen = put
                time.sleep(0.3)
            signals.add("read")
            assert run.result() == [n]
        assert seen <= most

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

    def test_data_that_cannot_be_kept(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """When room is short, what was read makes way; a task whose data is gone ends the run, and says so."""
        size = executor.report()["limits"]["shared_memory_bytes"] // 10
        source = Source(n=30, size=size)
        tasks = [ReadTask(0, signals=signals, die_after=25, lives=1)]
        with pytest.raises(WorkerLostError, match=r"part-0 lost its worker.*data.*is gone"):
            self.run(executor, tasks, handler=source)
        self.assert_usable(executor)

    def test_a_source_that_is_too_quick_is_held_up(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """No more is in memory than there is room for."""
        limit = executor.report()["limits"]["shared_memory_bytes"]
        source = Source(n=100, size=limit // 20)

        def read(params: Any, env: Environment) -> int:
            assert env.worker_context is not None
            queue = env.worker_context.get_worker_queue()
            signals.wait("read")
            n = 0
            while True:
                with queue.get() as (header, _):
                    if header == "end":
                        return n
                    n += 1

        with self.background() as call:
            run = call(self.run, executor, [CallTask(0, fn=read)], handler=source)
            seen = -1
            while seen != source.put or seen < 1:
                seen = source.put
                time.sleep(0.3)
            assert seen <= 20
            signals.add("read")
            assert run.result() == [100]

    def test_what_can_never_fit(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """A piece that is larger than the room for all is an error, with what to do."""
        source = Source(n=1, size=executor.report()["limits"]["shared_memory_bytes"] + 1)
        with pytest.raises(ExecutorError, match="put less at a time"):
            self.run(executor, [ReadTask(0, signals=signals)], handler=source)
        self.assert_usable(executor)

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
