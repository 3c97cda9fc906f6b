"""Sum and sum of squared deviations over frames, for every pixel, and how two such sets are merged.

The sum of squared deviations of a set of n frames is V = sum over frames of ``|x - mean|**2``, so that the variance is
V / n. Two sets are merged as in T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances", COMPSTAT 1982 / Stanford report STAN-CS-79-773:
``V = V0 + V1 + |mean1 - mean0|**2 * n0 * n1 / (n0 + n1)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.kernel_call import KernelCall
from tilework.common.kernels.payoff import EXACT_SUMS
from tilework.common.kernels.picked_frames import PickedFrames, in_memory
from tilework.common.kernels.rows import SHORTS, as_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["accumulate_variance", "merge_variances"]

Array = np.ndarray[Any, np.dtype[Any]]

_accumulate_floats = Kernel("tilework.common.kernels.variance_numba", "accumulate_floats")
_accumulate_integers = Kernel("tilework.common.kernels.variance_integers_numba", "accumulate_integers")
_merge_sums = Kernel("tilework.common.kernels.variance_numba", "merge_sums")

_BLOCK_INTEGERS = 4096
_BLOCK_FLOATS = 2048
_PART_PIXELS = 2048
_FLUSH_INTEGERS = 2**16
_FLUSH_FLOATS = 2**12
# Pixels that NumPy converts at a time, which then stay in the L2 cache, and from how many frames at least: what they
# are merged into is read and written for each such part.
_CONVERTED = 2**17
_FEW_FRAMES = 16
# NumPy takes as long as for so many sums.
_AS_SUMS = 2


def accumulate_variance(
    tile: Array | PickedFrames, n0: int, sum0: Array, var0: Array, *, compiled: bool | None, threads: int = 1
) -> int:
    """Merge the frames of a tile into a sum and a sum of squared deviations.

    Numerically stable: within a tile, means that are large compared with the deviations do no harm. Where two sets are
    merged, the difference of their means is only as exact as these are, to 2**-53 of each. For integers of 1 and 2
    bytes the sums of a tile are exact.

    Parameters
    ----------
    tile
        Frames, of shape ``(n, *sig part)``.
    n0
        Number of frames that `sum0` and `var0` hold so far.
    sum0
        Sum over frames, of shape ``sig part``, C-contiguous; float64, or complex128 for complex frames. Updated.
    var0
        Sum of squared deviations from the mean, float64 of the same shape. Updated.
    compiled
        True for the compiled kernel, False for NumPy; None for NumPy, or the kernel where that pays and gives the same
        bits.
    threads
        The most threads to use. The bits do not depend on it.

    Returns
    -------
    int
        The new number of frames.
    """
    n1: int = tile.shape[0]
    if n1 == 0 or sum0.size == 0:
        return n0 + n1
    if tile.dtype.kind == "b":
        tile = tile.view(np.uint8)
    if tile.dtype.str[1:] in SHORTS and sum0.dtype == np.float64:
        _accumulate_shorts(tile, n0, sum0.reshape(-1), var0.reshape(-1), compiled, threads)
    elif not compiled or sum0.real.dtype.itemsize > 8:  # numba has no such numbers
        _accumulate_with_numpy(in_memory(tile), n0, sum0, var0)
    elif tile.dtype.kind == "c":
        # Real and imaginary parts are two pixels each; their squared deviations add up.
        sum1 = np.zeros(2 * sum0.size)
        var1 = np.zeros(2 * sum0.size)
        _accumulate_floats_compiled(tile, 0, sum1, var1, threads)
        total = sum1.view(np.complex128).reshape(sum0.shape)
        merge_variances(n0, sum0, var0, n1, total, (var1[0::2] + var1[1::2]).reshape(var0.shape), compiled=True)
    else:
        _accumulate_floats_compiled(tile, n0, sum0.reshape(-1), var0.reshape(-1), threads)
    return n0 + n1


def _parts_to_convert(tile: Array, pixels: int) -> Iterator[tuple[int, slice, Array]]:
    """Yield parts of a tile: number of frames before it, which pixels, and the frames with these pixels as rows."""
    step = max(_FEW_FRAMES, _CONVERTED // pixels)
    for start in range(0, len(tile), step):
        rows = tile[start : start + step].reshape(-1, pixels)
        for first in range(0, pixels, _CONVERTED // _FEW_FRAMES):
            part = slice(first, first + _CONVERTED // _FEW_FRAMES)
            yield start, part, rows[:, part]


def _accumulate_with_numpy(tile: Array, n0: int, sum0: Array, var0: Array) -> None:
    for start, part, rows in _parts_to_convert(tile, sum0.size):
        _merge_rows(rows, n0 + start, sum0.reshape(-1)[part], var0.reshape(-1)[part])


def _merge_rows(rows: Array, n0: int, sum0: Array, var0: Array) -> None:
    deviations = rows.astype(np.result_type(rows.dtype, sum0.dtype))
    # Infinities make NaN, as they should.
    with np.errstate(invalid="ignore", over="ignore"):
        sum1 = deviations.sum(axis=0)
        deviations -= sum1 / len(rows)
        if deviations.dtype.kind == "c":
            squares = deviations.real**2 + deviations.imag**2
        else:
            squares = np.square(deviations, out=deviations)
        merge_variances(n0, sum0, var0, len(rows), sum1, squares.sum(axis=0), compiled=False)


def _accumulate_floats_compiled(tile: Array | PickedFrames, n0: int, sum0: Array, var0: Array, threads: int) -> None:
    rows = as_rows(tile)
    block = min(_BLOCK_FLOATS, rows.pixels)

    def arguments(start: int, stop: int) -> tuple[Any, ...]:
        place = rows.flat, rows.order, rows.places, rows.frames, start, stop
        return *place, np.empty((4, block)), n0, sum0, var0, _FLUSH_FLOATS

    KernelCall(_accumulate_floats, rows, arguments).run(rows.pixels, threads, _PART_PIXELS)


def _accumulate_shorts(
    tile: Array | PickedFrames, n0: int, sum0: Array, var0: Array, compiled: bool | None, threads: int
) -> None:
    """Merge integers of 1 or 2 bytes; the bits are the same on both paths, as all that is added up is exact."""
    if compiled is False or (compiled is None and not EXACT_SUMS.count(_AS_SUMS * tile.size)):
        _accumulate_shorts_with_numpy(in_memory(tile), n0, sum0, var0)
        return
    rows = as_rows(tile)
    centre = SHORTS[rows.flat.dtype.str[1:]]
    block = min(_BLOCK_INTEGERS, rows.pixels)
    is_narrow = rows.flat.itemsize == 1

    def arguments(start: int, stop: int) -> tuple[Any, ...]:
        place = rows.flat, rows.order, rows.places, rows.frames, start, stop, rows.pixels
        narrow = np.empty(block, dtype=np.uint32) if is_narrow else None
        wide = None if is_narrow else np.empty(block, dtype=np.uint64)
        sums, like = np.empty(block, dtype=np.int32), np.empty(0, dtype=np.int16)
        return *place, centre, like, sums, narrow, wide, np.empty((2, block)), n0, sum0, var0, _FLUSH_INTEGERS

    call = KernelCall(_accumulate_integers, rows, arguments)
    if compiled or call.is_due():
        call.run(rows.pixels, threads, _PART_PIXELS)
    else:
        _accumulate_shorts_with_numpy(in_memory(tile), n0, sum0, var0)


def _accumulate_shorts_with_numpy(tile: Array, n0: int, sum0: Array, var0: Array) -> None:
    for top in range(0, len(tile), _FLUSH_INTEGERS):
        frames = tile[top : top + _FLUSH_INTEGERS]
        n1 = len(frames)
        sum1, squares = np.zeros(sum0.size), np.zeros(sum0.size)
        for _, part, rows in _parts_to_convert(frames, sum0.size):
            values = rows.astype(np.float64)
            sum1[part] += values.sum(axis=0)
            squares[part] += np.square(values, out=values).sum(axis=0)
        # What they are multiplied to wraps around at 2**64, and so does the difference, which is below that.
        total = sum1.astype(np.int64).view(np.uint64)
        var1 = (np.uint64(n1) * squares.astype(np.uint64) - total * total).astype(np.float64) / n1
        merge_variances(n0 + top, sum0, var0, n1, sum1, var1, compiled=False)


def merge_variances(n0: int, sum0: Array, var0: Array, n1: int, sum1: Array, var1: Array, *, compiled: bool) -> None:
    """Merge the sum and the sum of squared deviations of one set of frames into those of another.

    Parameters
    ----------
    n0, n1
        Numbers of frames of the two sets; either may be 0.
    sum0, var0
        Sum over frames, and sum of squared deviations, of the first set. Updated.
    sum1, var1
        Those of the second set.
    compiled
        True for the compiled kernel (where dtypes and memory allow it), False for NumPy.
    """
    if n1 == 0:
        return
    arrays = sum0, var0, sum1, var1
    if compiled and all(a.dtype == np.float64 and a.flags.c_contiguous for a in arrays):
        _merge_sums(n0, sum0.reshape(-1), var0.reshape(-1), n1, sum1.reshape(-1), var1.reshape(-1))
        return
    if n0 == 0:
        sum0[...] = sum1
        var0[...] = var1
        return
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.abs(sum1 / n1 - sum0 / n0)
        var0 += var1 + delta * delta * (float(n0) * n1 / (n0 + n1))
        sum0 += sum1
