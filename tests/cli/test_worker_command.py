"""``tilework worker``: workers for a Dask scheduler that runs elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from dask_clusters import process, scheduler_process, wait_for_workers
from tilework.executor.dask import DaskJobExecutor

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "tilework", "worker"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_serve_until_they_are_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    """They have names and resources as in a local cluster, and end quietly."""
    with scheduler_process(tmp_path) as address:
        arguments = [address, "-c", "1", "-u", "", "-n", "lab", "-d", str(tmp_path), "--preload", "colorsys"]
        with process([*COMMAND, *arguments], tmp_path / "log") as started:
            wait_for_workers(address, 2)
            with DaskJobExecutor.connect(address) as executor:
                assert executor.lt_resources
                workers = {w.name: w.resources for w in executor.get_available_workers()}
                assert workers == {"lab-cpu-0": {"CPU": 1, "compute": 1, "ndarray": 1}, "lab-service-0": {}}
                loaded = executor.run_each_worker(lambda: "colorsys" in sys.modules)
                assert loaded == {"lab-cpu-0": True, "lab-service-0": True}
            started.send_signal(number)
            assert started.wait(30) == 0
        assert (tmp_path / "log").read_text() == ""


def test_workers_end_with_their_scheduler(tmp_path: Path) -> None:
    """When the scheduler has ended, so do they."""
    with scheduler_process(tmp_path) as address:
        worker = subprocess.Popen([*COMMAND, address, "-c", "1", "-u", "", "--services", "0", "-d", str(tmp_path)])
        wait_for_workers(address, 1)
        time.sleep(1)  # it may be known to the scheduler a moment before it has started
    assert worker.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-u", "one"], "--cudas must be numbers of devices, such as 0,1, or '' for none, not 'one'\n"),
        (["-u", "99"], "no CUDA device 99"),
        (["-c", "0", "-u", "", "--services", "0"], "nothing to start"),
        (["-c", "-1", "-u", ""], "tilework: --n-cpus must not be negative, it is -1\n"),
        (["--services", "-1"], "tilework: --services must not be negative, it is -1\n"),
        (["tcp://127.0.0.1:1", "-c", "1", "-u", ""], "no Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_what_does_not_fit(arguments: list[str], message: str) -> None:
    """One line says what is wrong, before anything is started."""
    start = time.monotonic()
    environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - start < 9, "it does not heed how long Dask may take to connect"
