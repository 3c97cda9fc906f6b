"""Data that is streamed to tasks, and there is not memory for all of it: who waits, and for whom."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stream_tasks import ReadTask, Source, StreamHarness, TimedTask
from tilework.common.executor import Priority, TaskCommHandler
from tilework.exceptions import ExecutorError, WorkerLostError
from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.faults import CallTask, Signals

if TYPE_CHECKING:
    from tilework.common.executor import Environment, WorkerQueue


class TestStreamsInLittleMemory(StreamHarness):
    def run_beside_a_loss(
        self, signals: Signals, other: Source, urgent: Source, *, die_after: int, put_before: int = 0
    ) -> list[Any]:
        """Return the results of two streams to one worker, in the order in which it had them done.

        The task of `other` is there first, and loses its worker when both are, after `die_after` items; of its data,
        `put_before` items are there by then.
        """
        with PipelinedExecutor(PipelinedExecutor.make_spec(1, []), shared_memory=32 << 20) as small:
            got: list[Any] = []

            def stream(source: Source, priority: Priority, **kwargs: Any) -> None:
                task = TimedTask(0, signals=signals, **kwargs)
                got.extend(self.run(small, [task], handler=source, priority=priority))

            threads = [
                threading.Thread(
                    target=stream,
                    args=(other, Priority.BATCH),
                    kwargs={"die_after": die_after, "lives": 1, "die_when": "go"},
                ),
                threading.Thread(target=stream, args=(urgent, Priority.LIVE)),
            ]
            for n, thread in enumerate(threads):
                thread.start()
                while small._hub.exchange.describe()[0]["tickets"] <= n or other.put < put_before:
                    time.sleep(0.01)
            signals.add("go")
            for thread in threads:
                thread.join(20)
            running = [thread.is_alive() for thread in threads]
        assert running == [False] * 2
        return [[result] for _, result in sorted(got)]

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

    def test_a_task_that_waits_for_another_worker_leaves_room(self, signals: Signals) -> None:
        """Its data must not take what those need that come before it now, for it would wait for them for ever."""

        def pause(task: int, item: int) -> None:
            if item == 5:  # more than half is used
                signals.wait("died-0")
                time.sleep(0.3)  # until that is known here

        def wait(task: int, item: int) -> None:
            signals.wait("died-0")
            time.sleep(1 if item == 0 else 0)  # until the other source has filled what it may fill

        other = Source(7, 2 << 20, pause)
        urgent = Source(8, 3 << 20, wait)
        got = self.run_beside_a_loss(signals, other, urgent, die_after=2)
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

        other = Source(15, 1 << 20)
        urgent = Source(8, 3 << 20, wait)
        got = self.run_beside_a_loss(signals, other, urgent, die_after=0, put_before=15)
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
