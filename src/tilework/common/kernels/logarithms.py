"""Sums of logarithms of frames, in which weak and strong features show at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.rows import as_rows

__all__ = ["sum_logarithms"]

Array = np.ndarray[Any, np.dtype[Any]]

_add_logarithms = Kernel("tilework.common.kernels.logarithms_numba", "add_logarithms")
# Pixels that pass through all steps of the kernel while they are in the L1 cache.
_BLOCK = 512
# Of a frame at a time with NumPy: larger arrays are pages that the system gives, and takes back, for each.
_BLOCK_BYTES = 2**22
# Numbers from which more, but quicker, calls of NumPy take less time.
_LONG = 2048


def sum_logarithms(tile: Array, out: Array, *, compiled: bool) -> None:
    """Add ``log(1 + frame - min(frame))`` of each frame to `out`.

    Differences are taken in the precision of the data, logarithms in float32, of 8-byte numbers in float64 (relative
    error: below 3e-7 each, also of values much smaller than 1); but integers of 8 bytes are rounded to float64 before.

    Parameters
    ----------
    tile
        Whole frames, of shape ``(n, *sig)``; real numbers in native byte order.
    out
        Result, of shape ``sig``, C-contiguous; float32 or float64.
    compiled
        True for the compiled kernel, False for NumPy.
    """
    if tile.size == 0:
        return
    if not compiled:
        for frame in tile:
            _add_numpy(frame.reshape(-1).astype(np.result_type(frame, np.float32), copy=False), out.reshape(-1))
        return
    rows = as_rows(tile)
    data = rows.flat.dtype
    lowest = tile.min(axis=tuple(range(1, tile.ndim))).astype(np.result_type(data, np.float32))
    size = 8 if data.itemsize == 8 else 4
    floats, integers = np.empty((3, _BLOCK), f"f{size}"), np.empty((2, _BLOCK), f"i{size}")
    _add_logarithms(rows.flat, rows.places, lowest, rows.pixels, floats, integers, out.reshape(-1))


def _add_numpy(frame: Array, out: Array) -> None:
    with np.errstate(invalid="ignore"):
        lowest = np.min(frame)
        step = max(1, _BLOCK_BYTES // frame.itemsize)
        for start in range(0, frame.size, step):
            part = slice(start, start + step)
            above = frame[part] - lowest
            is_long = above.dtype == np.float32 and above.size >= _LONG
            out[part] += _log1p_float32(above) if is_long else np.log1p(above)


def _log1p_float32(x: Array) -> Array:
    """Return log(1 + x) of x that are not negative: NumPy's log uses vectors, its log1p takes three times as long."""
    y = x + np.float32(1)
    lost = x - (y - np.float32(1))
    np.fmax(lost, np.float32(-1), out=lost)  # NaN where x is infinite
    lost /= y
    np.log(y, out=y)
    y += lost
    return y
