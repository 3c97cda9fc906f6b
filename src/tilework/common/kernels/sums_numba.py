"""Compiled sums. A frame's pixels are contiguous, frames are `stride` elements apart, bytes are in `order`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit
from tilework.common.kernels.simd_numba import add, add_up, add_up_even, add_up_odd, lanes, load, pixel, zero

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_frames", "add_pixels", "add_pixels_complex"]

# Pixels that are summed in 32 bits (exact for integers of 2 bytes) or in parallel lanes of float32.
_RUN = 4096


@jit
def add_frames(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    frames: int,
    start: int,
    stop: int,
    scratch: NDArray[Any],
    out: NDArray[Any],
    flush: int,
) -> None:
    """Add the sum over frames of pixels `start` to `stop` to `out`; in the dtype of `scratch`, a block at a time.

    Four frames that are far apart are added at a time, so that each is the next in a row of its own: memory is read
    fastest in a few rows, and small frames beside each other are none.
    """
    cast = scratch.dtype.type
    for block in range(start, stop, scratch.size):
        width = min(scratch.size, stop - block)
        sums = scratch[:width]
        target = out[block : block + width]
        for top in range(0, frames, flush):
            bottom = min(frames, top + flush)
            for j in range(width):
                sums[j] = 0
            quarter = (bottom - top) // 4
            apart = quarter * stride
            for i in range(top, top + quarter):
                at = i * stride + block
                row0 = flat[at : at + width]
                at += apart
                row1 = flat[at : at + width]
                at += apart
                row2 = flat[at : at + width]
                at += apart
                row3 = flat[at : at + width]
                for j in range(width):
                    left = cast(cast(pixel(row0, j, order)) + cast(pixel(row1, j, order)))
                    right = cast(cast(pixel(row2, j, order)) + cast(pixel(row3, j, order)))
                    sums[j] = cast(sums[j] + cast(left + right))
            for i in range(top + 4 * quarter, bottom):
                row0 = flat[i * stride + block : i * stride + block + width]
                for j in range(width):
                    sums[j] = cast(sums[j] + cast(pixel(row0, j, order)))
            for j in range(width):
                target[j] += sums[j]


@jit
def add_pixels(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    start: int,
    stop: int,
    pixels: int,
    kind: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Write the sum over pixels of frames `start` to `stop` to `out`: in `kind`, in four vectors, then their lanes."""
    cast = kind.dtype.type
    step = 4 * lanes(kind)
    for i in range(start, stop):
        total = 0.0
        for begin in range(0, pixels, _RUN):
            at = i * stride + begin
            width = min(_RUN, pixels - begin)
            whole = width // step * step
            s0 = s1 = s2 = s3 = zero(kind)
            for j in range(at, at + whole, step):
                s0 = add(s0, load(kind, flat, j, order))
                s1 = add(s1, load(kind, flat, j + lanes(kind), order))
                s2 = add(s2, load(kind, flat, j + 2 * lanes(kind), order))
                s3 = add(s3, load(kind, flat, j + 3 * lanes(kind), order))
            s = add_up(add(add(s0, s1), add(s2, s3)))
            for j in range(at + whole, at + width):
                s = cast(s + cast(pixel(flat, j, order)))
            total += s
        out[i] = total


@jit
def add_pixels_complex(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    start: int,
    stop: int,
    pixels: int,
    kind: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """As `add_pixels` for real and imaginary parts in turn; `out` has two columns."""
    cast = kind.dtype.type
    step = 2 * lanes(kind)
    for i in range(start, stop):
        real = 0.0
        imaginary = 0.0
        for begin in range(0, pixels, _RUN):
            at = i * stride + begin
            width = min(_RUN, pixels - begin)
            whole = width // step * step
            s0 = s1 = zero(kind)
            for j in range(at, at + whole, step):
                s0 = add(s0, load(kind, flat, j, order))
                s1 = add(s1, load(kind, flat, j + lanes(kind), order))
            both = add(s0, s1)
            s, t = add_up_even(both), add_up_odd(both)
            for j in range(at + whole, at + width, 2):
                s = cast(s + cast(pixel(flat, j, order)))
                t = cast(t + cast(pixel(flat, j + 1, order)))
            real += s
            imaginary += t
        out[i, 0] = real
        out[i, 1] = imaginary
