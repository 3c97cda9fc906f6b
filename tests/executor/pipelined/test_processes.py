"""Worker processes: how they start, end, and what is left of them."""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from tests_helpers import collecting_by_hand, leave_run
from tilework.api import Context
from tilework.common.executor import NoopCommHandler
from tilework.exceptions import ExecutorError, ExecutorSpecException, JobCancelledError, WorkerLostError
from tilework.executor.pipelined import PipelinedExecutor, PoolStateError
from tilework.executor.pipelined.process import Patience
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import TILE_SECONDS, CallTask, EchoTask, FakePartition, FakeTask, SleepTask
from tilework.udf import UDF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import Environment
    from tilework.testing.faults import Signals


def make(n: int = 2, **kwargs: Any) -> PipelinedExecutor:
    return PipelinedExecutor(PipelinedExecutor.make_spec(n, []), **kwargs)


def open_descriptors() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def crash(params: Any, env: Environment) -> None:
    ctypes.string_at(8)


def talk_at_the_end(signals: Signals, params: Any, env: Environment) -> None:
    """Send more messages than a line takes, when the run has been cancelled."""
    signals.add("started")
    try:
        while True:
            env.raise_if_stopped()
            time.sleep(TILE_SECONDS)
    finally:
        assert env.worker_context is not None
        for _ in range(5000):
            env.worker_context.signal("part", "topic", {})


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

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["when"] == "unpickled":
            raise state["error"]
        self.__dict__.update(state)

    def patch(self, patch: Any) -> None:
        raise self.error


class Odd:
    """Can be pickled, but not be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("odd",))


class TestProcesses(ExecutorHarness):
    """Each test proves that nothing is left behind."""

    can_lose_workers = True

    def make_executor(self) -> PipelinedExecutor:
        return make()

    def test_crash_in_compiled_code(self, executor: PipelinedExecutor) -> None:
        """A task that dereferences null ends its run with signal, partition and the Python traceback of the crash."""
        with pytest.raises(WorkerLostError, match=r"part-3 lost its worker 3 times") as caught:
            self.run(executor, [FakeTask(0), CallTask(3, fn=crash)])
        text = str(caught.value)
        assert "SIGSEGV" in text
        assert "Segmentation fault" in text
        assert "in crash" in text, "the traceback of the crash is missing"
        self.assert_usable(executor)
        assert any(event["event"] == "worker_lost" for event in executor.report()["events"])

    def test_functions_for_certain_items(self, executor: PipelinedExecutor) -> None:
        """Who loses workers with a function is told for which worker, or partition, it was called."""
        with pytest.raises(WorkerLostError, match=r"^the function .* on worker cpu-[01] lost its worker 3 times"):
            executor.run_each_worker(os.abort)
        with pytest.raises(WorkerLostError, match=r"<lambda> for partition part-7 lost its worker 3 times"):
            list(executor.run_each_partition([FakePartition("part-7")], lambda _: os.abort()))
        self.assert_usable(executor)

    def test_what_workers_write_to_stderr(self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture) -> None:
        """It goes to the log, with the worker's name, and its end into the report."""
        with caplog.at_level(logging.INFO, logger="tilework"):
            executor.run_each_worker(lambda: os.write(2, b"first\nsecond\n"))
            until = time.monotonic() + 10
            while caplog.text.count("second") < 2 and time.monotonic() < until:
                time.sleep(0.01)
        assert "cpu-0: first" in caplog.text
        assert "cpu-1: second" in caplog.text
        assert [process["stderr"] for process in executor.report()["processes"]] == [["first", "second"]] * 2

    def test_warnings_are_seen(self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture) -> None:
        """What Python warns of in a worker is logged as a warning, also when the executor is closed right after it."""
        executor.run_function(lambda: np.array([1.0]) / 0)
        executor.close()
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.message.startswith("cpu-")
        assert "RuntimeWarning: divide by zero" in record.message

    def test_last_words_are_logged_once(self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture) -> None:
        """The traceback of a crash is told with the loss of the worker, and not before it as well."""
        with pytest.raises(WorkerLostError):
            executor.run_function(ctypes.string_at, 8)
        self.assert_usable(executor)
        told = [record.message for record in caplog.records if "Segmentation fault" in record.message]
        assert len(told) == 3
        assert all(text.startswith("lost worker") for text in told)

    def test_progress_bars_are_logged_once(self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture) -> None:
        """They write a line again and again, of which the end counts."""
        executor.run_function(lambda: os.write(2, b"10%\r20%\r100%\nafter\n"))
        executor.close()
        (record,) = caplog.records
        assert [line.partition(": ")[2] for line in record.message.splitlines()] == ["100%", "after"]

    def test_stderr_without_ends_of_lines(self, executor: PipelinedExecutor) -> None:
        """Dots and progress bars neither fill memory nor hold up what others do; the end of them is kept."""

        def dots() -> None:
            for _ in range(300):
                os.write(2, b"." * 65536)

        executor.run_function(dots)
        members = executor._hub.pool.members
        assert max(len(member.output.rest) for member in members) <= 1 << 14
        executor.run_each_worker(lambda: os.write(2, "\n10%\r20%\r\n30% ä".encode()))
        until = time.monotonic() + 20
        while not all(member.output.rest == "30% ä".encode() for member in members):
            assert time.monotonic() < until
            time.sleep(0.01)
        for process in executor.report()["processes"]:
            assert process["stderr"][-2:] == ["10%", "20%"]
            assert all(len(line) <= 1 << 14 for line in process["stderr"])

    def test_a_task_that_does_not_stop(
        self, executor: PipelinedExecutor, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A worker whose task goes on after its run has ended is killed and replaced, when its time is over.

        That is said once, and not that somebody killed it, or that memory ran out.
        """

        def work(i: int) -> None:
            if i == 0:
                signals.add("started")
                time.sleep(60)
            signals.wait("started")
            msg = "the other one"
            raise ValueError(msg)

        before = set(self.worker_pids(executor))
        with pytest.raises(ValueError, match="the other one"):
            executor.map(work, [0, 1])
        self.assert_usable(executor)
        until = time.monotonic() + 10
        while len(set(self.worker_pids(executor)) - before) != 1:
            assert time.monotonic() < until
            time.sleep(0.01)
        (told,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
        assert "is killed and replaced: its task did not stop" in told

    def test_arguments_of_a_worker_that_did_not_stop(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """What was on its way to a worker that is killed after the end of its run leaves the shared memory."""

        def work(item: np.ndarray[Any, Any]) -> None:
            if item[0]:
                signals.wait("started")
                msg = "the other one"
                raise ValueError(msg)
            signals.add("started")
            time.sleep(60)

        items = [np.full(1 << 20, i, np.uint8) for i in (0, 1, 0, 0, 0)]
        with pytest.raises(ValueError, match="the other one"):
            executor.map(work, items)
        self.assert_usable(executor)
        arena = executor._hub.pool.arena
        until = time.monotonic() + 10
        while arena.n_blocks:
            assert time.monotonic() < until
            time.sleep(0.01)

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

    def test_an_error_in_the_hub_costs_nothing_else(
        self, executor: PipelinedExecutor, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither a request that fails nor nonsense from a worker keeps others from being heard."""

        def work(params: Any, env: Environment) -> int:
            if not signals.count("said"):
                signals.add("said")
                context: Any = env.worker_context
                context._messages._wire.send(b"nonsense")
            return 5

        def fail() -> None:
            raise ZeroDivisionError

        executor._hub.request(fail)
        tasks = [CallTask(i, fn=work if i == 3 else lambda *_: 5) for i in range(20)]
        assert self.run(executor, tasks) == [5] * 20
        assert caplog.text.count("an error in the hub") == 2
        # The run may be over before the process is.
        until = time.monotonic() + 10
        while "something that it sent could not be taken" not in str(executor.report()["events"]):
            assert time.monotonic() < until, executor.report()["events"]
            time.sleep(0.01)

    def test_subscribers_that_wait_or_end_the_thread(self, executor: PipelinedExecutor) -> None:
        """One that waits for the executor which has called it is told so; and none ends the thread of the hub."""
        told: list[str] = []

        def wait(*_: Any) -> None:
            try:
                executor.run_function(abs, -1)
            except ExecutorError as error:
                told.append(str(error))

        def leave(*_: Any) -> None:
            sys.exit("on purpose")

        executor.subscribe("worker_lost", wait)
        executor.subscribe("worker_lost", leave)
        self.kill_worker(self.worker_pids(executor)[0])
        self.assert_usable(executor)
        assert len(told) == 1
        assert "let another thread do that" in told[0]

    def test_the_hub_does_not_wait_for_itself(self, executor: PipelinedExecutor) -> None:
        """A run that nobody has any more may be found by the garbage collector in the hub's own thread."""

        with collecting_by_hand(), executor.scatter(None) as handle:
            leave_run(executor, handle, [SleepTask(i) for i in range(10)])
            start = time.monotonic()
            executor._hub.request(gc.collect)  # type: ignore[arg-type]
            self.assert_usable(executor)
            while executor.cancel("left"):
                assert time.monotonic() - start < 5

    def test_a_stopped_worker_delays_only_its_task(self, executor: PipelinedExecutor) -> None:
        """While a worker is stopped from outside, the other one does all the rest; then it goes on."""
        pid = self.worker_pids(executor)[0]
        with self.start(executor, (SleepTask(i, seconds=0.003) for i in range(80))) as results:
            got = [next(results)[0]]
            os.kill(pid, signal.SIGSTOP)
            try:
                got += [next(results)[0] for _ in range(70)]
            finally:
                os.kill(pid, signal.SIGCONT)
            got += [index for index, _ in results]
        assert sorted(got) == list(range(80))

    def test_workers_are_replaced_quickly(self, executor: PipelinedExecutor) -> None:
        """After the loss of all workers there are new ones, pinned like those before."""
        for process in executor.report()["processes"]:
            os.kill(process["pid"], signal.SIGKILL)
        assert executor.run_each_worker(lambda: len(os.sched_getaffinity(0))) == {"cpu-0": 1, "cpu-1": 1}

    def test_the_forking_process_is_killed(self, executor: PipelinedExecutor) -> None:
        """Workers live on without the process that forked them, and new ones come from another."""
        parents = {psutil.Process(pid).ppid() for pid in self.worker_pids(executor)}
        assert len(parents) == 1
        psutil.Process(parents.pop()).kill()
        self.assert_usable(executor)
        for pid in self.worker_pids(executor):
            os.kill(pid, signal.SIGKILL)
        self.assert_usable(executor)

    def test_resize(self, executor: PipelinedExecutor) -> None:
        """The pool grows and shrinks while a run goes on, which loses nothing, and uses what there is."""
        begun: list[int] = []
        is_enough = False

        def tasks() -> Iterator[CallTask]:
            while not is_enough:
                begun.append(len(begun))
                yield CallTask(begun[-1], fn=_pid)

        with self.start(executor, tasks()) as results:
            got = [next(results) for _ in range(20)]
            executor.resize(4)
            while len({pid for pid, _ in got}) < 4:
                got.append(next(results))
            executor.resize(1)
            late = [next(results) for _ in range(50)]
            while len({pid for pid, _ in late[-50:]}) > 1:
                late.append(next(results))
            is_enough = True
            idents = [task.get_partition().get_ident() for _, task in [*got, *late, *results]]
        assert sorted(idents) == sorted(f"part-{i}" for i in begun)
        assert executor.get_available_workers().names() == ["cpu-0"]
        assert list(executor.run_each_worker(os.getpid)) == ["cpu-0"]
        self.assert_usable(executor)
        with pytest.raises(ExecutorSpecException, match="at least one"):
            executor.resize(0)
        with pytest.raises(ExecutorSpecException, match=r"whole number of workers, not 1\.5"):
            executor.resize(1.5)  # type: ignore[arg-type]

    def test_a_call_for_a_worker_that_is_taken_away(self, executor: PipelinedExecutor, signals: Signals) -> None:
        """It says so, when the worker has not begun it; other calls are done by the others."""

        def work(i: int) -> int:
            signals.add("started")
            signals.wait("go on")
            return i

        with self.background() as submit:
            others = submit(executor.map, work, range(6))
            signals.wait("started", 2)
            each = submit(executor.run_each_worker, os.getpid)
            time.sleep(0.2)
            executor.resize(1)
            with pytest.raises(WorkerLostError, match=r"cpu-1 is not there any more: it was taken away by resize\(\)"):
                each.result(10)
            signals.add("go on")
            assert others.result(10) == list(range(6))
        self.assert_usable(executor)
        assert list(executor.run_each_worker(os.getpid)) == ["cpu-0"]

    def test_resize_while_workers_start(self, nothing_left: None) -> None:
        """Those that are not wanted any more when they are ready take nothing, and are not replaced."""
        with make(early_setup=lambda: time.sleep(0.3)) as executor:

            def wait_for(n: int) -> None:
                until = time.monotonic() + 20
                while len(executor.report()["processes"]) != n:
                    assert time.monotonic() < until
                    time.sleep(0.001)

            executor.resize(6)
            wait_for(6)
            executor.resize(1)
            wait_for(1)
            time.sleep(0.2)
            assert [process["name"] for process in executor.report()["processes"]] == ["cpu-0"]
            assert not any(event["event"] == "worker_lost" for event in executor.report()["events"])

    def test_scattered_objects_reach_new_workers(self, executor: PipelinedExecutor) -> None:
        """A worker that comes later has what was scattered before."""
        with executor.scatter("params") as handle:
            executor.resize(3)
            run = executor.run_tasks([EchoTask(i) for i in range(30)], handle, 0, NoopCommHandler())
            assert {params for (_, params), _ in run} == {"params"}

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

    def test_random_numbers_differ(self, executor: PipelinedExecutor) -> None:
        """Workers are copies of one process, but do not draw the same random numbers."""
        drawn = executor.run_each_worker(_draw)
        assert len(set(drawn.values())) == 2

    def test_early_setup(self, nothing_left: None) -> None:
        """It runs in each worker before anything else, also in one that replaces another."""

        def early() -> None:
            os.environ["TILEWORK_TEST_EARLY"] = "yes"

        with make(early_setup=early) as executor:
            for _ in range(2):
                seen = executor.run_each_worker(lambda: os.environ.get("TILEWORK_TEST_EARLY"))
                assert seen == {"cpu-0": "yes", "cpu-1": "yes"}
                for pid in self.worker_pids(executor):
                    os.kill(pid, signal.SIGKILL)

    def test_error_in_the_set_up(self, nothing_left: None) -> None:
        """The constructor raises what the set-up of a worker raised."""

        def early() -> None:
            msg = "no licence"
            raise LookupError(msg)

        with pytest.raises(LookupError, match="no licence"):
            make(early_setup=early)

    def test_death_in_the_set_up(self, nothing_left: None) -> None:
        """A worker that ends while it is set up is reported with how it ended, and what it wrote."""

        def early() -> None:
            os.write(2, b"there is no display\n")
            os._exit(3)

        with pytest.raises(PoolStateError, match=r"(?s)failed to start.*exit code 3.*there is no display"):
            make(early_setup=early)

    def test_slow_set_up(self, nothing_left: None) -> None:
        """A set-up that takes too long ends with an error, and nothing is left."""
        with pytest.raises(PoolStateError, match="Timeout while starting workers"):
            make(early_setup=lambda: time.sleep(60), startup_timeout=0.5)

    def test_slow_set_up_asks_for_patience(self, nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """One warning, while the workers are waited for; a failure is also a RuntimeError."""
        monkeypatch.setattr(Patience.__init__, "__defaults__", (0.3,))
        with pytest.warns(RuntimeWarning, match="Slow worker startup, please be patient") as caught:
            make(early_setup=lambda: time.sleep(1)).close()
        assert len(caught) == 1
        with pytest.warns(RuntimeWarning, match="patient"), pytest.raises(RuntimeError, match="Timeout while starting"):
            make(early_setup=lambda: time.sleep(60), startup_timeout=0.7)

    def test_workers_that_cannot_be_started_again(self, nothing_left: None, tmp_path: Path) -> None:
        """When every new worker fails in its set-up, a run ends with an error instead of waiting for ever."""
        switch = tmp_path / "fail"

        def early() -> None:
            if switch.exists():
                os._exit(1)

        with make(early_setup=early) as executor:
            switch.touch()
            with pytest.raises(WorkerLostError):
                self.run(executor, [CallTask(i, fn=lambda p, e: os.kill(os.getpid(), 9)) for i in range(2)])
            with pytest.raises(WorkerLostError, match=r"no worker|lost its worker"):
                executor.run_function(abs, -1)

    def test_workers_that_end_as_soon_as_they_are_ready(self, nothing_left: None, tmp_path: Path) -> None:
        """They are started again a few times, and then a run ends with an error."""
        starts, all_ready = tmp_path / "starts", tmp_path / "ready"

        def early() -> None:
            def end() -> None:
                while not all_ready.exists():  # the first ones
                    time.sleep(0.01)
                time.sleep(0.02)
                os._exit(3)

            if all_ready.exists():
                with starts.open("a") as file:
                    file.write("x")
            threading.Thread(target=end, daemon=True).start()

        with make(early_setup=early) as executor:
            all_ready.touch()

            def is_hopeless() -> bool:
                with executor._hub.lock:
                    return executor._hub.exchange.roster.is_hopeless

            until = time.monotonic() + 20
            while not is_hopeless():
                assert time.monotonic() < until, f"started {len(starts.read_text())} times, and no end"
                time.sleep(0.05)
            assert len(starts.read_text()) <= 12
            with pytest.raises(WorkerLostError, match="exit code 3"):
                executor.run_function(abs, -1)

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_the_current_folder_is_removed(
        self, when: str, nothing_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Workers are started, and started again, all the same."""
        folder = tmp_path / "folder"
        folder.mkdir()
        monkeypatch.chdir(folder)
        if when == "before":
            folder.rmdir()
        with make() as executor:
            if when == "after":
                folder.rmdir()
            for pid in self.worker_pids(executor):
                self.kill_worker(pid)
            self.assert_usable(executor)

            def lacks_attribute() -> bool:
                try:  # Python 3.13 looks for a module of that name where the program is
                    return bool(threading.nothing)  # type: ignore[attr-defined]
                except AttributeError:
                    return True

            assert list(executor.run_each_worker(lacks_attribute).values()) == [True, True]

    def test_environment_of_workers(self, executor: PipelinedExecutor) -> None:
        """Workers have the main process's folder, module path and arguments, a name, and ignore Ctrl-C."""

        def look() -> tuple[str, list[str], list[str], str, Any]:
            with open("/proc/self/comm") as file:  # noqa: PTH123
                return str(Path.cwd()), sys.path, sys.argv, file.read().strip(), signal.getsignal(signal.SIGINT)

        for i, (cwd, path, argv, name, handler) in enumerate(executor.run_each_worker(look).values()):
            assert cwd == str(Path.cwd())
            assert path == sys.path
            assert argv == sys.argv
            assert name == f"worker-{i}"
            assert handler == signal.SIG_IGN

    @pytest.mark.usefixtures("no_device_is_set")
    def test_workers_on_cuda_devices(self, nothing_left: None) -> None:
        """Tasks that ask for a device get a worker that has one, and know which; the others go to the CPUs.

        Which device a process computes on is a variable of its environment, so no device is needed to see that.
        """

        def look(params: Any, env: Environment) -> tuple[Any, ...]:
            return env.gpu_id, env.device_class, os.environ.get("TILEWORK_USE_CUDA"), len(os.sched_getaffinity(0))

        cpus = sorted(os.sched_getaffinity(0))
        with PipelinedExecutor(PipelinedExecutor.make_spec(cpus[:1], [3, 5], has_cupy=True)) as executor:
            names = [worker.name for worker in executor.get_available_workers()]
            assert names == ["cuda-3-0", "cuda-5-0", f"cpu-{cpus[0]}"]
            on_device = [CallTask(i, fn=look, resources={"CUDA": 1, "compute": 1, "ndarray": 1}) for i in range(20)]
            seen = set(self.run(executor, on_device))
            assert seen <= {(3, "cuda", "3", len(cpus)), (5, "cuda", "5", len(cpus))}, "pinned, or on another device"
            assert seen
            assert set(self.run(executor, [CallTask(0, fn=look)])) == {(None, "cpu", None, 1)}

    @pytest.mark.parametrize(("ending", "status"), [("returns", 0), ("exits", 3), ("says why", 1), ("raises", 1)])
    def test_a_task_that_forks(self, executor: PipelinedExecutor, ending: str, status: int) -> None:
        """A child that comes back from the task is no worker: it ends as a program does, and its parent answers."""

        def fork(i: int) -> int:
            pid = os.fork()
            if pid == 0:
                if ending == "raises":
                    msg = "in the child"
                    raise ValueError(msg)
                if ending != "returns":
                    raise SystemExit({"exits": 3, "says why": "because"}[ending])
                return -1
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        assert executor.map(fork, range(8)) == [status] * 8
        self.assert_usable(executor)

    def test_closed_while_a_worker_has_much_to_say(
        self, executor: PipelinedExecutor, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It does not wait until somebody listens, which nobody does any more, and so need not be killed."""
        with self.background() as submit:
            done = submit(self.run, executor, [CallTask(0, fn=partial(talk_at_the_end, signals))])
            signals.wait("started")
            executor.close()
            with pytest.raises(JobCancelledError, match="closed"):
                done.result(10)
        assert not [record for record in caplog.records if "did not end within" in record.message]

    def test_forked_parent(self, executor: PipelinedExecutor) -> None:
        """A process that is forked from the main process can neither use nor harm the executor."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                executor.run_function(abs, -1)
            except ExecutorError as error:
                code = 0 if "forked" in str(error) else 2
            finally:
                executor.close()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        self.assert_usable(executor)

    def test_fork_after_close(self, nothing_left: None) -> None:
        """A process that is forked when an executor is closed, but not forgotten, does not close what others opened."""
        executor = self.make_executor()
        before = set(open_descriptors())
        executor.close()
        numbers = before - set(open_descriptors())
        assert len(numbers) > 6
        reused = [os.open(os.devnull, os.O_RDONLY) for _ in range(max(numbers))]
        pid = os.fork()
        if pid == 0:
            os._exit(len(set(reused) - set(open_descriptors())))
        for fd in reused:
            os.close(fd)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "descriptors were closed"

    def test_a_fork_releases_no_results(self, executor: PipelinedExecutor) -> None:
        """Results lie in shared memory: what a forked process has no use for any more, the other one still has."""

        def results(number: int) -> list[Any]:
            tasks = [CallTask(i, fn=lambda _, __: np.full(1 << 15, number)) for i in range(8)]
            return self.run(executor, tasks)

        first = results(1)
        pid = os.fork()
        if pid == 0:
            first.clear()
            gc.collect()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for number in range(2, 20):
            assert all((array == number).all() for array in results(number))
        assert all((array == 1).all() for array in first)

    def test_forks_in_mid_run(self, executor: PipelinedExecutor) -> None:
        """Threads of the executor may be anywhere, with any lock, when another one forks: the new process lives."""
        stop = threading.Event()

        def work(number: int) -> None:
            while not stop.is_set():
                assert self.run(executor, [EchoTask(i) for i in range(20)], cancel_id=number)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(100):
                pid = os.fork()
                if pid == 0:
                    os._exit(7)
                until = time.monotonic() + 20
                while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
                    if time.monotonic() > until:
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                        pytest.fail("a forked process waits for a lock")
                    time.sleep(0.001)
                assert os.waitstatus_to_exitcode(ended[1]) == 7
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def test_spans_of_tasks(self, nothing_left: None, tmp_path: Path) -> None:
        """With OpenTelemetry, each task has a span, in the process where it ran and in the trace of its run."""
        pytest.importorskip("opentelemetry.sdk")
        script = tmp_path / "traced.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import json
                from opentelemetry import trace
                from tilework.common.executor import NoopCommHandler
                from tilework.executor.pipelined import PipelinedExecutor
                from tilework.testing.faults import FakeTask

                def set_up():
                    import os
                    from opentelemetry import trace
                    from opentelemetry.sdk.trace import TracerProvider
                    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
                    out = open(f"{tmp_path}/spans-{{os.getpid()}}", "w")
                    provider = TracerProvider()
                    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
                    trace.set_tracer_provider(provider)

                set_up()
                executor = PipelinedExecutor(PipelinedExecutor.make_spec(2, []), early_setup=set_up)
                with trace.get_tracer("test").start_as_current_span("root") as root, executor.scatter(1) as handle:
                    list(executor.run_tasks([FakeTask(i) for i in range(20)], handle, 0, NoopCommHandler()))
                    print(format(root.get_span_context().trace_id, "032x"))
                executor.close()
                """
            )
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        text = "".join(path.read_text() for path in tmp_path.glob("spans-*"))
        assert text.count('"name": "task"') == 20
        assert text.count(f'"trace_id": "0x{done.stdout.strip()}"') >= 20
        assert '"tilework.partition.ident": "part-7"' in text


def _pid(params: Any, env: Environment) -> int:
    time.sleep(0.005)
    return os.getpid()


def _draw() -> float:
    import numpy as np

    return float(np.random.random())  # noqa: NPY002


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("doing", ["idle", "in a run", "in compiled code"])
def test_the_main_process_is_killed(how: signal.Signals, doing: str, tmp_path: Path) -> None:
    """Two seconds after the death of the main process, in whatever it was doing, nothing of it is left."""
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys, time, ctypes
            from itertools import count
            from tilework.executor.pipelined import PipelinedExecutor
            from tilework.common.executor import NoopCommHandler
            from tilework.testing.faults import CallTask

            def busy(params, env):
                if {doing == "in compiled code"}:
                    ctypes.PyDLL(None).sleep(60)  # holds the lock of the interpreter
                while True:
                    time.sleep(0.01)

            executor = PipelinedExecutor(PipelinedExecutor.make_spec(2, []))
            pids = list(executor.run_each_worker(os.getpid).values())
            print(*pids, flush=True)
            if {doing != "idle"}:
                with executor.scatter(b"x" * 10_000_000) as handle:
                    list(executor.run_tasks((CallTask(i, fn=busy) for i in count()), handle, 0, NoopCommHandler()))
            time.sleep(60)
            """
        )
    )

    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in main.stdout.readline().split()]
        family = [*workers, *{parent for each in workers if (parent := each.parent()) is not None}]
        assert len(family) == 3
        time.sleep(0.3)
        main.send_signal(how)
        main.wait()
        _, alive = psutil.wait_procs(family, timeout=2.0)
        for each in alive:
            each.kill()
        # a child of nobody is waited for by the first process of the system, which takes its time in some containers
        assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []
    assert list(Path("/dev/shm").glob(f"tilework-{main.pid}-*")) == []
