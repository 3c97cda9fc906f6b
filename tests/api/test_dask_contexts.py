"""Contexts on Dask: how they are made, what they share with Dask, and how they end."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.exceptions import ExecutorSpecException
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.dask import DaskJobExecutor
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from pathlib import Path


def run_script(path: Path, code: str) -> str:
    """Run a program that is a file without a guard for its main module."""
    path.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_plain_script(tmp_path: Path) -> None:
    """The default context works in a script without any guard, and ends with it, quietly, although nobody closes it."""
    out = run_script(
        tmp_path / "script.py",
        "import numpy as np\n"
        "from tilework.api import Context\n"
        "from tilework.udf import UDF\n"
        "class FrameMax(UDF):\n"
        "    def get_result_buffers(self):\n"
        "        return {'maximum': self.buffer(kind='nav', dtype='float32')}\n"
        "    def process_frame(self, frame):\n"
        "        self.results.maximum[:] = frame.max()\n"
        "ctx = Context()\n"
        "ds = ctx.load('memory', data=np.arange(4 * 4 * 8 * 8).reshape((4, 4, 8, 8)))\n"
        "print(type(ctx.executor).__name__, ctx.run_udf(dataset=ds, udf=FrameMax())['maximum'].data.max())\n"
        "print(*ctx.executor.get_available_workers().names())\n",
    )
    workers = [*(f"default-cpu-{i}" for i in range(available_cpu_count())), "default-service-0"]
    assert out.splitlines() == ["DaskJobExecutor 1023.0", " ".join(workers)]


def test_dask_make_default(tmp_path: Path) -> None:
    """The cluster becomes Dask's, lives on when the context is closed, and can be used by both."""
    out = run_script(
        tmp_path / "script.py",
        "import dask, distributed\n"
        "from tilework.api import Context\n"
        "with Context.make_with('dask-make-default', cpus=1, snooze_timeout=1) as ctx:\n"
        "    assert distributed.default_client() is ctx.executor.client\n"
        "assert dask.delayed(abs)(-3).compute() == 3\n"
        "with Context.make_with('dask-integration') as other:\n"
        "    assert other.executor.client is ctx.executor.client\n"
        "    print(other.executor.run_function(abs, -4), other.executor.get_available_workers().names())\n",
    )
    assert out == "4 ['default-cpu-0', 'default-service-0']\n"


def test_cpus() -> None:
    """A number, or names, of CPU workers; snooze_timeout is given in minutes."""
    with Context.make_with("dask", cpus=[1], gpus=0, snooze_timeout=5) as context:
        assert context.executor.get_available_workers().names() == ["default-cpu-1", "default-service-0"]
        assert context.executor.snooze_manager._timeout == 300
        dataset = context.load("memory", data=counts())
        assert context.run_udf(dataset=dataset, udf=FrameMax())["maximum"].valid_mask.all()


def test_dask_integration() -> None:
    """Without a client Dask works on threads, and so do we."""
    with Context.make_with("dask-integration", snooze_timeout=1) as context:
        assert isinstance(context.executor, ConcurrentJobExecutor)


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("dask", {"cpus": 0, "gpus": 0}, "at least one worker"),
        ("dask", {"cpus": -1}, "negative"),
        ("dask", {"gpus": 1}, "no CUDA device"),
        ("dask", {"gpus": [0]}, "no CUDA device"),
        ("dask", {"snooze_timeout": 0}, "positive number of minutes"),
        ("dask", {"main_process_gpu": 3}, "main_process_gpu=3"),
        ("dask-integration", {"cpus": 1}, "leave out cpus"),
        ("dask-integration", {"gpus": 1}, "leave out cpus and gpus"),
    ],
)
def test_what_does_not_fit(spec: Any, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is started."""
    monkeypatch.setattr("tilework.utils.devices._cuda_devices", list)
    monkeypatch.setattr(DaskJobExecutor, "connect", None)
    monkeypatch.setattr("tilework.executor.dask.executor.start_cluster", None)
    with pytest.raises(ExecutorSpecException, match=message):
        Context.make_with(spec, **arguments)


@pytest.mark.parametrize("is_closed", [True, False])
def test_an_iteration_that_is_left_at_the_exit(is_closed: bool, tmp_path: Path) -> None:
    """It ends when there are hardly any modules left, without an error."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import numpy as np
from tilework.api import Context
from tilework.udf import SumUDF

if __name__ == "__main__":
    ctx = Context.make_with("dask", cpus=1)
    dataset = ctx.load("memory", data=np.ones((4, 4, 4, 4), np.float32), sig_dims=2, num_partitions=4)
    parts = ctx.run_udf_iter(dataset=dataset, udf=SumUDF())
    next(parts)
    if {is_closed}:
        ctx.close()
"""
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Traceback" not in done.stderr  # Dask itself may tell of a task that it has cancelled
