"""What several threads do with one executor at a time, in the very moment in which that matters."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests_helpers import collecting_by_hand
from tilework.exceptions import ExecutorError
from tilework.executor.pipelined import PipelinedExecutor
from tilework.executor.pipelined.control import N_STOPS
from tilework.executor.pipelined.scattered import Scattered
from tilework.testing.executor_harness import ExecutorHarness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from tilework.testing.faults import Signals


@contextmanager
def at_call(name: str, what: Callable[[], object]) -> Iterator[None]:
    """Do something when this thread calls a function of that qualified name for the first time."""

    def trace(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code.co_qualname == name:
            sys.settrace(before)
            what()

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class CollectingHandler(logging.Handler):
    """The garbage collector comes by in it, while the lock of the handler is held."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "collect":
            gc.collect()


class TestOverlaps(ExecutorHarness):
    def make_executor(self) -> PipelinedExecutor:
        return PipelinedExecutor(PipelinedExecutor.make_spec(2, []))

    def test_resized_by_two_threads(self, executor: PipelinedExecutor) -> None:
        """The last one wins, and the executor does not wait for workers that the other one has taken away."""
        other = threading.Thread(target=executor.resize, args=(3,))

        def overtake() -> None:
            other.start()
            other.join(0.3)

        with at_call("Hub.resize", overtake):
            executor.resize(1)
        other.join()
        assert list(executor.run_each_worker(os.getpid)) == ["cpu-0", "cpu-1", "cpu-2"]

    def test_a_run_begins_as_workers_change(
        self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Those that are under way are told all the same."""
        exchange = executor._hub.exchange

        def begin() -> None:
            n = len(exchange._runs)
            other.start()
            while len(exchange._runs) == n:
                time.sleep(0.001)

        def resize() -> None:
            with at_call("Exchange._post", begin):
                exchange.resize(executor._spec)

        other = threading.Thread(target=executor.map, args=(abs, range(10)))
        with self.background() as submit:
            running = submit(executor.run_function, time.sleep, 0.5)
            while not exchange._runs:
                time.sleep(0.001)
            executor._hub.request(resize)
            running.result(10)
            other.join()
        assert "an error in the hub" not in caplog.text

    def test_what_was_not_begun_of_a_run_that_is_over(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """Its worker leaves it alone, however many runs have begun until it looks at that."""

        def keep_busy() -> None:
            signals.add("busy")
            signals.wait("go on")

        def fail() -> None:
            signals.add("called")
            raise LookupError

        exchange = executor._hub.exchange
        with self.background() as submit:
            busy = submit(executor.run_function, keep_busy)
            signals.wait("busy")
            with pytest.raises(LookupError):
                executor.run_each_worker(fail)
            exchange._numbers = itertools.count(next(exchange._numbers) - 1 + N_STOPS)
            assert executor.run_function(abs, -1) == 1
            signals.add("go on")
            busy.result(10)
        executor.run_each_worker(os.getpid)
        assert signals.count("called") == 1

    def test_replaced_when_it_is_not_there_any_more(self, executor: PipelinedExecutor) -> None:
        """What the block of a scattered object leaves behind is not brought back by a thread that was replacing it."""
        with executor.scatter("old") as handle:
            before = executor._store.look_up(handle)
            new = Scattered(handle, "new")
            with at_call("Hub.replace", lambda: executor._store.drop(handle)):
                assert not executor._hub.replace(before, new)
        assert handle not in executor._hub.exchange.scattered
        with pytest.raises(ExecutorError, match="no object is scattered"):
            executor.scatter_update(handle, "new")

    def test_forgotten_while_a_record_is_logged(self, nothing_left: None) -> None:
        """The garbage collector finds an executor whose hub has to log something, in a thread that is logging."""
        handler, logger = CollectingHandler(), logging.getLogger("collect")
        executor = self.make_executor()
        executor.run_function(os.write, 2, b"last words\n")
        circle: list[object] = [executor]
        circle.append(circle)
        hub = executor._hub
        logging.getLogger().addHandler(handler)
        try:
            with collecting_by_hand():
                del executor, circle
                logger.warning("collect")
            hub.close(0.0)
        finally:
            logging.getLogger().removeHandler(handler)
