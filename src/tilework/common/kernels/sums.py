"""Sums over frames (a summed diffraction pattern) and over the pixels of each frame (a summed image)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.kernel_call import KernelCall
from tilework.common.kernels.payoff import EXACT_SUMS
from tilework.common.kernels.picked_frames import PickedFrames, in_memory
from tilework.common.kernels.rows import as_rows

__all__ = ["sum_frames", "sum_pixels"]

Array = np.ndarray[Any, np.dtype[Any]]

_NUMBA = "tilework.common.kernels.sums_numba"
_add_frames = Kernel(_NUMBA, "add_frames")
_add_pixels = Kernel(_NUMBA, "add_pixels")
_add_pixels_complex = Kernel(_NUMBA, "add_pixels_complex")

# Sums that are kept in the L2 cache while all frames of a tile pass by: as many pixels of a frame are read in a row,
# and long rows are read faster.
_BLOCK_BYTES = 2**18
# Pixels that are no work to share among threads.
_GRAIN = 8192
# Frames after which block sums are added to those of the tile. For u1, u2, i1 and i2, 2**16 frames cannot overflow 32
# bits; for floats it bounds the length of a chain of additions.
_FLUSH_INTEGER = 2**16
_FLUSH_FLOAT = 256
# Pixels of a frame that NumPy adds at a time: their sums stay in the L2 cache while all frames pass by.
_LONG_ROW = 2**14
# The length of such a chain with NumPy; as long as in the compiled kernel, which adds four frames at a time.
_CHAIN = 64

_ACCUMULATORS = {"u1": "u4", "u2": "u4", "i1": "i4", "i2": "i4", "u4": "u8", "i4": "i8"}
_KERNEL_OUT = frozenset("fdlLqQ")


def sum_frames(tile: Array | PickedFrames, out: Array, *, compiled: bool | None, threads: int = 1) -> None:
    """Add the sum over all frames of a tile to `out`.

    Integers of up to 4 bytes are summed exactly within a tile; floats in their own precision or in that of
    `out`, whichever is wider, at most 256 frames at a time, and then in double precision. The sum is rounded once when
    it is added to `out`.

    Parameters
    ----------
    tile
        Frames, of shape ``(n, *sig)``.
    out
        Result, of shape ``sig`` (or anything of that size), C-contiguous; of a dtype that can hold the sum: complex
        when the tile is. Integers wrap around.
    compiled
        True for the compiled kernel, False for NumPy; None for NumPy, or the kernel where that pays and gives the same
        bits.
    threads
        The most threads to use. The bits do not depend on it.
    """
    if tile.shape[0] == 0 or out.size == 0:
        return
    if out.dtype.kind == "c" and tile.dtype.kind != "c":
        real = np.zeros(out.shape, dtype=out.real.dtype)
        sum_frames(tile, real, compiled=compiled, threads=threads)
        _add_rounded(out, real)
        return
    if compiled is None and not (_are_frames_exact(tile, out.dtype) and EXACT_SUMS.count(tile.size)):
        compiled = False
    if compiled is False or out.real.dtype.itemsize > 8:  # numba has no such numbers
        _add_numpy(in_memory(tile), out)
        return
    rows = as_rows(tile)
    dtype = _sum_dtype(rows.flat.dtype, out.real.dtype)
    target = out.reshape(-1)
    if out.dtype.kind == "c":
        target = target.view(out.real.dtype)
    accumulator = np.dtype(_ACCUMULATORS.get(rows.flat.dtype.str[1:], dtype))
    flush = _FLUSH_FLOAT if accumulator.kind == "f" else _FLUSH_INTEGER
    direct = target.dtype.char in _KERNEL_OUT and (target.dtype.itemsize == 8 or rows.frames <= flush)
    if direct and target.dtype.kind in "iu" and target.dtype.itemsize == 8:
        target = target.view(dtype)  # the same bits; numba would add signed and unsigned ones in float64
    result = target if direct else np.zeros(target.size, dtype=_wide(dtype))
    block = min(_BLOCK_BYTES // accumulator.itemsize, rows.pixels)

    def arguments(start: int, stop: int) -> tuple[Any, ...]:
        scratch = np.empty(block, dtype=accumulator)
        return rows.flat, rows.order, rows.places, rows.frames, start, stop, scratch, result, flush

    call = KernelCall(_add_frames, rows, arguments)
    if not compiled and not call.is_due():
        _add_numpy(in_memory(tile), out)
        return
    call.run(rows.pixels, threads, _GRAIN)
    if not direct:
        _add_rounded(target, result)


def sum_pixels(tile: Array | PickedFrames, out: Array, *, compiled: bool | None, threads: int = 1) -> None:
    """Add the sum over the pixels of each frame to `out`.

    Integers of up to 4 bytes are summed exactly, up to 2**53. The result of a frame does not depend on which frames are
    in the same tile.

    Parameters
    ----------
    tile
        Frames, of shape ``(n, *sig)``.
    out
        Result, of shape ``(n,)``; a float dtype, complex when the tile is.
    compiled
        As in `sum_frames`.
    threads
        The most threads to use. The bits do not depend on it.
    """
    if tile.size == 0:
        return
    frames = tile.shape[0]
    if compiled is None and not (_are_pixels_exact(tile) and EXACT_SUMS.count(tile.size)):
        compiled = False
    if compiled is False:
        _add_pixels_numpy(in_memory(tile), out)
        return
    rows = as_rows(tile)
    name = rows.flat.dtype.str[1:]
    kind = np.empty(0, dtype=_ACCUMULATORS.get(name, "f4" if name == "f4" else "f8"))
    sums = np.empty((frames, 2) if tile.dtype.kind == "c" else frames, dtype=np.float64)
    kernel = _add_pixels_complex if tile.dtype.kind == "c" else _add_pixels

    def arguments(start: int, stop: int) -> tuple[Any, ...]:
        return rows.flat, rows.order, rows.places, start, stop, rows.pixels, kind, sums

    call = KernelCall(kernel, rows, arguments)
    if not compiled and not call.is_due():
        _add_pixels_numpy(in_memory(tile), out)
        return
    call.run(frames, threads)
    _add_rounded(out, sums.view(np.complex128)[:, 0] if tile.dtype.kind == "c" else sums)


def _are_frames_exact(tile: Array | PickedFrames, out: np.dtype[Any]) -> bool:
    """Return whether the sum over frames has the same bits in any order, and on both paths."""
    data = tile.dtype
    is_kept = out.kind == "f" or (out.kind == "i" and data.itemsize <= 2)
    return data.kind in "biu" and data.itemsize <= 4 and is_kept and len(tile) <= _FLUSH_INTEGER


def _are_pixels_exact(tile: Array | PickedFrames) -> bool:
    """Return the same of the sums over pixels, which are below 2**53."""
    return tile.dtype.kind in "biu" and tile.dtype.itemsize <= 4 and tile.size <= 2**21 * len(tile)


def _add_rounded(out: Array, total: Array) -> None:
    if out.dtype.kind in "iu" and total.dtype.kind in "iu":
        total = total.astype(out.dtype)  # NumPy would add signed and unsigned ones in float64, which does not wrap
    with np.errstate(invalid="ignore", over="ignore"):
        np.add(out, total, out=out, casting="unsafe")


def _add_pixels_numpy(tile: Array, out: Array) -> None:
    axes = tuple(range(1, tile.ndim))
    with np.errstate(invalid="ignore", over="ignore"):
        total = tile.sum(axis=axes, dtype=_sum_dtype(tile.dtype, np.dtype(np.float64)))
    _add_rounded(out, total)


def _add_numpy(tile: Array, out: Array) -> None:
    """Add the sum over all frames: of floats in short chains of additions, as the compiled kernel does."""
    with np.errstate(invalid="ignore", over="ignore"):
        _add_frames_numpy(tile, out)


def _add_frames_numpy(tile: Array, out: Array) -> None:
    dtype = _sum_dtype(tile.dtype, out.dtype)
    if dtype.kind not in "iu" and len(tile) > _FLUSH_FLOAT:
        wide = _wide(dtype)
        apart = len(tile) // _CHAIN
        whole = apart * _CHAIN
        # Frames that are far apart are added: long rows are added faster than short ones.
        sums = tile[:whole].reshape((_CHAIN, apart, *tile.shape[1:])).sum(axis=0, dtype=dtype)
        total = sums.sum(axis=0, dtype=wide) + tile[whole:].sum(axis=0, dtype=wide)
    elif not tile[0].flags.c_contiguous:
        total = tile.sum(axis=0, dtype=dtype)
    else:
        _add_rows(tile.reshape(len(tile), -1), out.reshape(-1), dtype)  # no copy, as frames are contiguous
        return
    _add_rounded(out, total.reshape(out.shape))


def _add_rows(rows: Array, out: Array, dtype: np.dtype[Any]) -> None:
    is_one = len(rows) == 1 and np.can_cast(rows.dtype, out.dtype)
    for start in range(0, out.size, _LONG_ROW):
        part = slice(start, start + _LONG_ROW)
        total = rows[0, part] if is_one else np.add.reduce(rows[:, part], axis=0, dtype=dtype)
        _add_rounded(out[part], total)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which sums of `_sum_dtype` are added up: integers have 8 bytes already, floats get them."""
    return dtype if dtype.kind in "iu" else np.result_type(dtype, np.float64)


def _sum_dtype(data: np.dtype[Any], out: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which to sum `data` for a result of dtype `out`."""
    if data.kind in "biu":
        if data.itemsize == 8 and out.kind not in "iu":
            return np.dtype(np.float64)
        return np.dtype(np.int64 if data.kind == "i" else np.uint64)
    return np.result_type(data, out)
