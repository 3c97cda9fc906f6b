"""Compiled sums and sums of squared deviations over frames, for every pixel of any real dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import begin_of
from tilework.common.kernels.simd_numba import pixel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["accumulate_floats", "merge_sums"]


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


@jit(math="contract")
def accumulate_floats(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    frames: int,
    start: int,
    stop: int,
    scratch: NDArray[Any],
    n0: int,
    sum0: NDArray[Any],
    var0: NDArray[Any],
    flush: int,
) -> None:
    """Merge pixels `start` to `stop` of frames of any real dtype into `sum0` and `var0`.

    In float64, as deviations from the first of up to `flush` frames. It is one of them, so that their squares sum up to
    `flush` times the sum of squared deviations from the mean at most, and the relative error of that is below
    ``flush**2 * 2**-53``, however large the mean; it comes near that where all but the first are equal. `scratch` is
    float64 of shape (4, pixels of a block).
    """
    block_size = scratch.shape[1]
    for block in range(start, stop, block_size):
        width = min(block_size, stop - block)
        s = scratch[0, :width]
        q = scratch[1, :width]
        d = scratch[2, :width]  # shifts
        p = scratch[3, :width]  # pivots
        n = n0
        for top in range(0, frames, flush):
            bottom = min(frames, top + flush)
            count = bottom - top
            at = begin_of(places, top) + block
            row0 = flat[at : at + width]
            for j in range(width):
                p[j] = pixel(row0, j, order)
                s[j] = 0
                q[j] = 0
                d[j] = 0
            quarter = count // 4
            for i in range(top, top + quarter):
                at = begin_of(places, i) + block
                row0 = flat[at : at + width]
                at = begin_of(places, i + quarter) + block
                row1 = flat[at : at + width]
                at = begin_of(places, i + 2 * quarter) + block
                row2 = flat[at : at + width]
                at = begin_of(places, i + 3 * quarter) + block
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
            for i in range(top + 4 * quarter, bottom):
                at = begin_of(places, i) + block
                row0 = flat[at : at + width]
                for j in range(width):
                    x0 = np.float64(pixel(row0, j, order))
                    s[j] += x0
                    x0 -= p[j]
                    d[j] += x0
                    q[j] += x0 * x0
            for j in range(width):
                q[j] -= d[j] * d[j] / count
            merge_sums(n, sum0[block : block + width], var0[block : block + width], count, s, q)
            n += count
