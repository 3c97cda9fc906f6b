"""The CPU is for kernels what it is for numba, which compiles them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
from tilework.common.kernels.cpu import FEATURES, NAME
from numba.core.registry import cpu_target
codegen = cpu_target.target_context.codegen()
assert NAME == codegen._get_host_cpu_name(), NAME
assert FEATURES == codegen._get_host_cpu_features(), FEATURES
"""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NUMBA_ENABLE_AVX": "0"},
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_NAME": "ivybridge"},
        {"NUMBA_CPU_NAME": "nocona"},
        {"NUMBA_CPU_NAME": "nocona", "NUMBA_ENABLE_AVX": "1"},
        {"NUMBA_CPU_FEATURES": "+sse2,+avx2"},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    ],
    ids=str,
)
def test_name_and_features(variables: dict[str, str]) -> None:
    """With AVX where numba does not use it, code would end some virtual machines' processes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_CPU", "NUMBA_ENABLE"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**kept, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
