"""Compiled sums and sums of squared deviations over frames, for every pixel of integers of 1 or 2 bytes; exact.

What limits this is widening: a square of two bytes has four, their sum eight. So the same pixel of two frames is put
side by side, as CPUs multiply 2-byte integers and add neighbouring products in one instruction, and only the sum of two
squares is widened. That instruction knows signed integers alone: unsigned ones of two bytes are taken less 2**15, which
changes no deviation.

The frames that are taken together are far apart, a quarter of all, so that each is the next in a row of its own: memory
is read fastest in a few rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import begin_of, frames_ahead
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import (
    add,
    fill_half,
    load_half,
    load_shorts,
    multiply_pairs,
    pair_lower,
    pair_upper,
    pick_lower,
    pick_upper,
    pixel,
    prefetch,
    store,
    widen_even,
    widen_odd,
    zero_half,
    zip_lower,
    zip_upper,
)
from tilework.common.kernels.variance_numba import merge_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["accumulate_integers"]


@jit(inner=True)
def _add_eight(
    a: Any,
    b: Any,
    ones: Any,
    sums: NDArray[Any],
    narrow: NDArray[Any] | None,
    wide: NDArray[Any] | None,
    place: int,
) -> None:
    """Add eight pixels of four frames, as two half vectors of pairs, and their squares."""
    total = add(multiply_pairs(a, ones), multiply_pairs(b, ones))
    store(sums, place, add(load_half(sums, sums, place, NATIVE), total))
    a2, b2 = multiply_pairs(a, a), multiply_pairs(b, b)
    # Only what is not None is compiled.
    if narrow is not None:
        store(narrow, place, add(load_half(narrow, narrow, place, NATIVE), add(a2, b2)))
    if wide is not None:
        store(wide, place, add(load_half(wide, wide, place, NATIVE), add(widen_even(a2), widen_even(b2))))
        odd = place + 4
        store(wide, odd, add(load_half(wide, wide, odd, NATIVE), add(widen_odd(a2), widen_odd(b2))))


@jit(inner=True)
def _add_four(
    x0: Any,
    x1: Any,
    x2: Any,
    x3: Any,
    ones: Any,
    sums: NDArray[Any],
    narrow: NDArray[Any] | None,
    wide: NDArray[Any] | None,
    place: int,
) -> None:
    """Add 16 pixels of four frames, and their squares.

    The same pixel of two frames becomes neighbours, as the sum of the products of neighbours is one instruction; what
    that does to the order of pixels, `_sort` undoes.
    """
    _add_eight(pair_lower(x0, x1), pair_lower(x2, x3), ones, sums, narrow, wide, place)
    _add_eight(pair_upper(x0, x1), pair_upper(x2, x3), ones, sums, narrow, wide, place + 8)


@jit(inner=True)
def _add_frames(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    top: int,
    bottom: int,
    last: int,
    block: int,
    width: int,
    pixels: int,
    centre: int,
    shorts: NDArray[Any],
    sums: NDArray[Any],
    narrow: NDArray[Any] | None,
    wide: NDArray[Any] | None,
) -> None:
    """Add `width` pixels from `block` on of frames `top` to `bottom`, and fetch those that come next, up to `last`."""
    ones, nothing = fill_half(shorts, 1), zero_half(shorts)
    whole = width // 16 * 16
    skipped = frames_ahead(flat, pixels)
    quarter = (bottom - top) // 4
    for i in range(top, top + quarter):
        i1, i2, i3 = i + quarter, i + 2 * quarter, i + 3 * quarter
        at0, at1 = begin_of(places, i) + block, begin_of(places, i1) + block
        at2, at3 = begin_of(places, i2) + block, begin_of(places, i3) + block
        next0 = begin_of(places, min(i + skipped, last)) + block
        next1 = begin_of(places, min(i1 + skipped, last)) + block
        next2 = begin_of(places, min(i2 + skipped, last)) + block
        next3 = begin_of(places, min(i3 + skipped, last)) + block
        for j in range(0, whole, 16):
            prefetch(flat, next0 + j)
            prefetch(flat, next1 + j)
            prefetch(flat, next2 + j)
            prefetch(flat, next3 + j)
            x0 = load_shorts(shorts, flat, at0 + j, order)
            x1 = load_shorts(shorts, flat, at1 + j, order)
            x2 = load_shorts(shorts, flat, at2 + j, order)
            x3 = load_shorts(shorts, flat, at3 + j, order)
            _add_four(x0, x1, x2, x3, ones, sums, narrow, wide, j)
        if whole < width:
            for at in (at0, at1, at2, at3):
                _add_last_pixels(flat, order, at, whole, width, centre, sums, narrow, wide)
    for i in range(top + 4 * quarter, bottom):
        at = begin_of(places, i) + block
        for j in range(0, whole, 16):
            x = load_shorts(shorts, flat, at + j, order)
            _add_four(x, nothing, nothing, nothing, ones, sums, narrow, wide, j)
        if whole < width:
            _add_last_pixels(flat, order, at, whole, width, centre, sums, narrow, wide)


@jit(inner=True)
def _add_last_pixels(
    flat: NDArray[Any],
    order: Order,
    at: int,
    begin: int,
    end: int,
    centre: int,
    sums: NDArray[Any],
    narrow: NDArray[Any] | None,
    wide: NDArray[Any] | None,
) -> None:
    """Add the pixels of a frame that fill no vector."""
    for j in range(begin, end):
        x = np.int64(pixel(flat, at + j, order)) - centre
        sums[j] += x
        if narrow is not None:
            narrow[j] += x * x
        if wide is not None:
            wide[j] += x * x


@jit(inner=True)
def _sort(sums: NDArray[Any], narrow: NDArray[Any] | None, wide: NDArray[Any] | None, whole: int) -> None:
    """Put the first `whole` of what `_add_four` has added up in the order of pixels."""
    for j in range(0, whole, 16):
        _exchange_fours(sums, j)
        if narrow is not None:
            _exchange_fours(narrow, j)
        if wide is not None:
            # Pixels 0 2 8 10, 1 3 9 11, 4 6 12 14 and 5 7 13 15.
            a, b = load_half(wide, wide, j, NATIVE), load_half(wide, wide, j + 4, NATIVE)
            c, d = load_half(wide, wide, j + 8, NATIVE), load_half(wide, wide, j + 12, NATIVE)
            store(wide, j, zip_lower(a, b))
            store(wide, j + 4, zip_lower(c, d))
            store(wide, j + 8, zip_upper(a, b))
            store(wide, j + 12, zip_upper(c, d))


@jit(inner=True)
def _exchange_fours(numbers: NDArray[Any], j: int) -> None:
    """Put 16 numbers in the order of pixels, which is now that of pixels 0 to 3, 8 to 11, 4 to 7 and 12 to 15."""
    a, b = load_half(numbers, numbers, j, NATIVE), load_half(numbers, numbers, j + 8, NATIVE)
    store(numbers, j, pick_lower(a, b))
    store(numbers, j + 8, pick_upper(a, b))


@jit(inner=True)
def _deviations(
    sums: NDArray[Any], squares: NDArray[Any], count: int, centre: int, part_sum: NDArray[Any], part_var: NDArray[Any]
) -> None:
    """Write the sum, and the sum of squared deviations, of each pixel of `count` frames."""
    for j in range(sums.size):
        part_sum[j] = np.int64(sums[j]) + count * centre
        # At most 2**62, as the sum is one of 2**16 numbers of 2 bytes.
        total = np.uint64(np.int64(sums[j]) * np.int64(sums[j]))
        part_var[j] = np.float64(np.uint64(count) * np.uint64(squares[j]) - total) / count


@jit
def accumulate_integers(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    frames: int,
    start: int,
    stop: int,
    pixels: int,
    centre: int,
    shorts: NDArray[Any],
    sums: NDArray[Any],
    narrow: NDArray[Any] | None,
    wide: NDArray[Any] | None,
    scratch: NDArray[Any],
    n0: int,
    sum0: NDArray[Any],
    var0: NDArray[Any],
    flush: int,
) -> None:
    """Merge pixels `start` to `stop` of integer frames of 1 or 2 bytes, and of so many pixels, into `sum0` and `var0`.

    Pixels are taken as what `load_shorts` makes of them, that is less `centre`, which changes no deviation. `shorts` is
    any array of 2-byte integers. Scratch of the size of a block of pixels is `sums` (4 bytes, signed) and, for squares,
    `narrow` (4 bytes, unsigned) for pixels of one byte, or `wide` (8 bytes, unsigned) for those of two; and
    `scratch`, float64 of shape (2, pixels of a block). Sums, sums of squares and the difference
    ``n * squares - sums**2`` are exact for up to `flush` = 65536 frames.
    """
    part_sum, part_var = scratch[0], scratch[1]
    for block in range(start, stop, sums.size):
        width = min(sums.size, stop - block)
        n = n0
        for top in range(0, frames, flush):
            bottom = min(frames, top + flush)
            count = bottom - top
            sums[:width] = 0
            if narrow is not None:
                narrow[:width] = 0
            if wide is not None:
                wide[:width] = 0
            last = frames - 1
            _add_frames(
                flat, order, places, top, bottom, last, block, width, pixels, centre, shorts, sums, narrow, wide
            )
            _sort(sums, narrow, wide, width // 16 * 16)
            if narrow is not None:
                _deviations(sums[:width], narrow, count, centre, part_sum, part_var)
            if wide is not None:
                _deviations(sums[:width], wide, count, centre, part_sum, part_var)
            target = slice(block, block + width)
            merge_sums(n, sum0[target], var0[target], count, part_sum[:width], part_var[:width])
            n += count
