"""Compiled conversion of integers: byte order and dtype in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.cpu import FOLLOWS_LONG_ROWS, IS_ZEN
from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import begin_of
from tilework.common.kernels.rows import VECTOR_BYTES
from tilework.common.kernels.simd_numba import lanes, load, pixel, prefetch, prefetch_once, store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["cast_to_floats", "cast_to_integers"]

# How far ahead of what is converted is fetched. AMD's CPUs do not look far enough by themselves, and past the caches is
# best there; Intel's take twice as long when told so, and are fastest with what comes next in their large L2.
_AHEAD_BYTES = 4096 if IS_ZEN and not FOLLOWS_LONG_ROWS else 8192
_fetch = prefetch_once if IS_ZEN else prefetch


@jit
def cast_to_integers(
    flat: NDArray[Any], order: Order, places: NDArray[Any], frames: int, pixels: int, out: NDArray[Any]
) -> None:
    """Write frames that begin at `places`, with pixels in byte order `order`, to `out`, one after the other."""
    for i in range(frames):
        at = begin_of(places, i)
        source = flat[at : at + pixels]
        row = out[i * pixels : (i + 1) * pixels]
        for j in range(pixels):
            row[j] = pixel(source, j, order)


@jit
def cast_to_floats(
    flat: NDArray[Any], order: Order, places: NDArray[Any], frames: int, pixels: int, out: NDArray[Any]
) -> None:
    """As `cast_to_integers`, and fetch what comes next."""
    step = lanes(out)
    line = max(lanes(flat), step)  # a vector is as long as a line of the caches
    ahead = _AHEAD_BYTES // VECTOR_BYTES * lanes(flat)
    if pixels <= 4 * ahead:  # what follows small frames may not be wanted, but what is loaded next is
        ahead = 0
    lines = pixels // line * line
    whole = pixels // step * step
    for i in range(frames):
        at, to = begin_of(places, i), i * pixels
        for j in range(0, lines, line):
            _fetch(flat, at + j + ahead)  # once for each line: twice takes a tenth longer
            for k in range(j, j + line, step):
                store(out, to + k, load(out, flat, at + k, order))
        for j in range(lines, whole, step):
            store(out, to + j, load(out, flat, at + j, order))
        for j in range(whole, pixels):
            out[to + j] = pixel(flat, at + j, order)
