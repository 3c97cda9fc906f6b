"""Processes that are copies of one."""

from __future__ import annotations

import subprocess
import sys

import tilework.executor.concurrent
import tilework.udf.sum
from tilework.executor.forked import modules_to_preload

PROGRAM = """
import os
import numpy as np
from tilework.executor.forked import reseed

np.random.seed(1)
for is_reseeded in (False, False, True, True):
    pid = os.fork()
    if pid == 0:
        if is_reseeded:
            reseed()
        print(np.random.random(), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_random_numbers() -> None:
    """NumPy's would be the same in all of them."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    numbers = [float(line) for line in done.stdout.split()]
    assert len(numbers) == 4
    assert numbers[0] == numbers[1]
    assert len(set(numbers[1:])) == 3


def test_modules_for_workers() -> None:
    """Workers load what this process has loaded of tilework, but no commands, tests, or other kinds of workers."""
    modules = modules_to_preload()
    assert "numpy" in modules
    assert tilework.udf.sum.__name__ in modules
    others = ("tilework.cli", "tilework.testing", "tilework.__main__", "tilework.executor", "tilework.api")
    assert not [name for name in modules if name.startswith(others)]
