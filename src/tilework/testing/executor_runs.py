"""The contract of `JobExecutor.run_tasks` when nothing goes wrong."""

from __future__ import annotations

import random
import re
import threading
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tilework.common.executor import JobExecutor, NoopCommHandler, Priority, TaskCommHandler
from tilework.exceptions import (
    DeadlineExceededError,
    ExecutorError,
    JobCancelledError,
    ResourceError,
    WorkerQueueEmpty,
)
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import BlockTask, CallTask, EchoTask, FakeTask, SleepTask, StreamHandler, StreamTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import Environment, TaskProtocol, WorkerQueue
    from tilework.testing.faults import Signals

__all__ = ["RunContract"]


def _arrays() -> list[Any]:
    rng = np.random.default_rng(1)
    special = np.array([-0.0, np.inf, np.nan, 5e-324], dtype=np.float64)
    special[2:3].view(np.uint64)[:] = 0x7FF8_0000_0000_1234  # a NaN that carries something
    table = np.zeros(3, dtype=[("x", ">u2"), ("y", "f4", (2,))])
    table["x"] = [1, 2, 65535]
    return [
        special,
        np.asfortranarray(rng.normal(size=(5, 6, 7))),
        rng.integers(0, 2**16, size=(64, 64), dtype=np.uint16)[::2, ::-3],
        rng.normal(size=100).astype(">f4"),
        rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3)),
        np.zeros((0, 4), dtype=bool),
        np.array(3, dtype=np.int8),
        table,
        np.array(["a", "\u00e9\u00e8"]),
        rng.integers(0, 2**16, size=(1024, 2048), dtype=np.uint16),  # 4 MiB
    ]


def _bits(array: Any) -> tuple[Any, ...]:
    return type(array), array.dtype.str, array.dtype.descr, array.shape, array.tobytes()


class RunContract(ExecutorHarness):
    """Order, bounds, scheduling, environment, streaming."""

    @pytest.mark.parametrize("n", [0, 1, 2, 10, 1000])
    @pytest.mark.parametrize("ordered", [False, True])
    def test_every_task_is_yielded_once(self, executor: JobExecutor, n: int, ordered: bool) -> None:
        """Every task is yielded exactly once, with its own result, and with ``ordered=True`` in task order."""
        tasks = [EchoTask(i) for i in range(n)]
        with self.start(executor, tasks, "params", ordered=ordered) as results:
            got = list(results)
        for result, task in got:
            assert isinstance(task, EchoTask)
            assert result == (task.index, "params")
        indices = [result[0] for result, _ in got]
        assert (indices if ordered else sorted(indices)) == list(range(n))

    def test_yields_the_task_that_was_given(self, executor: JobExecutor) -> None:
        """The task that comes with a result is the caller's own object."""
        tasks = [FakeTask(i) for i in range(20)]
        with self.start(executor, tasks) as results:
            got = {id(task) for _, task in results}
        assert got == {id(task) for task in tasks}

    @pytest.mark.parametrize("ordered", [False, True])
    def test_order_with_tasks_of_different_length(self, executor: JobExecutor, ordered: bool) -> None:
        """Tasks that overtake each other are all yielded; in order when that was asked for."""
        rng = random.Random(7)
        tasks = [SleepTask(i, seconds=rng.choice([0.0, 0.002, 0.01])) for i in range(60)]
        indices = self.run(executor, tasks, ordered=ordered)
        assert (indices if ordered else sorted(indices)) == list(range(60))

    @pytest.mark.parametrize("ordered", [False, True])
    def test_tasks_are_pulled_lazily(self, executor: JobExecutor, ordered: bool) -> None:
        """Tasks are pulled from an endless iterator, a bounded number ahead of what was consumed."""
        pulled = 0

        def tasks() -> Iterator[SleepTask]:
            nonlocal pulled
            for i in count():
                pulled += 1
                yield SleepTask(i, seconds=0.005)

        ahead = []
        with self.start(executor, tasks(), ordered=ordered) as results:
            assert pulled == 0, "tasks were pulled before anybody asked for a result"
            for n, _ in enumerate(results, 1):
                ahead.append(pulled - n)
                if n == 50:
                    break
        assert max(ahead) <= self.max_ahead * self.parallelism
        assert pulled <= 50 + self.max_ahead * self.parallelism

    def test_a_slow_consumer_stops_the_run(self, executor: JobExecutor, signals: Signals) -> None:
        """While nobody asks for results, no more than a bounded number of tasks runs: results do not pile up."""

        def work(params: Any, env: Environment) -> None:
            signals.add("ran")

        with self.start(executor, (CallTask(i, fn=work) for i in count())) as results:
            next(results)
            seen = -1
            while seen != (now := signals.count("ran")):
                seen = now
                time.sleep(0.1)
            assert 1 <= seen <= 1 + 200 * self.parallelism

    def test_a_slow_task_delays_only_itself(self, executor: JobExecutor, signals: Signals) -> None:
        """While one worker is stuck with a task, the others do all the rest."""
        if self.parallelism == 1:
            pytest.skip("declared: parallelism = 1")
        tasks = [BlockTask(0, signals=signals), *(FakeTask(i) for i in range(1, 300))]
        with self.start(executor, tasks) as results:
            rest = [next(results)[0] for _ in range(299)]
            assert sorted(rest) == list(range(1, 300))
            signals.add("release")
            assert next(results)[0][0] == 0
            assert list(results) == []

    def test_a_slow_task_fills_the_reorder_window(self, executor: JobExecutor, signals: Signals) -> None:
        """In an ordered run the others go on behind a slow task, but only as far as the reorder window reaches."""
        if self.parallelism == 1:
            pytest.skip("declared: parallelism = 1")

        def work(params: Any, env: Environment) -> int:
            time.sleep(0.005)
            signals.add("ran")
            return -1

        def release() -> int:
            signals.wait("ran", self.parallelism)
            seen = -1
            while seen != (now := signals.count("ran")):
                seen = now
                time.sleep(0.1)
            signals.add("release")
            return seen

        n = self.max_ahead * self.parallelism + 100
        tasks = [BlockTask(0, signals=signals), *(CallTask(i, fn=work) for i in range(1, n))]
        with self.background() as call, self.start(executor, tasks, ordered=True) as results:
            released = call(release)
            assert next(results)[0][0] == 0
            assert len(list(results)) == n - 1
            assert released.result() <= self.max_ahead * self.parallelism

    def test_runs_as_many_tasks_at_a_time_as_declared(self, executor: JobExecutor, signals: Signals) -> None:
        """All workers are used at the same time, and no more than there are."""
        n = self.parallelism

        def meet(params: Any, env: Environment) -> int:
            signals.add("in")
            signals.wait("in", n)
            running = signals.count("in") - signals.count("out")
            signals.add("out")
            return running

        assert executor.get_available_workers().concurrency() == n
        assert max(self.run(executor, [CallTask(i, fn=meet) for i in range(4 * n)])) <= n

    @pytest.mark.parametrize("priority", list(Priority))
    def test_accepts_every_priority(self, executor: JobExecutor, priority: Priority) -> None:
        """A run of any priority does its work."""
        assert sorted(self.run(executor, [FakeTask(i) for i in range(30)], priority=priority)) == list(range(30))

    def test_live_before_interactive_before_batch(self, executor: JobExecutor, signals: Signals) -> None:
        """What is queued starts in the order of priority, whichever run was first."""
        self.require("prioritises")
        n = self.parallelism

        def block(params: Any, env: Environment) -> None:
            signals.add("blocked")
            signals.wait("release")

        def tasks(priority: Priority) -> Iterator[CallTask]:
            started = f"started-{priority.name}"

            def work(params: Any, env: Environment) -> float:
                start = time.monotonic()
                signals.add(started)
                # No worker is free again before all have begun: one that is slow to begin must not look overtaken.
                signals.wait(started, n, timeout=20)
                return start

            yield from (CallTask(i, fn=work) for i in range(n))
            signals.add(f"submitted-{priority.name}")

        def start(priority: Priority) -> list[float]:
            return self.run(executor, tasks(priority), cancel_id=priority, priority=priority)

        with self.background() as call:
            first = call(self.run, executor, [CallTask(i, fn=block) for i in range(n)])
            signals.wait("blocked", n)
            starts = {}
            for priority in (Priority.BATCH, Priority.INTERACTIVE, Priority.LIVE):
                starts[priority] = call(start, priority)
                signals.wait(f"submitted-{priority.name}")
                self.wait_queued(executor, priority)
            signals.add("release")
            assert len(first.result()) == n
            live, interactive, batch = (starts[priority].result() for priority in sorted(Priority))
        assert max(live) <= min(interactive)
        assert max(interactive) <= min(batch)

    def test_environment(self, executor: JobExecutor) -> None:
        """A task sees the declared environment; entering it limits threads there, and nothing is left of that."""

        def look(params: Any, env: Environment) -> tuple[Any, ...]:
            env.raise_if_stopped()
            with env.enter(), env.enter(enable_gpu=False):
                inside = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
            return env.threads_per_worker, env.threaded_executor, env.device_class, env.gpu_id, inside

        before = threadpool_info()
        with self.start(executor, [CallTask(i, fn=look) for i in range(20)]) as results:
            for (threads, threaded, device, gpu_id, inside), _ in results:
                assert (threads, threaded, device, gpu_id) == (self.threads_per_worker, self.threaded, "cpu", None)
                if threads is not None:
                    assert all(n <= threads for n in inside)
                if not self.threaded:  # in one process with running tasks, process-wide limits are seen by all
                    assert threadpool_info() == before, "a limit reached the consumer"
        assert threadpool_info() == before

    def test_no_worker_fits(self, executor: JobExecutor) -> None:
        """A task that needs what no worker offers ends the run with a ResourceError that names both."""
        tasks = [FakeTask(0), FakeTask(1, resources={"CUDA": 17})]
        with pytest.raises(ResourceError, match=r"part-1.*CUDA"):
            self.run(executor, tasks)
        self.assert_usable(executor)

    def test_a_task_may_need_nothing(self, executor: JobExecutor) -> None:
        """A task without requirements runs anywhere."""
        assert self.run(executor, [FakeTask(3, resources={})]) == [3]

    def test_arguments_are_checked_at_once(self, executor: JobExecutor) -> None:
        """A wrong handle or handler is refused by the call itself, not by the first result."""
        with pytest.raises(ExecutorError, match="scatter"):
            executor.run_tasks([FakeTask()], "no handle", "run", NoopCommHandler())
        with executor.scatter(1) as handle, pytest.raises(TypeError, match="task_comm_handler"):
            executor.run_tasks([FakeTask()], handle, "run", None)  # type: ignore[arg-type]
        with pytest.raises(ExecutorError, match="scatter"):
            executor.run_tasks([FakeTask()], handle, "run", NoopCommHandler())

    def test_arrays_pass_bit_by_bit(self, executor: JobExecutor) -> None:
        """Arrays of every kind arrive as they were, in parameters, in tasks and in results."""
        arrays = _arrays()

        def work(given: list[Any], params: list[Any], env: Environment) -> list[list[Any]]:
            return [given, params]

        tasks = [CallTask(i, fn=partial(work, arrays)) for i in range(3)]
        for got in self.run(executor, tasks, arrays):
            for them in got:
                assert [_bits(array) for array in them] == [_bits(array) for array in arrays]
        assert [_bits(array) for array in executor.map(lambda a: a, arrays)] == [_bits(array) for array in arrays]

    # ---- several at a time ----

    def test_many_runs_at_once(self, executor: JobExecutor) -> None:
        """Runs and functions from several threads at once do not see each other's parameters or results."""

        def one(seed: int) -> None:
            rng = random.Random(seed)
            n = rng.randrange(1, 120)
            ordered = rng.random() < 0.5
            got = self.run(
                executor, [EchoTask(i) for i in range(n)], f"run {seed}", cancel_id=f"run {seed}", ordered=ordered
            )
            assert (got if ordered else sorted(got)) == [(i, f"run {seed}") for i in range(n)]
            assert list(executor.map(lambda x: x + seed, range(10))) == list(range(seed, seed + 10))
            assert executor.run_function(lambda: seed) == seed

        with self.background() as call:
            for future in [call(one, seed) for seed in range(12)]:
                future.result()

    def test_a_short_run_is_not_starved_by_a_long_one(self, executor: JobExecutor) -> None:
        """A run that begins while another keeps all workers busy gets its share, and so does a function."""
        ended = threading.Event()

        def long_run() -> int:
            with self.start(executor, (SleepTask(i, seconds=0.002) for i in count()), cancel_id="long") as results:
                n = 0
                for _ in results:
                    n += 1
                    if ended.is_set():
                        break
                return n

        with self.background() as call:
            long = call(long_run)
            try:
                assert sorted(self.run(executor, [FakeTask(i) for i in range(20)], cancel_id="short")) == list(
                    range(20)
                )
                assert executor.run_function(abs, -3) == 3
                assert not long.done()
            finally:
                ended.set()
            assert long.result() > 0

    def test_interleaved_runs_in_one_thread(self, executor: JobExecutor) -> None:
        """One thread may take results of two runs in turns."""
        with (
            self.start(executor, [EchoTask(i) for i in range(40)], "a", "a") as one,
            self.start(executor, [EchoTask(i) for i in range(40)], "b", "b") as two,
        ):
            pairs = list(zip(one, two, strict=True))
        assert sorted(a for (a, _), _ in pairs) == [(i, "a") for i in range(40)]
        assert sorted(b for _, (b, _) in pairs) == [(i, "b") for i in range(40)]

    # ---- handlers ----

    def test_handler_streams_to_tasks(self, executor: JobExecutor) -> None:
        """start, then every task in order, then done; each task gets its own data, whole."""
        self.require("streams")
        handler = StreamHandler()
        got = self.run(executor, [StreamTask(i) for i in range(20)], handler=handler)
        assert sorted(got) == [(i, StreamHandler.expected(i)) for i in range(20)]
        assert handler.calls == ["start", *(f"task {i}" for i in range(20)), "done"]

    @pytest.mark.parametrize("base", [TaskCommHandler, NoopCommHandler])
    def test_handler_that_streams_nothing(self, executor: JobExecutor, base: type[TaskCommHandler]) -> None:
        """A handler may begin and end something and leave the tasks alone, whatever it derives from."""
        calls: list[str] = []

        class Door(base):  # type: ignore[misc, valid-type]
            def start(self) -> None:
                calls.append("start")

            def done(self) -> None:
                calls.append("done")

        got = self.run(executor, [EchoTask(i) for i in range(8)], handler=Door())
        assert sorted(got) == [(i, None) for i in range(8)]
        assert calls == ["start", "done"]

    def test_handler_that_cannot_be_served(self, executor: JobExecutor) -> None:
        """An executor that cannot stream says so when the run is asked for, before the handler is started."""
        if self.streams:
            pytest.skip("declared: streams = True")
        handler = StreamHandler()
        with executor.scatter(None) as handle, pytest.raises(ExecutorError, match="stream"):
            executor.run_tasks([StreamTask(0)], handle, "run", handler)
        assert handler.calls == []
        self.assert_usable(executor)

    def test_handler_of_a_run_that_is_given_up(self, executor: JobExecutor) -> None:
        """``done`` is called also when the consumer stops early, and after an error of a task."""
        self.require("streams")
        handler = StreamHandler()
        with self.start(executor, (StreamTask(i) for i in range(100)), handler=handler) as results:
            next(results)
        assert handler.calls[0] == "start"
        assert handler.calls[-1] == "done"
        assert len(handler.calls) < 102

        handler = StreamHandler()
        tasks = [StreamTask(0), CallTask(1, fn=lambda p, e: 1 // 0), *(StreamTask(i) for i in range(2, 100))]
        with pytest.raises(ZeroDivisionError):
            self.run(executor, tasks, handler=handler)
        assert handler.calls[-1] == "done"
        self.assert_usable(executor)

    @pytest.mark.parametrize("error", [JobCancelledError("the detector went away"), OSError("no route to host")])
    def test_interrupted_source(self, executor: JobExecutor, error: Exception) -> None:
        """An error of the handler ends the run, also for the tasks that wait for data; then ``done`` is called."""
        self.require("streams")
        handler = StreamHandler(fail_at=3, error=error)
        with pytest.raises(type(error), match=re.escape(str(error))):
            self.run(executor, [StreamTask(i) for i in range(50)], handler=handler)
        assert handler.calls == ["start", "task 0", "task 1", "task 2", "task 3", "done"]
        self.assert_usable(executor)

    @pytest.mark.parametrize("how", ["put", "put_nocopy"])
    @pytest.mark.parametrize("end", [JobCancelledError, DeadlineExceededError])
    def test_a_run_ends_while_its_handler_streams(
        self, executor: JobExecutor, how: str, end: type[JobCancelledError]
    ) -> None:
        """A source that never ends is left with the next item, when the run is cancelled or its time is over."""
        self.require("streams")

        class Endless(StreamHandler):
            def handle_task(self, task: TaskProtocol, queue: WorkerQueue) -> None:
                for i in count():
                    if i == 3 and end is JobCancelledError:
                        executor.cancel("run")
                    time.sleep(0.001)
                    if how == "put":
                        queue.put("data", bytes(100))
                    else:
                        with queue.put_nocopy("data", 100):
                            pass
                    assert i < 2000, "the handler is not told"

        handler = Endless()
        timeout = 0.1 if end is DeadlineExceededError else None
        with pytest.raises(end) as caught:
            self.run(executor, [StreamTask(0)], handler=handler, timeout=timeout)
        assert type(caught.value) is end
        assert handler.calls == ["start", "done"]
        self.assert_usable(executor)

    def test_handler_that_puts_too_late(self, executor: JobExecutor) -> None:
        """When it has returned, a thread of its own gets an error, and what it puts reaches nobody."""
        self.require("streams")
        errors: list[str] = []

        class Late(StreamHandler):
            first: WorkerQueue

            def handle_task(self, task: TaskProtocol, queue: WorkerQueue) -> None:
                if getattr(task, "index", None) == 1:
                    try:
                        self.first.put("data", b"12")
                    except ExecutorError as error:
                        errors.append(str(error))
                else:
                    self.first = queue
                super().handle_task(task, queue)

        handler = Late()
        expected = [(i, StreamHandler.expected(i)) for i in range(2)]
        assert sorted(self.run(executor, [StreamTask(i) for i in range(2)], handler=handler)) == expected
        assert len(errors) == 1
        assert "handle_task has returned" in errors[0]
        self.assert_usable(executor)

    def test_handler_that_gives_too_little(self, executor: JobExecutor) -> None:
        """A task that waits for more than there is gets an error that says so, and so does whoever waits for it."""
        self.require("streams")

        class Short(StreamHandler):
            def handle_task(self, task: TaskProtocol, queue: WorkerQueue) -> None:
                if getattr(task, "index", None) != 3:
                    super().handle_task(task, queue)
                    return
                queue.put("data", b"12")

        handler = Short()
        with pytest.raises(ExecutorError, match=r"waits for more data .*handle_task returned after 1 items"):
            self.run(executor, [StreamTask(i) for i in range(50)], handler=handler)
        assert handler.calls[-1] == "done"
        self.assert_usable(executor)

    def test_asking_without_waiting_when_all_was_taken(self, executor: JobExecutor) -> None:
        """A task may take what there is until there is nothing; an error is only for who waits for more."""
        self.require("streams")

        def drain(params: Any, env: Environment) -> list[str]:
            assert env.worker_context is not None
            queue = env.worker_context.get_worker_queue()
            seen = []
            for wait in ({"timeout": 20}, {"timeout": 20}, {"block": False}, {"timeout": 20}):
                try:
                    with queue.get(**wait) as (header, _):
                        seen.append(header)
                except (WorkerQueueEmpty, ExecutorError) as error:
                    seen.append(type(error).__name__)
            return seen

        class One(TaskCommHandler):
            def handle_task(self, task: TaskProtocol, queue: WorkerQueue) -> None:
                queue.put("one")

        (seen,) = self.run(executor, [CallTask(0, fn=drain)], handler=One())
        assert seen == ["one", "ExecutorError", "WorkerQueueEmpty", "ExecutorError"]

    def test_messages_of_tasks(self, executor: JobExecutor) -> None:
        """What tasks signal reaches the subscribers of its topic, all of it before the run is over."""

        def work(params: Any, env: Environment) -> None:
            context = env.worker_context
            assert context is not None
            context.signal("part-x", "topic", {"value": 1})
            context.signal("part-x", "nobody listens", {})
            with pytest.raises(ValueError, match="'ident' is a reserved name"):
                context.signal("part-x", "topic", {"ident": 1})

        got: list[dict[str, Any]] = []
        handler = NoopCommHandler()
        handler.subscribe("topic", lambda _topic, message: got.append(message))
        self.run(executor, [CallTask(i, fn=work) for i in range(10)], handler=handler)
        assert got == [{"ident": "part-x", "value": 1}] * 10
