"""What cannot be pickled for workers, or not be unpickled by them, and what the errors say."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipelined_harness import PipelinedHarness, make
from tilework.api import Context
from tilework.common.executor import NoopCommHandler
from tilework.testing.faults import CallTask, EchoTask
from tilework.udf import UDF

if TYPE_CHECKING:
    from pathlib import Path

    from tilework.common.executor import Environment
    from tilework.executor.pipelined import PipelinedExecutor


class WithParameter(UDF):
    """Does nothing with its parameter."""

    def get_result_buffers(self) -> dict[str, Any]:
        return {"x": self.buffer(kind="nav")}

    def process_frame(self, frame: Any) -> None:
        self.results.x[:] = 1


class Stubborn:
    """Parameters that raise an error in a worker, when they are unpickled or patched there."""

    def __init__(self, when: str, error: Exception) -> None:
        self.when = when
        self.error = error
        self.main_pid = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._raise_when("unpickled")

    def patch(self, patch: Any) -> None:
        self._raise_when("patched")

    def _raise_when(self, now: str) -> None:
        if self.when == now and os.getpid() != self.main_pid:
            raise self.error


class Odd:
    """Can be pickled, but not be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("odd",))


class TestUnsendable(PipelinedHarness):
    @pytest.mark.parametrize("when", ["unpickled", "patched"])
    def test_key_errors_of_parameters(self, executor: PipelinedExecutor, when: str) -> None:
        """They are what they are: only a handle whose block has ended is one."""
        with executor.scatter(Stubborn(when, KeyError("mine"))) as handle:
            executor.scatter_update_patch(handle, 1)
            with pytest.raises(KeyError, match="mine") as caught:
                list(executor.run_tasks([EchoTask(0)], handle, 0, NoopCommHandler()))
        assert f"parameters of the run arrived at a worker, but cannot be {when}" in str(caught.value.__notes__)
        self.assert_usable(executor)

    def test_parameters_that_cannot_be_pickled(self, executor: PipelinedExecutor) -> None:
        """The error says that it is the parameters, and what to do."""
        udf = WithParameter(lock=threading.Lock())
        with pytest.raises(TypeError, match="pickle") as caught, Context(executor=executor) as ctx:
            ctx.run_udf(dataset=ctx.load("memory", data=np.ones((2, 2, 4, 4))), udf=udf)
        (note,) = caught.value.__notes__
        assert "the parameters of the run, a UDFParams, cannot be sent" in note
        assert "get_task_data" in note

    def test_a_module_that_workers_do_not_find(
        self, executor: PipelinedExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was added to the module path after they were started is missing there, and the error says so."""
        name = "tilework_test_found_later"
        (tmp_path / f"{name}.py").write_text("def double(x):\n    return 2 * x\n\n\nclass Params:\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        module = importlib.import_module(name)
        try:
            with pytest.raises(ModuleNotFoundError, match=name) as caught:
                executor.run_function(module.double, 3)
            assert "change sys.path before the context is made" in caught.value.__notes__[0]
            with pytest.raises(ModuleNotFoundError, match=name) as caught:
                self.run(executor, [EchoTask(0)], module.Params())
            assert "change sys.path before the context is made" in caught.value.__notes__[-1]
            with make(1) as later:
                assert later.run_function(module.double, 3) == 6
        finally:
            del sys.modules[name]

    def test_signals_that_cannot_be_unpickled(
        self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture
    ) -> None:
        """They are dropped, with a line in the log; everything else that came with them arrives."""

        def work(params: Any, env: Environment) -> int:
            assert env.worker_context is not None
            for value in (1, Odd(), 2):
                env.worker_context.signal("part-x", "topic", {"value": value})
            return 5

        got: list[Any] = []
        handler = NoopCommHandler()
        handler.subscribe("topic", lambda _, message: got.append(message["value"]))
        assert self.run(executor, [CallTask(i, fn=work) for i in range(8)], handler=handler) == [5] * 8
        assert sorted(got) == [1] * 8 + [2] * 8
        assert caplog.text.count("a message of a task cannot be unpickled") == 8
        got.clear()
        assert self.run(executor, [CallTask(i, fn=work) for i in range(8)]) == [5] * 8, "nobody listens"
