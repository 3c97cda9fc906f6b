"""The contract of errors: whatever a task raises or cannot send, the consumer gets an error that says so."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tilework.exceptions import RemoteError
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import (
    CallTask,
    EndlessTask,
    FakeTask,
    LockTask,
    OneWayError,
    RaiseTask,
    TwoArgumentsError,
    UnpicklableError,
    WantsMoreError,
    raise_here,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.common.executor import JobExecutor
    from tilework.testing.faults import Signals

__all__ = ["ErrorContract"]


def _main_error() -> Exception:
    """Return an exception of a class that a notebook would define."""
    return type("NotebookError", (Exception,), {"__module__": "__main__"})("from a cell")  # type: ignore[no-any-return]


def _heavy_error() -> Exception:
    return ValueError("with an array", np.arange(100 * 2**17, dtype=np.float64))


class ErrorContract(ExecutorHarness):
    """After each of these the executor is ready for the next run."""

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

    @pytest.mark.parametrize(
        "make_error",
        [
            UnpicklableError,
            partial(TwoArgumentsError, "this cannot be pickled", "all"),
            partial(OneWayError, "this cannot be pickled"),
            partial(OneWayError, "this cannot be pickled", SystemExit),
        ],
        ids=["holds a lock", "two arguments", "one way", "one way that ends the interpreter"],
    )
    def test_error_that_cannot_travel(self, executor: JobExecutor, make_error: Callable[[], Exception]) -> None:
        """It arrives as itself, or as a RemoteError with its type, text and traceback; never as something else."""
        kind = type(make_error())
        with pytest.raises((kind, RemoteError), match="this cannot be pickled") as caught:
            self.run(executor, [FakeTask(0), RaiseTask(1, make_error=make_error)])
        if self.shares_memory:
            assert type(caught.value) is kind
        text = "".join(traceback.format_exception(caught.value))
        assert kind.__name__ in text
        assert raise_here.__name__ in text
        self.assert_usable(executor)

    def test_error_whose_constructor_wants_more(self, executor: JobExecutor) -> None:
        """It arrives as itself, with what it keeps, though ``pickle`` alone could not make it again."""
        with pytest.raises(WantsMoreError, match="caught at noon") as caught:
            self.run(executor, [FakeTask(0), RaiseTask(1, make_error=partial(WantsMoreError, "caught", "noon"))])
        assert (caught.value.args, caught.value.where) == (("caught at noon",), "noon")
        assert raise_here.__name__ in "".join(traceback.format_exception(caught.value))
        self.assert_usable(executor)

    def test_error_that_carries_a_large_array(self, executor: JobExecutor) -> None:
        """An error that carries 100 MiB arrives, whole."""
        with pytest.raises(ValueError, match="with an array") as caught:
            self.run(executor, [RaiseTask(0, make_error=_heavy_error)])
        assert np.array_equal(caught.value.args[1], _heavy_error().args[1])
        self.assert_usable(executor)

    @pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, asyncio.CancelledError, KeyboardInterrupt])
    def test_task_that_asks_for_the_end(self, executor: JobExecutor, kind: type[BaseException]) -> None:
        """What would end the consumer's interpreter, generator or asyncio task arrives as a RemoteError."""
        if kind is KeyboardInterrupt:
            self.require("tells_interrupts")
        with pytest.raises(RemoteError, match=f"{kind.__name__}: enough"):
            self.run(executor, [FakeTask(0), RaiseTask(1, make_error=lambda: kind("enough"))])
        with pytest.raises(RemoteError, match=f"{kind.__name__}: enough"):
            executor.run_function(raise_here, lambda: kind("enough"))
        self.assert_usable(executor)

    # ---- what cannot be sent ----

    def test_task_that_cannot_be_pickled(self, executor: JobExecutor) -> None:
        """Where tasks must be sent, the error says that this one cannot be."""
        tasks = [FakeTask(0), LockTask(1), FakeTask(2)]
        if self.shares_memory:
            assert sorted(self.run(executor, tasks)) == [0, 1, 2]
        else:
            with pytest.raises(Exception, match="pickle"):
                self.run(executor, tasks)
        self.assert_usable(executor)

    def test_result_that_cannot_be_pickled(self, executor: JobExecutor) -> None:
        """Where results must be sent, the error says that this one cannot be, and a note what it is."""
        tasks = [FakeTask(0), CallTask(1, fn=lambda params, env: threading.Lock())]
        if self.shares_memory:
            assert len(self.run(executor, tasks)) == 2
            assert not executor.run_function(threading.Lock).locked()
        else:
            for use in (lambda: self.run(executor, tasks), lambda: executor.run_function(threading.Lock)):
                with pytest.raises(Exception, match="pickle") as caught:
                    use()
                assert "lock" in "".join(caught.value.__notes__)
        self.assert_usable(executor)

    @pytest.mark.parametrize("obstacle", [RuntimeError, SystemExit])
    def test_result_that_cannot_be_unpickled(self, executor: JobExecutor, obstacle: type[BaseException]) -> None:
        """Where results come from other processes, the error says what is wrong, and does not end the interpreter."""
        tasks = [FakeTask(0), CallTask(1, fn=lambda params, env: OneWayError("a result", obstacle))]
        if executor.run_function(os.getpid) == os.getpid():
            assert len(self.run(executor, tasks)) == 2
        else:
            with pytest.raises(Exception, match="not here") as caught:
                self.run(executor, tasks)
            assert "cannot be unpickled" in "".join(traceback.format_exception(caught.value))
        self.assert_usable(executor)

    def test_parameters_and_functions_that_cannot_be_pickled(self, executor: JobExecutor) -> None:
        """Where they must be sent, scatter, update and call say that these cannot be; nothing changes by that.

        A note says what it is that was scattered.
        """
        lock = threading.Lock()
        if self.shares_memory:
            assert self.run(executor, [CallTask(0, fn=lambda params, env: params is lock)], lock) == [True]
            assert executor.run_function(lock.locked) is False
        else:
            with pytest.raises(Exception, match="pickle") as caught, executor.scatter(lock):
                pass
            assert "lock" in "".join(caught.value.__notes__)
            with executor.scatter("harmless") as handle, pytest.raises(Exception, match="pickle") as caught:
                executor.scatter_update(handle, lock)
            assert "lock" in "".join(caught.value.__notes__)
            with pytest.raises(Exception, match="pickle"):
                executor.run_function(lock.locked)
        self.assert_usable(executor)

    def test_parameters_that_cannot_be_unpickled(self, executor: JobExecutor) -> None:
        """Where they arrive in another process, the error says that it is about them."""
        if executor.run_function(os.getpid) == os.getpid():
            assert self.run(executor, [FakeTask(0)], OneWayError("a parameter")) == [0]
        else:
            with pytest.raises(Exception, match="not here") as caught:
                self.run(executor, [FakeTask(0)], OneWayError("a parameter"))
            text = "".join(traceback.format_exception(caught.value))
            assert "the parameters of the run arrived at a worker, but cannot be unpickled there" in text
        self.assert_usable(executor)

    # ---- several errors, and errors of others ----

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
