"""How the C library's allocator treats memory that arrays give back.

Functions of frames make arrays of a few hundred kilobytes and drop them again, for every frame; tasks do so with their
results. By default glibc gives such memory back to the operating system at once, in the main thread, and then takes it
again, page by page: a Fourier transform of 256 x 256 pixels took three times as long for it, a standard deviation in a
worker process a tenth longer.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Final

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h. Setting one of them turns the automatic adjustment of both off, so both are set.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 64 * 2**20
LARGEST_KEPT_ARRAY_BYTES: Final = 32 * 2**20


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 64 MiB of freed memory for the next arrays; returns whether that could be done.

    Only the first call does something. Nothing is changed on other systems than Linux with glibc, or when the
    environment says how glibc should behave (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``,
    ``GLIBC_TUNABLES``).
    """
    chosen = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in chosen):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) == 1 and mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_ARRAY_BYTES) == 1
    )
