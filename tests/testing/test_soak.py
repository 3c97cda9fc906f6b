"""Two minutes of everything at once; ``python -m tilework.testing.soak --minutes 60`` is the same for longer."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.timeout(400)
def test_soak() -> None:
    command = [sys.executable, "-m", "tilework.testing.soak", "--minutes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert "nothing went wrong" in done.stdout
