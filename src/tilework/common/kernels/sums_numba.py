"""Compiled sums. A frame's pixels are contiguous, frames begin at `places`, bytes are in `order`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.cpu import FOLLOWS_LONG_ROWS
from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import ahead_of, begin_of
from tilework.common.kernels.simd_numba import (
    add,
    add_up,
    add_up_even,
    add_up_odd,
    lanes,
    load,
    pixel,
    prefetch,
    zero,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_frames", "add_pixels", "add_pixels_complex"]

# Pixels that are summed in 32 bits (exact for integers of 2 bytes) or in parallel lanes of float32.
_RUN = 1024


@jit
def add_frames(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
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
                    left = cast(cast(pixel(row0, j, order)) + cast(pixel(row1, j, order)))
                    right = cast(cast(pixel(row2, j, order)) + cast(pixel(row3, j, order)))
                    sums[j] = cast(sums[j] + cast(left + right))
            for i in range(top + 4 * quarter, bottom):
                at = begin_of(places, i) + block
                row0 = flat[at : at + width]
                for j in range(width):
                    sums[j] = cast(sums[j] + cast(pixel(row0, j, order)))
            for j in range(width):
                target[j] += sums[j]


@jit(inner=True)
def _sum_four(
    flat: NDArray[Any],
    order: Order,
    begins: tuple[int, int, int, int],
    ahead: tuple[int, int, int, int],
    pixels: int,
    kind: NDArray[Any],
) -> tuple[float, float, float, float]:
    """Return the sums over the pixels of four frames, and fetch what is so far ahead of each."""
    cast = kind.dtype.type
    n = lanes(kind)
    at0, at1, at2, at3 = begins
    next0, next1, next2, next3 = at0 + ahead[0], at1 + ahead[1], at2 + ahead[2], at3 + ahead[3]
    total0 = total1 = total2 = total3 = 0.0
    for begin in range(0, pixels, _RUN):
        end = min(begin + _RUN, pixels)
        whole = begin + (end - begin) // n * n
        v0 = v1 = v2 = v3 = zero(kind)
        for j in range(begin, whole, n):
            if not FOLLOWS_LONG_ROWS:
                prefetch(flat, next0 + j)
                prefetch(flat, next1 + j)
                prefetch(flat, next2 + j)
                prefetch(flat, next3 + j)
            v0 = add(v0, load(kind, flat, at0 + j, order))
            v1 = add(v1, load(kind, flat, at1 + j, order))
            v2 = add(v2, load(kind, flat, at2 + j, order))
            v3 = add(v3, load(kind, flat, at3 + j, order))
        s0, s1, s2, s3 = add_up(v0), add_up(v1), add_up(v2), add_up(v3)
        for j in range(whole, end):
            s0 = cast(s0 + cast(pixel(flat, at0 + j, order)))
            s1 = cast(s1 + cast(pixel(flat, at1 + j, order)))
            s2 = cast(s2 + cast(pixel(flat, at2 + j, order)))
            s3 = cast(s3 + cast(pixel(flat, at3 + j, order)))
        total0 += s0
        total1 += s1
        total2 += s2
        total3 += s3
    return total0, total1, total2, total3


@jit
def add_pixels(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    start: int,
    stop: int,
    pixels: int,
    kind: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Write the sum over pixels of frames `start` to `stop` to `out`: in a vector of `kind`, then across its lanes.

    Four frames at a time, far apart as in `add_frames`.
    """
    last = stop - 1
    quarter = (stop - start) // 4
    for group in range(quarter + ((stop - start) % 4 > 0)):
        # After whole groups, what is left of four, and then the last again.
        step = quarter if group < quarter else 1
        i0 = start + group if group < quarter else start + 4 * quarter
        i1, i2, i3 = min(i0 + step, last), min(i0 + 2 * step, last), min(i0 + 3 * step, last)
        begins = begin_of(places, i0), begin_of(places, i1), begin_of(places, i2), begin_of(places, i3)
        ahead = (
            ahead_of(flat, places, i0, last, pixels),
            ahead_of(flat, places, i1, last, pixels),
            ahead_of(flat, places, i2, last, pixels),
            ahead_of(flat, places, i3, last, pixels),
        )
        out[i0], out[i1], out[i2], out[i3] = _sum_four(flat, order, begins, ahead, pixels, kind)


@jit
def add_pixels_complex(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
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
            at = begin_of(places, i) + begin
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
