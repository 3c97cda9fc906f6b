"""InlineJobExecutor keeps the contract, also when everything it moves goes through cloudpickle."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tilework.common.executor import NoopCommHandler
from tilework.common.threading import limits_entered, set_num_threads
from tilework.exceptions import ExecutorSpecException
from tilework.executor.inline import InlineJobExecutor
from tilework.testing.executors import ExecutorContract
from tilework.testing.faults import CallTask, FakeTask, RaiseTask
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from tilework.common.executor import Environment


class TestInline(ExecutorContract):
    make_code = "from tilework.executor.inline import InlineJobExecutor; executor = InlineJobExecutor()"
    worker_names = ("inline",)
    threads_per_worker = available_cpu_count()
    prioritises = False  # each run has its own thread: that of its consumer
    tells_interrupts = False

    def make_executor(self) -> InlineJobExecutor:
        return InlineJobExecutor()


class TestInlineDebug(ExecutorContract):
    make_code = "from tilework.executor.inline import InlineJobExecutor; executor = InlineJobExecutor(debug=True)"
    worker_names = ("inline",)
    threads_per_worker = 3
    prioritises = False
    tells_interrupts = False
    shares_memory = False

    def make_executor(self) -> InlineJobExecutor:
        return InlineJobExecutor(debug=True, inline_threads=3)


def test_runs_in_the_calling_thread() -> None:
    """Tasks and functions run in the thread that asks, and only when it asks."""
    ran: list[int] = []
    with InlineJobExecutor() as executor, executor.scatter(None) as handle:
        tasks = [CallTask(i, fn=lambda params, env: ran.append(threading.get_ident())) for i in range(3)]
        results = executor.run_tasks(tasks, handle, 0, NoopCommHandler())
        assert ran == []
        next(results)
        assert ran == [threading.get_ident()]
        results.close()
        assert executor.run_function(threading.get_ident) == threading.get_ident()


def test_an_interrupted_task_interrupts_the_consumer() -> None:
    """Ctrl-C in a task is Ctrl-C for the consumer: they have one thread."""
    with InlineJobExecutor() as executor, executor.scatter(None) as handle:
        with pytest.raises(KeyboardInterrupt):
            next(executor.run_tasks([RaiseTask(0, make_error=KeyboardInterrupt)], handle, 0, NoopCommHandler()))
        assert executor.run_function(abs, -1) == 1


def test_ctrl_c_as_a_task_leaves_its_environment() -> None:
    """The limit of threads is gone also when Ctrl-C comes before anything could be done about it."""

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is type(set_num_threads(1)).__exit__.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    def work(params: Any, env: Environment) -> None:
        with env.enter():
            assert limits_entered() == 1
            sys.setprofile(interrupt)

    profile = sys.getprofile()
    with InlineJobExecutor() as executor, executor.scatter(None) as handle:
        try:
            with pytest.raises(KeyboardInterrupt):
                next(executor.run_tasks([CallTask(0, fn=work)], handle, 0, NoopCommHandler()))
        finally:
            sys.setprofile(profile)
    assert limits_entered() == 0


def test_tasks_one_by_one() -> None:
    """A task is pulled only after the result before it was consumed."""
    pulled = []

    def tasks() -> Iterator[FakeTask]:
        for i in range(5):
            pulled.append(i)
            yield FakeTask(i)

    with InlineJobExecutor() as executor, executor.scatter(None) as handle:
        for n, _ in enumerate(executor.run_tasks(tasks(), handle, 0, NoopCommHandler()), 1):
            assert len(pulled) == n


def test_messages_without_subscribers_take_no_memory() -> None:
    """A run that goes on for ever may have any number of them."""

    def work(params: Any, env: Environment) -> int:
        context = env.worker_context
        assert context is not None
        for i in range(10):
            context.signal("part-x", "topic", {"value": i})
        assert context._messages is not None
        return context._messages.size()

    with InlineJobExecutor() as executor, executor.scatter(None) as handle:
        tasks = [CallTask(i, fn=work) for i in range(3)]
        assert [left for left, _ in executor.run_tasks(tasks, handle, "run", NoopCommHandler())] == [0, 0, 0]


def test_debug_finds_what_cannot_be_pickled() -> None:
    """Tasks, parameters, functions and results that could not be sent fail, with a note that says which."""
    lock = threading.Lock()
    with InlineJobExecutor(debug=True) as executor:
        with pytest.raises(TypeError, match="pickle") as caught:
            executor.run_function(lambda: lock)
        assert "debug=True" in caught.value.__notes__[0]
        with pytest.raises(TypeError, match="pickle"):
            executor.run_function(threading.Lock)
        with pytest.raises(TypeError, match="pickle"), executor.scatter(lock):
            pass
        with executor.scatter(None) as handle:
            for task in (CallTask(0, fn=lambda p, e: lock.locked()), CallTask(0, fn=lambda p, e: threading.Lock())):
                with pytest.raises(TypeError, match="pickle"):
                    list(executor.run_tasks([task], handle, 0, NoopCommHandler()))
            with pytest.raises(TypeError, match="pickle"):
                executor.scatter_update(handle, lock)


def test_debug_copies() -> None:
    """What a task changes in its parameters, or in itself, does not reach the caller."""

    def change(params: list[int], env: Environment) -> list[int]:
        params.append(2)
        return params

    given = [1]
    with InlineJobExecutor(debug=True) as executor, executor.scatter(given) as handle:
        (result, _), *_ = executor.run_tasks([CallTask(0, fn=change)], handle, 0, NoopCommHandler())
    assert (given, result) == ([1], [1, 2])


def test_threads() -> None:
    """inline_threads is the limit inside tasks; a number that cannot be is refused."""
    with InlineJobExecutor(inline_threads=5) as executor:
        assert executor.report()["limits"]["threads_per_worker"] == 5
    with pytest.raises(ExecutorSpecException, match="inline_threads"):
        InlineJobExecutor(inline_threads=0)


@pytest.mark.usefixtures("no_device_is_set")
def test_cuda_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the environment says that this process uses a CUDA device, tasks for CUDA fit, and see it."""
    monkeypatch.setenv("TILEWORK_USE_CUDA", "3")
    with InlineJobExecutor() as executor, executor.scatter(None) as handle:
        task = CallTask(0, fn=lambda p, env: (env.gpu_id, env.device_class), resources={"CUDA": 1})
        assert [r for r, _ in executor.run_tasks([task], handle, 0, NoopCommHandler())] == [(3, "cuda")]
