"""What kernels depend on of the CPU, as LLVM tells it; without numba, whose variables are obeyed."""

from __future__ import annotations

import os

from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

__all__ = ["FEATURES", "FOLLOWS_LONG_ROWS", "HAS_LONG_VECTORS", "IS_ZEN", "NAME"]

NAME: str = os.environ.get("NUMBA_CPU_NAME") or get_host_cpu_name()
# As numba has it: where AVX makes code slower, and where virtual machines say that they have it, and do not.
_AVX_IS_NOT_USED = {"corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona"}


def _features() -> str:
    told = os.environ.get("NUMBA_CPU_FEATURES")
    if told is not None or NAME.lower() == "generic":
        return told or ""
    try:
        found = get_host_cpu_features()
    except RuntimeError:  # LLVM cannot say it of this machine
        return ""
    if (os.environ.get("NUMBA_ENABLE_AVX") or ("0" if NAME in _AVX_IS_NOT_USED else "1")) == "0":
        found.update({name: False for name in found if name.startswith("avx")})
    return str(found.flatten())


FEATURES = _features()
"""As LLVM takes them, such as ``+avx2,-avx512f``."""
# With AVX-512 there are 32 registers of a vector each, otherwise 16 of half a vector or less.
HAS_LONG_VECTORS = "+avx512vl" in FEATURES
IS_ZEN = NAME.startswith("znver")
# Whether the CPU looks beyond a page by itself, in long rows. Zen 5 does, and being told takes it a tenth longer.
FOLLOWS_LONG_ROWS = NAME == "znver5"
