"""The contract of executors finds the faults it is there to find, and the fault injectors do what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from tilework.common.environment import Environment, StopFlag
from tilework.common.worker_queue import SimpleWorkerQueue, WorkerContext
from tilework.exceptions import JobCancelledError
from tilework.executor.inline import InlineJobExecutor
from tilework.testing.executor_harness import SHM, ExecutorHarness, Leftovers
from tilework.testing.executors import ExecutorContract
from tilework.testing.faults import (
    BlockTask,
    CallTask,
    DeadlyParams,
    EchoTask,
    EndlessTask,
    FakePartition,
    FakeTask,
    KillTask,
    LockTask,
    OneWayError,
    RaiseTask,
    Signals,
    SleepTask,
    StreamHandler,
    StreamTask,
    TwoArgumentsError,
    UnpicklableError,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

ENV = Environment(None, False)


@pytest.fixture
def signals(tmp_path: Path) -> Signals:
    return Signals(str(tmp_path))


# ---- what is left behind ----


def test_leftovers(tmp_path: Path) -> None:
    """A thread, an open file, a child process and a block of shared memory are all noticed, and so is their end."""
    prefix = f"tilework-{os.getpid()}-"
    before = Leftovers(prefix)
    assert Leftovers(prefix).since(before) == {}
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="forgotten")
    thread.start()
    file = (tmp_path / "file").open("w")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    shm = SHM / f"{prefix}test"
    shm.touch()
    try:
        left = Leftovers(prefix).since(before)
        assert left["threads"] == ["forgotten"]
        assert any(str(tmp_path / "file") in name for name in left["files"])
        assert len(left["processes"]) == 1
        assert left["shared memory"] == [shm.name]
    finally:
        release.set()
        thread.join()
        file.close()
        child.communicate(b"\n", timeout=60)
        shm.unlink()
    assert Leftovers(prefix).since(before) == {}


def test_the_fixture_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that leaves something behind is failed by the fixture, with its name."""
    monkeypatch.setattr("tilework.testing.executor_harness.SETTLE_SECONDS", 0.05)
    fixture = ExecutorHarness.nothing_left.__wrapped__(ExecutorHarness())  # type: ignore[attr-defined]
    next(fixture)
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="forgotten")
    thread.start()
    try:
        with pytest.raises(pytest.fail.Exception, match="forgotten"):
            next(fixture)
    finally:
        release.set()
        thread.join()


# ---- broken executors ----


class Doubling(InlineJobExecutor):
    """Yields every result twice."""

    def run_tasks(self, *args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        for item in super().run_tasks(*args, **kwargs):
            yield item
            yield item


class Eager(InlineJobExecutor):
    """Pulls all tasks before the first result."""

    def run_tasks(self, tasks: Any, *args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        pulled = [task for task, _ in zip(tasks, range(10_000), strict=False)]
        yield from super().run_tasks(pulled, *args, **kwargs)


class Unordered(InlineJobExecutor):
    """Ignores that order was asked for."""

    def run_tasks(self, tasks: Any, *args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        yield from super().run_tasks(reversed(list(tasks)), *args, **kwargs)


class Forgetful(InlineJobExecutor):
    """Wraps errors of tasks."""

    def run_tasks(self, *args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        try:
            yield from super().run_tasks(*args, **kwargs)
        except ValueError as error:
            raise RuntimeError(str(error)) from None


class Hoarding(InlineJobExecutor):
    """Keeps a copy of whatever was scattered."""

    hoard: list[Any]

    def scatter(self, obj: Any) -> Any:
        self.__dict__.setdefault("hoard", []).append(cloudpickle.dumps(obj))
        return super().scatter(obj)


class Losing(InlineJobExecutor):
    """Claims to survive what it does not."""


class Contract(ExecutorContract):
    """The contract, to be called by hand; not collected, because its name does not begin with Test."""

    worker_names = ("inline",)


def test_a_healthy_executor_passes() -> None:
    """The checks below do not fail for everybody."""
    with InlineJobExecutor() as executor:
        Contract().test_every_task_is_yielded_once(executor, 10, ordered=True)
        Contract().test_tasks_are_pulled_lazily(executor, ordered=False)
        Contract().test_error_of_a_task(executor, ordered=False)


def test_finds_doubled_results() -> None:
    """A result that comes twice is found."""
    with Doubling() as executor, pytest.raises(AssertionError):
        Contract().test_every_task_is_yielded_once(executor, 10, ordered=False)


def test_finds_wrong_order() -> None:
    """Results out of order are found."""
    with Unordered() as executor, pytest.raises(AssertionError):
        Contract().test_every_task_is_yielded_once(executor, 10, ordered=True)


def test_finds_eager_pulling() -> None:
    """An executor that pulls all tasks at once is found."""
    with Eager() as executor, pytest.raises(AssertionError):
        Contract().test_tasks_are_pulled_lazily(executor, ordered=False)


def test_finds_wrapped_errors() -> None:
    """An executor that changes the type of an error is found."""
    with Forgetful() as executor, pytest.raises(RuntimeError, match="on purpose"):
        Contract().test_error_of_a_task(executor, ordered=False)


def test_finds_late_checks() -> None:
    """An executor that looks at its arguments only when the first result is asked for is found."""
    with Doubling() as executor, pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        Contract().test_arguments_are_checked_at_once(executor)


def test_finds_kept_memory() -> None:
    """An executor that keeps a megabyte for each run is found."""
    with Hoarding() as executor, pytest.raises(AssertionError):
        Contract().test_memory_is_flat(executor)


def test_finds_workers_that_cannot_be_lost(signals: Signals) -> None:
    """Who runs tasks in the main process, and declares that it can lose workers, is told so instead of killed."""
    with Losing() as executor, pytest.raises(AssertionError, match="can_lose_workers = False"):
        Contract().test_killed_by_its_task(executor, signals, "SIGKILL", ordered=False)


def test_undeclared_capability_is_skipped_by_name() -> None:
    """What an executor declares not to have is skipped, and says which declaration it was."""

    class Narrow(Contract):
        streams = False

    with pytest.raises(pytest.skip.Exception, match="declared: streams = False"):
        Narrow().require("streams")


# ---- fault injectors ----


def test_signals(signals: Signals) -> None:
    """Counters count, and waiting for what never comes ends with an error that says so."""
    assert signals.count("a") == 0
    signals.add("a")
    signals.add("a")
    signals.add("ab")
    assert (signals.count("a"), signals.count("ab")) == (2, 1)
    signals.wait("a", 2)
    with pytest.raises(TimeoutError, match="'a' was counted 2 instead of 3 times"):
        signals.wait("a", 3, timeout=0.01)


def test_simple_tasks() -> None:
    """They return what they say, describe themselves, and can be sent to another process."""
    tasks = [FakeTask(3), EchoTask(3), SleepTask(3, seconds=0.001), CallTask(3, fn=lambda params, env: params)]
    results = [cloudpickle.loads(cloudpickle.dumps(task))(params="p", env=ENV) for task in tasks]
    assert results == [3, (3, "p"), 3, "p"]
    assert FakeTask(3).get_partition() == FakePartition("part-3")
    assert FakeTask(3, resources={"CUDA": 1}).get_resources() == {"CUDA": 1}
    assert (FakeTask(3).get_locations(), FakeTask(3).get_tracing_span_context()) == (None, None)


def test_raising_tasks() -> None:
    """They raise what they were given; one exception cannot be pickled."""
    with pytest.raises(ValueError, match="on purpose"):
        RaiseTask()(None, ENV)
    with pytest.raises(UnpicklableError, match="cannot be pickled") as caught:
        RaiseTask(make_error=UnpicklableError)(None, ENV)
    with pytest.raises(TypeError, match="pickle"):
        cloudpickle.dumps(caught.value)


def test_errors_that_cannot_travel() -> None:
    """One cannot be unpickled at all, one only where it was pickled, one ends the interpreter that tries."""
    with pytest.raises(TypeError, match="argument"):
        cloudpickle.loads(cloudpickle.dumps(TwoArgumentsError("dust", "pixel 3")))
    for obstacle, status in ((RuntimeError, 1), (SystemExit, 1)):
        pickled = cloudpickle.dumps(OneWayError("no way", obstacle))
        assert str(cloudpickle.loads(pickled)) == "no way"
        code = f"import pickle; pickle.loads({pickled!r}); print('went on')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (status, "")
        assert "not here" in done.stderr
    with pytest.raises(TypeError, match="pickle"):
        cloudpickle.dumps(LockTask(0))


def test_killers(signals: Signals) -> None:
    """They kill the process they are in, as often as they were told to, but never the one that made them."""
    task = KillTask(4, signals=signals, how="exit")
    params = DeadlyParams(signals, 5)
    assert cloudpickle.loads(cloudpickle.dumps(params)).value == 5
    with pytest.raises(AssertionError, match="main process"):
        KillTask(3, signals=signals)(None, ENV)
    code = "import sys, pickle; pickle.loads(sys.stdin.buffer.read()){}; print('lives')"
    for obj, call in ((task, "(None, None)"), (params, "")):
        for status, out in ((3 if obj is task else -signal.SIGKILL, b""), (0, b"lives\n")):
            done = subprocess.run(
                [sys.executable, "-c", code.format(call)],
                input=cloudpickle.dumps(obj),
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert (done.returncode, done.stdout) == (status, out)
    assert (signals.count("killed-4"), signals.count("arrived")) == (1, 2)


@pytest.mark.parametrize("kind", ["endless", "block", "sleep"])
def test_tasks_that_can_be_stopped(signals: Signals, kind: str) -> None:
    """They look at their flag between tiles."""
    flag = StopFlag(time.monotonic() + 0.02)
    env = Environment(None, False, stop=flag)
    task: FakeTask
    if kind == "endless":
        task = EndlessTask(0, signals=signals)
    elif kind == "block":
        task = BlockTask(0, signals=signals)
    else:
        task = SleepTask(0, seconds=60)
    with pytest.raises(JobCancelledError):
        task(None, env)
    assert signals.count("started") == (kind != "sleep")
    assert signals.count("stopped") == (kind == "endless")


def test_blocking_task(signals: Signals) -> None:
    """It waits until it is released; a stubborn one does not care for its flag."""
    flag = StopFlag()
    flag.set()
    signals.add("release")
    task = BlockTask(5, signals=signals, stubborn=True)
    assert task(None, Environment(None, False, stop=flag))[0] == 5
    assert signals.count("done") == 1


def test_streaming() -> None:
    """What the handler pushes, the task adds up; the handler fails where it was told to."""
    queue = SimpleWorkerQueue()
    handler = StreamHandler(fail_at=8, error=OSError("gone"))
    handler.start()
    handler.handle_task(StreamTask(7), queue)
    env = Environment(None, False, WorkerContext(queue))
    assert StreamTask(7)(None, env) == (7, StreamHandler.expected(7)) == (7, sum(range(10)) + 70)
    with pytest.raises(OSError, match="gone"):
        handler.handle_task(StreamTask(8), queue)
    handler.done()
    assert handler.calls == ["start", "task 7", "task 8", "done"]
