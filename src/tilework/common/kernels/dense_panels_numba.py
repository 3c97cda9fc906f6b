"""Compiled products of frames and many dense masks, for CPUs with 16 vector registers of half a vector each.

Bits are those of `tilework.common.kernels.dense_numba`, for all sums are taken in the same order.

`packed` holds the masks as `tilework.common.kernels.dense_panels.MaskPanels` lays them out: part after part of the
pixels, in it panel after panel of masks, each as many as a vector has numbers, in it lane after lane, in it pixel after
pixel, the masks of each. The pixels that fill no vector come at the end, mask after mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.dense_numba import add_last_pixels
from tilework.common.kernels.dense_registers import PANEL_FRAMES
from tilework.common.kernels.jit import jit
from tilework.common.kernels.panel_products_numba import add_lanes, add_panel
from tilework.common.kernels.places_numba import begin_of
from tilework.common.kernels.simd_numba import lanes, load, store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_panel_products"]

# Panels of a block that stay in the L2 cache.
_PANELS = 4


@jit(part=True)
def _add_block(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    top: int,
    end: int,
    begin: int,
    stop: int,
    part: int,
    packed: NDArray[Any],
    masks: int,
    first: int,
    last: int,
    converted: NDArray[Any] | None,
    direct: tuple[()] | None,
    sums: NDArray[Any],
    begins: NDArray[Any],
    ahead: NDArray[Any],
    flat_out: NDArray[Any],
    next_top: int,
    next_begin: int,
    last_frame: int,
) -> None:
    """Add the products of pixels `begin` to `stop` of frames `top` to `end` with masks `first` to `last`.

    With the first panel, the pixels that come next are fetched, at last those from `next_begin` on of frames from
    `next_top` on. There are none after `last_frame`.
    """
    lane = lanes(packed)
    row = part + lane  # so that rows are apart from each other in the L1 cache
    for i in range(top, end, PANEL_FRAMES):
        some = min(PANEL_FRAMES, end - i)
        next_frames, next_at = (i + PANEL_FRAMES, begin) if i + PANEL_FRAMES < end else (next_top, next_begin)
        for m in range(first, last, lane):
            for at in range(begin, stop, part):
                pixels = min(part, stop - at)
                wanted, moved = (i, at + part) if at + part < stop else (next_frames, next_at)
                for f in range(PANEL_FRAMES):
                    ahead[f] = begin_of(places, min(wanted + f, last_frame)) + moved
                mask, is_first, fetches = at * masks + m * pixels, at == begin, m == 0
                # Only the one whose argument is not None is compiled.
                if direct is not None:
                    for f in range(PANEL_FRAMES):
                        begins[f] = begin_of(places, min(i + f, end - 1)) + at
                    add_panel(flat, begins, pixels // lane, packed, mask, sums, is_first, flat, ahead, fetches)
                if converted is not None:
                    for f in range(PANEL_FRAMES):
                        begins[f] = ((at - begin) // part * PANEL_FRAMES + f) * row
                    if m == first:
                        for f in range(some):
                            source = begin_of(places, i + f) + at
                            for j in range(0, pixels, lane):
                                store(converted, begins[f] + j, load(packed, flat, source + j, order))
                    add_panel(converted, begins, pixels // lane, packed, mask, sums, is_first, flat, ahead, fetches)
            add_lanes(sums, flat_out, i * masks + m, masks, some)


@jit
def add_panel_products(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    start: int,
    stop: int,
    pixels: int,
    packed: NDArray[Any],
    masks: int,
    block: int,
    part: int,
    group: int,
    converted: NDArray[Any] | None,
    direct: tuple[()] | None,
    sums: NDArray[Any],
    begins: NDArray[Any],
    ahead: NDArray[Any],
    out: NDArray[Any],
    flat_out: NDArray[Any],
) -> None:
    """Add the products of frames `start` to `stop` with all masks to `out`, float64 of shape (frames, masks).

    `masks` is a multiple of the numbers in a vector. A sum is taken over `block` pixels, which are multiplied `part` by
    part. Masks are read from memory once for a `group` of frames. `converted` is for the pixels of a few frames in a
    block; where it is None, and `direct` is not, pixels are floats of the masks' type in native byte order. `sums`,
    `begins` and `ahead` are for what is under way, `flat_out` is `out` as one axis.
    """
    whole = pixels // lanes(packed) * lanes(packed)
    for top in range(start, stop, group):
        end = min(top + group, stop)
        for begin in range(0, whole, block):
            until = min(begin + block, whole)
            next_top, next_begin = (top, until) if until < whole else (end, 0)
            for first in range(0, masks, _PANELS * lanes(packed)):
                last = min(first + _PANELS * lanes(packed), masks)
                _add_block(
                    flat, order, places, top, end, begin, until, part, packed, masks, first, last,
                    converted, direct, sums, begins, ahead, flat_out, next_top, next_begin, stop - 1,
                )  # fmt: skip
    if whole < pixels:
        add_last_pixels(flat, order, places, start, stop, whole, pixels, packed, whole * masks, pixels - whole, out)
