"""How worker processes start and are set up, also after a loss, and what they find when they have."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipelined_harness import PipelinedHarness, make
from tilework.exceptions import WorkerLostError
from tilework.executor.pipelined import PipelinedExecutor, PoolStateError
from tilework.executor.pipelined.process import Patience
from tilework.testing.faults import CallTask

if TYPE_CHECKING:
    from tilework.common.executor import Environment


class TestStarting(PipelinedHarness):
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

    def test_a_module_path_with_what_is_no_text(self, nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Python passes it over, and so it is left out."""
        monkeypatch.setattr(sys, "path", [*sys.path, Path("/nowhere"), b"/nowhere"])
        with make() as executor:
            path: list[Any] = executor.run_function(lambda: sys.path)
            assert {type(folder) for folder in path} == {str}

    def test_time_without_end(self, nothing_left: None) -> None:
        """Whoever wants to wait for as long as it takes says infinity, or a very large number."""
        for seconds in (float("inf"), 1e8):
            executor = make(startup_timeout=seconds, cleanup_timeout=seconds)
            self.assert_usable(executor)
            executor.close()
            assert executor._hub._is_over

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

    def test_random_numbers_differ(self, executor: PipelinedExecutor) -> None:
        """Workers are copies of one process, but do not draw the same random numbers."""
        drawn = executor.run_each_worker(_draw)
        assert len(set(drawn.values())) == 2


def _draw() -> float:

    return float(np.random.random())  # noqa: NPY002
