"""ConcurrentJobExecutor on the processes of an MPI program: its own (one master and two workers), started by mpiexec.

The contract needs a fresh interpreter and a pool that ends; MPI has one pool for the whole program. So what matters is
done by a script, in one program, which reports what it saw.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("mpi_program.py")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program saw; skipped where there is no MPI."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install mpi4py")
    if shutil.which("mpiexec") is None:
        pytest.skip("no mpiexec: install MPI, on Debian apt-get install openmpi-bin")
    folder = tmp_path_factory.mktemp("mpi")
    command = ["mpiexec", "--oversubscribe", "-n", "3"]
    if os.geteuid() == 0:
        command.insert(1, "--allow-run-as-root")
    done = subprocess.run(
        [*command, sys.executable, "-m", "mpi4py.futures", str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMPI_MCA_btl_vader_single_copy_mechanism": "none"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def test_workers(report: Any) -> None:
    """There are two, in processes of their own, and each is met by `run_each_worker`."""
    assert report["workers"] == ["process-0", "process-1"]
    assert report["worker_ranks"] == [1, 2]


def test_tasks_and_parameters(report: Any) -> None:
    """Every task is done once, in order when asked for, with parameters as they were updated and patched."""
    assert report["ordered"] == list(range(200))
    assert report["patched"] == [[1], [11], [21], [5], [7]]
    assert report["large"] is True


def test_errors(report: Any) -> None:
    """An error arrives with type, message and remote traceback; data cannot be streamed, and the error says so."""
    assert report["error"] == ["ValueError", "on purpose"]
    assert "raise_here" in report["traceback"]
    assert "stream" in report["streamed"]


def test_cancel_and_deadline(report: Any) -> None:
    """Both stop tasks that run."""
    assert report["cancelled"] == [2, 2]
    assert report["expired"] == [4, 4]


def test_udf(report: Any) -> None:
    """A run of a built-in function gives the same bits as inline."""
    assert report["same_bits"] is True
