"""Compiled sums and first moments of the pixels inside a region that is given as runs of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import ahead_of, begin_of
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import (
    add,
    add_up,
    fill,
    first,
    lanes,
    load,
    multiply,
    pixel,
    prefetch,
    store,
    zero,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_moments_of_floats", "add_moments_of_integers"]

# Pixels of floats that are summed in their own dtype.
_RUN = 256
# Steps in y, and pixels of 2 bytes, after which sums of sums are still below 2**31: 16 * 2048 * 65535.
_STEPS = 16
_PIXELS = 2048


@jit(inner=True)
def _sum_integers(
    flat: NDArray[Any], order: Order, begin: int, ahead: int, runs: NDArray[Any], columns: NDArray[Any], left: int
) -> tuple[np.float64, np.float64, np.float64]:
    """Return the sum of a frame's pixels, of each times y, and of each times x; exact, as far as float64 can be.

    For x, pixels are summed in `columns`, the first of which has x = `left`. For y, they are summed in a vector, and
    so is that sum, once for each step in y: there, a pixel is as often as there were steps after it. What is `ahead` of
    the pixels is fetched.
    """
    n = lanes(columns)
    for j in range(columns.size):
        columns[j] = 0
    total = moment_y = moment_x = np.float64(0)
    sums = sums_of_sums = zero(columns)
    y = top = runs[0, 2]
    pixels = 0
    for k in range(runs.shape[0]):
        at, length, x = begin + runs[k, 0], runs[k, 1], runs[k, 3] - left
        step = runs[k, 2] - y
        if step != 0:
            if 0 < runs[k, 2] - top <= _STEPS and pixels <= _PIXELS:
                sums_of_sums = add(sums_of_sums, multiply(fill(columns, step), sums))
            else:
                part = np.int64(add_up(sums))
                total += np.float64(part)
                moment_y += np.float64(y * part - np.int64(add_up(sums_of_sums)))
                sums = sums_of_sums = zero(columns)
                top = runs[k, 2]
                pixels = 0
            y = runs[k, 2]
        pixels += length
        whole = length // n * n
        for j in range(0, whole, n):
            prefetch(flat, at + j + ahead)
            row = load(columns, flat, at + j, order)
            store(columns, x + j, add(row, load(columns, columns, x + j, NATIVE)))
            sums = add(sums, row)
        if whole < length and at + whole + n <= flat.size:
            row = first(load(columns, flat, at + whole, order), length - whole)
            store(columns, x + whole, add(row, load(columns, columns, x + whole, NATIVE)))
            sums = add(sums, row)
        else:  # a vector would end after the array
            for j in range(whole, length):
                value = np.int64(pixel(flat, at + j, order))
                total += np.float64(value)
                moment_y += np.float64(y * value)
                moment_x += np.float64((runs[k, 3] + j) * value)
    part = np.int64(add_up(sums))
    total += np.float64(part)
    moment_y += np.float64(y * part - np.int64(add_up(sums_of_sums)))
    # In two halves, so that it is rounded once, however large.
    high = low = np.int64(0)
    for j in range(columns.size):
        moment = (left + j) * np.int64(columns[j])
        high += moment >> 32
        low += moment & 0xFFFFFFFF
    moment_x += np.float64(high) * 2.0**32 + np.float64(low)
    return total, moment_y, moment_x


@jit(math="reorder", inner=True)
def _sum_floats(
    flat: NDArray[Any], order: Order, begin: int, runs: NDArray[Any], kind: NDArray[Any]
) -> tuple[np.float64, np.float64, np.float64]:
    """Return the sum of a frame's pixels, of each times y, and of each times x; up to `_RUN` in the dtype of `kind`."""
    cast = kind.dtype.type
    total = moment_y = moment_x = np.float64(0)
    for k in range(runs.shape[0]):
        for start in range(0, runs[k, 1], _RUN):
            at = begin + runs[k, 0] + start
            s = m = cast(0)
            for j in range(min(_RUN, runs[k, 1] - start)):
                value = cast(pixel(flat, at + j, order))
                s = cast(s + value)
                # As 32 bits, which all CPUs convert to floats in vectors.
                m = cast(m + cast(value * cast(np.int32(j))))
            part = np.float64(s)
            total += part
            moment_y += np.float64(runs[k, 2]) * part
            moment_x += np.float64(runs[k, 3] + start) * part + np.float64(m)
    return total, moment_y, moment_x


@jit
def add_moments_of_integers(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    start: int,
    stop: int,
    pixels: int,
    runs: NDArray[Any],
    columns: NDArray[Any],
    left: int,
    out: NDArray[Any],
) -> None:
    """As `add_moments_of_floats`, of integers of up to 4 bytes, and of frames of so many pixels.

    `columns` is scratch, of integers of 4 bytes for pixels of up to 2, and of 8 for others: one for each column from x
    = `left` on, and as many as a vector has.
    """
    for i in range(start, stop):
        at = begin_of(places, i)
        ahead = ahead_of(flat, places, i, stop - 1, pixels)
        total, moment_y, moment_x = _sum_integers(flat, order, at, ahead, runs, columns, left)
        out[i, 0] += total
        out[i, 1] += moment_y
        out[i, 2] += moment_x


@jit
def add_moments_of_floats(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    start: int,
    stop: int,
    runs: NDArray[Any],
    kind: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Add sum, sum times y and sum times x over all runs to rows `start` to `stop` of `out`, float64.

    A row of `runs` is: place of the first pixel in the frame, number of pixels, y and x of the first pixel. Stretches
    of a run are summed in the dtype of `kind`.
    """
    for i in range(start, stop):
        total, moment_y, moment_x = _sum_floats(flat, order, begin_of(places, i), runs, kind)
        out[i, 0] += total
        out[i, 1] += moment_y
        out[i, 2] += moment_x
