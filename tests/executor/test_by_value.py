"""Functions and properties with a cache reach workers, which have nothing of the program's own module."""

from __future__ import annotations

import functools
import subprocess
import sys
from fnmatch import _compile_pattern  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

import pytest

from tilework.executor.remote import dumps, loads

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """\
import functools
import sys

import numpy as np

from tilework.api import Context
from tilework.udf import UDF


@functools.lru_cache(maxsize=7, typed=True)
def weight(power):
    return 2.0**power


@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


class Weighted(UDF):
    def get_result_buffers(self):
        return {"total": self.buffer("nav")}

    @staticmethod
    @functools.lru_cache
    def offset(n):
        return fibonacci(n)

    @functools.cached_property
    def scale(self):
        return self.params.factor(3)

    def process_frame(self, frame):
        self.results.total[:] = frame.sum() * self.scale + self.offset(10)


def run(executor):
    if executor == "pool":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        from tilework.executor.concurrent import ConcurrentJobExecutor

        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
        ctx = Context(executor=ConcurrentJobExecutor(pool))
    elif executor == "debug":
        from tilework.executor.inline import InlineJobExecutor

        ctx = Context(executor=InlineJobExecutor(debug=True))
    else:
        ctx = Context.make_with(executor, cpus=2)
    with ctx:
        dataset = ctx.load("memory", data=np.ones((2, 3, 4, 5), dtype=np.float32), num_partitions=2)
        found = ctx.run_udf(dataset=dataset, udf=Weighted(factor=weight))
        assert np.all(found["total"].data == 20 * 8 + 55), found["total"].data
        assert ctx.executor.run_function(lambda: weight.cache_parameters()) == {"maxsize": 7, "typed": True}
    print("right")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        import multiprocessing

        process = multiprocessing.get_context(sys.argv[2]).Process(target=run, args=sys.argv[1:2])
        process.start()
        process.join()
    else:
        run(sys.argv[1])
"""


@pytest.mark.parametrize(
    "arguments",
    ["debug", "pipelined", "dask", "pool", "debug spawn", "pipelined spawn", "pipelined forkserver", "dask spawn"],
)
def test_functions_of_the_program(tmp_path: Path, arguments: str) -> None:
    """Also in a process that `multiprocessing` started, where the program has another name."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def test_functions_in_functions() -> None:
    """They have no name that leads to them; each gets a cache of its own."""
    calls = []

    @functools.lru_cache
    def noted(n: int) -> Any:
        calls.append(n)
        return noted, n

    assert noted(5)[1] == 5
    back = loads(dumps(noted))
    assert back.cache_info().currsize == 0
    assert back(5) == (back, 5)
    assert back(5) == (back, 5)
    assert back.cache_info().hits == 1
    assert calls == [5]  # what the function fills went along with it


def test_functions_that_can_be_imported_are_the_same_there() -> None:
    """So that what is in their cache stays in use."""
    assert loads(dumps((lambda: None, _compile_pattern)))[1] is _compile_pattern
