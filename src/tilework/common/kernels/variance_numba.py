"""Compiled sums and sums of squared deviations over frames, for every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.simd_numba import pixel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["accumulate_floats", "accumulate_integers", "merge_sums"]


@jit
def merge_sums(
    n0: int, sum0: NDArray[Any], var0: NDArray[Any], n1: int, sum1: NDArray[Any], var1: NDArray[Any]
) -> None:
    """Merge the second of two sets of frames into the first, for every pixel."""
    if n0 == 0:
        for j in range(sum0.size):
            sum0[j] = sum1[j]
            var0[j] = var1[j]
        return
    for j in range(sum0.size):
        delta = sum1[j] / n1 - sum0[j] / n0
        var0[j] += var1[j] + delta * delta * (np.float64(n0) * n1 / (n0 + n1))
        sum0[j] += sum1[j]


@jit
def accumulate_integers(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    frames: int,
    start: int,
    stop: int,
    sums: NDArray[Any],
    squares: NDArray[Any],
    n0: int,
    sum0: NDArray[Any],
    var0: NDArray[Any],
    flush: int,
) -> None:
    """Merge pixels `start` to `stop` of integer frames of 1 or 2 bytes into `sum0` and `var0`.

    `sums` (32 bit) and `squares` (unsigned 64 bit) are scratch of the size of a block of pixels. Sums, sums of squares
    and the difference ``n * squares - sums**2`` are exact for up to `flush` = 65536 frames.
    """
    cast = sums.dtype.type
    part_sum = np.empty(sums.size, np.float64)
    part_var = np.empty(sums.size, np.float64)
    for block in range(start, stop, sums.size):
        width = min(sums.size, stop - block)
        s = sums[:width]
        q = squares[:width]
        n = n0
        for top in range(0, frames, flush):
            bottom = min(frames, top + flush)
            count = bottom - top
            for j in range(width):
                s[j] = 0
                q[j] = 0
            i = top
            while i + 4 <= bottom:
                at = i * stride + block
                row0 = flat[at : at + width]
                at += stride
                row1 = flat[at : at + width]
                at += stride
                row2 = flat[at : at + width]
                at += stride
                row3 = flat[at : at + width]
                for j in range(width):
                    x0 = cast(pixel(row0, j, order))
                    x1 = cast(pixel(row1, j, order))
                    x2 = cast(pixel(row2, j, order))
                    x3 = cast(pixel(row3, j, order))
                    s[j] = cast(s[j] + cast(cast(x0 + x1) + cast(x2 + x3)))
                    # As unsigned numbers: a square of two bytes is below 2**32.
                    left = np.uint64(np.uint32(x0 * x0)) + np.uint64(np.uint32(x1 * x1))
                    right = np.uint64(np.uint32(x2 * x2)) + np.uint64(np.uint32(x3 * x3))
                    q[j] += left + right
                i += 4
            while i < bottom:
                row0 = flat[i * stride + block : i * stride + block + width]
                for j in range(width):
                    x0 = cast(pixel(row0, j, order))
                    s[j] = cast(s[j] + x0)
                    q[j] += np.uint64(np.uint32(x0 * x0))
                i += 1
            for j in range(width):
                part_sum[j] = s[j]
                # Modulo 2**64, where the square of a negative sum is right too; the difference is below 2**64.
                total = np.uint64(np.int64(s[j]))
                part_var[j] = np.float64(np.uint64(count) * q[j] - total * total) / count
            target = slice(block, block + width)
            merge_sums(n, sum0[target], var0[target], count, part_sum[:width], part_var[:width])
            n += count


@jit(math="contract")
def accumulate_floats(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    frames: int,
    start: int,
    stop: int,
    block_size: int,
    n0: int,
    sum0: NDArray[Any],
    var0: NDArray[Any],
    flush: int,
) -> None:
    """Merge pixels `start` to `stop` of frames of any real dtype into `sum0` and `var0`.

    In float64, as deviations from the first of up to `flush` frames: since that is one of them, the error relative to
    the sum of squared deviations is at most `flush` times the precision of float64, however large the mean.
    """
    part_sum = np.empty(block_size, np.float64)
    part_var = np.empty(block_size, np.float64)
    shifts = np.empty(block_size, np.float64)
    pivots = np.empty(block_size, np.float64)
    for block in range(start, stop, block_size):
        width = min(block_size, stop - block)
        s = part_sum[:width]
        q = part_var[:width]
        d = shifts[:width]
        p = pivots[:width]
        n = n0
        for top in range(0, frames, flush):
            bottom = min(frames, top + flush)
            count = bottom - top
            row0 = flat[top * stride + block : top * stride + block + width]
            for j in range(width):
                p[j] = pixel(row0, j, order)
                s[j] = 0
                q[j] = 0
                d[j] = 0
            i = top
            while i + 4 <= bottom:
                at = i * stride + block
                row0 = flat[at : at + width]
                at += stride
                row1 = flat[at : at + width]
                at += stride
                row2 = flat[at : at + width]
                at += stride
                row3 = flat[at : at + width]
                for j in range(width):
                    x0 = np.float64(pixel(row0, j, order))
                    x1 = np.float64(pixel(row1, j, order))
                    x2 = np.float64(pixel(row2, j, order))
                    x3 = np.float64(pixel(row3, j, order))
                    s[j] += (x0 + x1) + (x2 + x3)
                    x0 -= p[j]
                    x1 -= p[j]
                    x2 -= p[j]
                    x3 -= p[j]
                    d[j] += (x0 + x1) + (x2 + x3)
                    q[j] += (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)
                i += 4
            while i < bottom:
                row0 = flat[i * stride + block : i * stride + block + width]
                for j in range(width):
                    x0 = np.float64(pixel(row0, j, order))
                    s[j] += x0
                    x0 -= p[j]
                    d[j] += x0
                    q[j] += x0 * x0
                i += 1
            for j in range(width):
                q[j] -= d[j] * d[j] / count
            merge_sums(n, sum0[block : block + width], var0[block : block + width], count, s, q)
            n += count
