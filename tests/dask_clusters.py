"""Dask clusters for tests: of this process, and of processes that are started from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tilework.testing.executor_harness import SETTLE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_SECONDS = 60


@contextmanager
def scheduler_process(folder: Path, *prefix: str, host: str = "127.0.0.1") -> Iterator[str]:
    """Run ``dask scheduler`` in a process of its own; gives its address."""
    file = folder / "scheduler.json"
    command = [
        *prefix,
        *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", host, "--port", "0", "--no-dashboard"),
        *("--no-jupyter", "--dashboard-address", f"{host}:0", "--scheduler-file", str(file)),
    ]
    with process(command, folder / "scheduler.log"):
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                address: str = json.loads(file.read_text())["address"]
                break
            except (OSError, ValueError):
                assert time.monotonic() < until, (folder / "scheduler.log").read_text()
                time.sleep(0.02)
        yield address


@contextmanager
def worker_process(folder: Path, address: str, name: str, *prefix: str, n_cpus: int = 1) -> Iterator[Any]:
    """Run ``tilework worker`` in a process of its own; gives the process."""
    command = [
        *prefix,
        *(sys.executable, "-m", "tilework", "worker", address, "-c", str(n_cpus), "-n", name, "--services", "0"),
        *("-u", "", "-d", str(folder)),
    ]
    with process(command, folder / f"{name}.log") as started:
        yield started


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background; it is told to end, and waited for, at the end of the block."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


def wait_until(is_so: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait until something is so; else fail with what is wrong."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def wait_for_workers(address: str, n: int) -> None:
    """Wait until a scheduler has this many workers."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(n, timeout=START_SECONDS)


class WaitsForSeats:
    """For `ExecutorHarness`: what is queued is so when each worker has its seat."""

    @pytest.fixture(autouse=True)
    def no_runs_yet(self) -> None:
        self.seen: set[str] = set()

    def wait_queued(self, executor: Any, priority: Any) -> None:
        """Wait until each worker has the seat of the latest run, however long Dask takes to bring it there."""

        def keys(dask_worker: Any) -> list[str]:
            return [str(key) for key in dask_worker.state.tasks]

        until = time.monotonic() + SETTLE_SECONDS
        while True:
            lanes = {shipment.lane for shipment in list(executor._courier._shipments.values())}
            new = [lane.run for lane in lanes if lane.priority is priority and lane.run not in self.seen]
            known = executor.client.run(keys).values()
            if any(all(any(f"-{run}-s" in key for key in each) for each in known) for run in new):
                self.seen |= {lane.run for lane in lanes}
                return
            assert time.monotonic() < until, f"{priority} is not queued: {new}, {list(known)}"
            time.sleep(0.005)
