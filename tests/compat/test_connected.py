"""Dask workers that somebody else has started, where ``sys.path`` is not that of the program."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from dask_clusters import process, scheduler_process, wait_for_workers

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BRIGHT = """\
import libertem.api as lt


def where(number):
    return lt.__name__, number
"""


def test_preload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``tilework worker --preload`` installs it there."""
    from tilework.executor.dask import DaskJobExecutor

    def call(module: str, number: int) -> object:  # it travels by value, for workers do not have this file
        import importlib

        return importlib.import_module(module).where(number)

    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "seen_by_workers.py").write_text(BRIGHT)
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(tmp_path / "shared")) if p)
    monkeypatch.setenv("PYTHONPATH", path)
    with scheduler_process(tmp_path) as address:
        command = [
            *(sys.executable, "-m", "tilework", "worker", address, "-c", "1", "-n", "there", "--services", "0"),
            *("-u", "", "-d", str(tmp_path), "--preload", "tilework.compat.libertem"),
        ]
        with process(command, tmp_path / "worker.log"):
            wait_for_workers(address, 1)
            with DaskJobExecutor.connect(address) as executor:
                assert executor.run_function(call, "seen_by_workers", 5) == ("tilework.api", 5)
