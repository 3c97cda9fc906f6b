"""Arrays that come and go for every frame do not fault in their memory again each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from tilework.common.allocator import keep_freed_memory
kept = keep_freed_memory()
frame = np.ones((256, 256), dtype=np.float32)
def work():
    np.abs(np.fft.rfft2(frame)).sum()
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 50)
"""


# What starts a worker process of Dask leaves the first of them in the environment of the process that does so.
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def faults(**environment: str) -> tuple[bool, int]:
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    child = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**inherited, **environment},
    )
    kept, count = child.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_kept() -> None:
    assert faults() == (True, 0)


def test_what_the_environment_says_about_the_allocator_counts() -> None:
    kept, _ = faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept
