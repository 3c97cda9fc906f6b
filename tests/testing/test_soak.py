"""Minutes of everything at once; ``python -m tilework.testing.soak --minutes 60`` is the same for longer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tilework.testing.soak import SUBJECTS

MINUTES = {"pipelined": 2.0, "dask": 0.3, "threads": 0.1}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("executor", SUBJECTS)
def test_soak(executor: str) -> None:
    command = [sys.executable, "-m", "tilework.testing.soak", "--executor", executor, "--minutes"]
    done = subprocess.run([*command, str(MINUTES[executor])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert "nothing went wrong" in done.stdout
