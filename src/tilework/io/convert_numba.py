"""Compiled conversion of integers: byte order and dtype in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit
from tilework.common.kernels.rows import as_rows
from tilework.common.kernels.simd_numba import pixel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["cast_tile"]


@jit
def _cast_rows(flat: NDArray[Any], order: Order, stride: int, out: NDArray[Any]) -> None:
    """Write frames, `stride` apart and with pixels in byte order `order`, to the rows of `out`."""
    frames, pixels = out.shape
    for i in range(frames):
        source = flat[i * stride : i * stride + pixels]
        row = out[i]
        for j in range(pixels):
            row[j] = pixel(source, j, order)


def cast_tile(src: NDArray[Any], out: NDArray[Any]) -> None:
    """Write `src` to `out`.

    Parameters
    ----------
    src
        Integers of shape (frames, ``*sig``) in any byte order, each frame contiguous.
    out
        Integers, f4 or f8 in native byte order, of the same shape, C-contiguous.
    """
    rows = as_rows(src)
    _cast_rows(rows.flat, rows.order, rows.stride, out.reshape((rows.frames, rows.pixels)))
