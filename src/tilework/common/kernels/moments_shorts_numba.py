"""Compiled sums and first moments of pixels of 1 or 2 bytes inside a region, for detectors whose weights fit a cache.

A pixel is multiplied with three weights, for the sum and for its two coordinates, each in the instruction that
multiplies 2-byte integers and adds neighbouring products. The weights are read once for four frames. These are far
apart, a quarter of all, so that each is the next in a row of its own: memory is read fastest in a few rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import ahead_of, begin_of
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import (
    add,
    add_up_wide,
    load_half,
    load_shorts,
    multiply_pairs,
    prefetch,
    zero_half,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_moments_of_shorts"]


@jit(inner=True)
def _add_moments(part: NDArray[Any], i: int, s: Any, y: Any, x: Any) -> None:
    part[i, 0] += add_up_wide(s)
    part[i, 1] += add_up_wide(y)
    part[i, 2] += add_up_wide(x)


@jit(part=True)
def _sum_four(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    i0: int,
    i1: int,
    i2: int,
    i3: int,
    last: int,
    pixels: int,
    spans: NDArray[Any],
    weights: NDArray[Any],
    limit: int,
    kind: NDArray[Any],
    part: NDArray[Any],
) -> None:
    """Write the moments of four frames to `part`, and fetch what comes next, up to frame `last`."""
    at0, at1, at2, at3 = begin_of(places, i0), begin_of(places, i1), begin_of(places, i2), begin_of(places, i3)
    next0 = at0 + ahead_of(flat, places, i0, last, pixels)
    next1 = at1 + ahead_of(flat, places, i1, last, pixels)
    next2 = at2 + ahead_of(flat, places, i2, last, pixels)
    next3 = at3 + ahead_of(flat, places, i3, last, pixels)
    part[:] = 0
    s0 = s1 = s2 = s3 = y0 = y1 = y2 = y3 = x0 = x1 = x2 = x3 = zero_half(kind)
    w = done = 0
    for k in range(spans.shape[0]):
        place, length = spans[k, 0], spans[k, 1]
        done += length
        if done > limit:
            _add_moments(part, 0, s0, y0, x0)
            _add_moments(part, 1, s1, y1, x1)
            _add_moments(part, 2, s2, y2, x2)
            _add_moments(part, 3, s3, y3, x3)
            s0 = s1 = s2 = s3 = y0 = y1 = y2 = y3 = x0 = x1 = x2 = x3 = zero_half(kind)
            done = length
        for j in range(place, place + 16 * length, 16):
            prefetch(flat, next0 + j)
            prefetch(flat, next1 + j)
            prefetch(flat, next2 + j)
            prefetch(flat, next3 + j)
            one = load_half(weights, weights, w, NATIVE)
            y = load_half(weights, weights, w + 16, NATIVE)
            x = load_half(weights, weights, w + 32, NATIVE)
            w += 48
            row = load_shorts(weights, flat, at0 + j, order)
            s0 = add(s0, multiply_pairs(row, one))
            y0 = add(y0, multiply_pairs(row, y))
            x0 = add(x0, multiply_pairs(row, x))
            row = load_shorts(weights, flat, at1 + j, order)
            s1 = add(s1, multiply_pairs(row, one))
            y1 = add(y1, multiply_pairs(row, y))
            x1 = add(x1, multiply_pairs(row, x))
            row = load_shorts(weights, flat, at2 + j, order)
            s2 = add(s2, multiply_pairs(row, one))
            y2 = add(y2, multiply_pairs(row, y))
            x2 = add(x2, multiply_pairs(row, x))
            row = load_shorts(weights, flat, at3 + j, order)
            s3 = add(s3, multiply_pairs(row, one))
            y3 = add(y3, multiply_pairs(row, y))
            x3 = add(x3, multiply_pairs(row, x))
    _add_moments(part, 0, s0, y0, x0)
    _add_moments(part, 1, s1, y1, x1)
    _add_moments(part, 2, s2, y2, x2)
    _add_moments(part, 3, s3, y3, x3)


@jit
def add_moments_of_shorts(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    start: int,
    stop: int,
    pixels: int,
    spans: NDArray[Any],
    weights: NDArray[Any],
    limit: int,
    base: NDArray[Any],
    centre: int,
    kind: NDArray[Any],
    part: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Add sum, sum times y and sum times x to rows `start` to `stop` of `out`, float64; exact until they are rounded.

    A row of `spans` is the place of a first pixel in the frame, and a number of vectors of 16 pixels; `weights` are
    three for each pixel of a vector: whether it is inside, and its distances in y and x from ``base[3], base[4]``. The
    other numbers of `base` are the sums of the three weights. After `limit` vectors, 4 bytes may be full. Pixels are
    taken as what `load_shorts` makes of them, that is less `centre`. `kind` is any array of 4-byte integers, `part`
    scratch of 8-byte ones, of shape (4, 3).
    """
    quarter = (stop - start) // 4
    for group in range(quarter + ((stop - start) % 4 > 0)):
        # After whole groups, what is left of four, and then the last again.
        step = quarter if group < quarter else 1
        first = start + group if group < quarter else start + 4 * quarter
        last = stop - 1
        _sum_four(
            flat,
            order,
            places,
            first,
            min(first + step, last),
            min(first + 2 * step, last),
            min(first + 3 * step, last),
            last,
            pixels,
            spans,
            weights,
            limit,
            kind,
            part,
        )
        for k in range(4):
            i = first + k * step
            if i < stop:
                total = part[k, 0] + centre * base[0]
                out[i, 0] += total
                out[i, 1] += part[k, 1] + centre * base[1] + base[3] * total
                out[i, 2] += part[k, 2] + centre * base[2] + base[4] * total
