"""Datasets, functions and contexts that the tests of runs share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.executor import NoopCommHandler
from tilework.udf import UDF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from tilework.common.executor import JobExecutor


def counts(shape: tuple[int, ...] = (6, 5, 8, 7), dtype: Any = "u2", seed: int = 0) -> np.ndarray[Any, Any]:
    """Return Poisson-like counts; complex dtypes get an imaginary part, bools say which are many."""
    rng = np.random.default_rng(seed)
    data: np.ndarray[Any, Any] = rng.poisson(30, size=shape)
    if np.dtype(dtype).kind == "c":
        data = data + 1j * rng.normal(size=shape)
    elif np.dtype(dtype).kind == "b":
        data = data > 30
    return data.astype(dtype)


class FrameMax(UDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", dtype=np.float32)}

    def process_frame(self, frame: Any) -> None:
        self.results.maximum[:] = frame.max()


class TileSum(UDF):
    """Sums over sig and over frames, from tiles."""

    def get_result_buffers(self) -> Any:
        return {
            "nav": self.buffer(kind="nav", dtype=np.float64),
            "sig": self.buffer(kind="sig", dtype=np.float64),
            "frames": self.buffer(kind="single", dtype=np.int64),
        }

    def get_preferred_input_dtype(self) -> Any:
        return np.float64

    def process_tile(self, tile: Any) -> None:
        self.results.nav[:] += tile.sum(axis=(1, 2))
        self.results.sig[:] += tile.sum(axis=0)
        if self.meta.tiling_scheme_idx == 0:
            self.results.frames[:] += len(tile)

    def merge(self, dest: Any, src: Any) -> None:
        dest.nav[:] = src.nav
        dest.sig[:] += src.sig
        dest.frames[:] += src.frames


class PartitionMean(UDF):
    def get_result_buffers(self) -> Any:
        return {"mean": self.buffer(kind="nav", dtype=np.float64)}

    def process_partition(self, partition: Any) -> None:
        self.results.mean[:] = partition.mean(axis=(1, 2), dtype=np.float64)


@contextmanager
def collecting_by_hand() -> Iterator[None]:
    """Let the garbage collector come by only where it is called."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def leave_run(executor: JobExecutor, handle: Any, tasks: Iterable[Any]) -> None:
    """Begin a run, "left", and leave it to the garbage collector, which alone finds what refers to itself."""
    results = executor.run_tasks(tasks, handle, "left", NoopCommHandler())
    next(results)
    circle: list[Any] = [results]
    circle.append(circle)


def interrupt_once_started(command: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Run a program, and press Ctrl-C in its terminal when the file ``started`` is in the folder.

    Modules of the folder come first. Returns the exit code, and what it wrote to stdout and stderr.
    """
    program = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
    )
    try:
        until = time.monotonic() + 60
        while not (folder / "started").exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(program.pid, signal.SIGINT)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
        program.wait()
    return program.returncode, out, err
