"""Compiled products of frames and sparse masks.

A product is summed in float64 over the mask's pixels in their order, whether four frames are taken at a time or one, so
that a result depends on nothing but its frame and its mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.simd_numba import pixel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_sparse_products"]


@jit
def add_sparse_products(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    start: int,
    stop: int,
    pixels: int,
    starts: NDArray[Any],
    places: NDArray[Any],
    values: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Add the products of frames `start` to `stop` with all masks to `out`, float64 of shape (frames, masks).

    Mask ``m`` has ``values[k]`` at pixel ``places[k]`` for ``k`` from ``starts[m]`` to ``starts[m + 1]``.
    """
    masks = starts.size - 1
    i = start
    while i + 4 <= stop:
        at = i * stride
        row0 = flat[at : at + pixels]
        at += stride
        row1 = flat[at : at + pixels]
        at += stride
        row2 = flat[at : at + pixels]
        at += stride
        row3 = flat[at : at + pixels]
        for m in range(masks):
            s0 = s1 = s2 = s3 = 0.0
            for k in range(starts[m], starts[m + 1]):
                j = places[k]
                w = np.float64(values[k])
                s0 += np.float64(pixel(row0, j, order)) * w
                s1 += np.float64(pixel(row1, j, order)) * w
                s2 += np.float64(pixel(row2, j, order)) * w
                s3 += np.float64(pixel(row3, j, order)) * w
            out[i, m] += s0
            out[i + 1, m] += s1
            out[i + 2, m] += s2
            out[i + 3, m] += s3
        i += 4
    while i < stop:
        row0 = flat[i * stride : i * stride + pixels]
        for m in range(masks):
            s0 = 0.0
            for k in range(starts[m], starts[m + 1]):
                s0 += np.float64(pixel(row0, places[k], order)) * np.float64(values[k])
            out[i, m] += s0
        i += 1
