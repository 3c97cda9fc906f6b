"""Compiled products of frames and dense masks.

For blocks of pixels, four frames and four masks are held in vector registers at a time: 16 sums, 4 vectors of pixels
and one of a mask; three frames and two masks where a CPU has 16 registers of half the length. Smaller groups take what
is left over. Every sum is taken in the same order in all of them: the lanes of a vector over the pixels of a block in
float32 (float64 for float64 masks), then across lanes, then across blocks in float64. So a result depends on nothing
but its frame and its mask, and is the same on all CPUs that multiply and add in one instruction (FMA).

With more than a few masks, the pixels of these frames are converted once for all masks: the first masks leave them
converted for the others.

The CPU does not see which frames' pixels will be wanted next, so they are fetched ahead, bit by bit during the turns of
all masks: asked for everything at once, the memory is busy first and idle later.

`packed` holds the masks as `tilework.common.kernels.dense_rows.MaskRows` lays them out: block after block, in a block
mask after mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.cpu import HAS_LONG_VECTORS
from tilework.common.kernels.dense_groups_numba import (
    four_by_four,
    four_by_one,
    one_by_four,
    one_by_one,
    three_by_one,
    three_by_two,
)
from tilework.common.kernels.dense_registers import FRAMES, MASKS_AT_ONCE
from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import begin_of
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import lanes, pixel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_last_pixels", "add_products"]

_some_by_one = four_by_one if HAS_LONG_VECTORS else three_by_one
_some_by_some = four_by_four if HAS_LONG_VECTORS else three_by_two
# Masks of a block that stay in the L2 cache.
_MASKS = 64


@jit(part=True)
def _one_by_all(
    flat: NDArray[Any],
    order: Order,
    at: int,
    packed: NDArray[Any],
    begin: int,
    first: int,
    last: int,
    width: int,
    out: NDArray[Any],
    i: int,
) -> None:
    """Add the products with masks `first` to `last`; the masks of this block begin at packed[begin]."""
    fours = first + (last - first) // 4 * 4
    for m in range(first, fours, 4):
        one_by_four(flat, order, at, packed, begin + m * width, width, out, i, m)
    for m in range(fours, last):
        one_by_one(flat, order, at, packed, begin + m * width, width, out, i, m)


@jit(part=True)
def _add_blocks(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    top: int,
    frames: int,
    begin: int,
    end: int,
    block: int,
    packed: NDArray[Any],
    masks: int,
    first: int,
    last: int,
    out: NDArray[Any],
    converted: NDArray[Any] | None,
    direct: tuple[()] | None,
    scratch: NDArray[Any],
    next_top: int,
    next_begin: int,
    last_frame: int,
) -> None:
    """Add the products of pixels `begin` to `end` of some frames from `top` on with masks `first` to `last`.

    A few frames are taken at a time. Meanwhile, the same pixels of the next few are fetched; after the last, the pixels
    from `next_begin` on of frames from `next_top` on. There are none after `last_frame`.
    """
    groups = (last - first) // MASKS_AT_ONCE
    together = first + groups * MASKS_AT_ONCE
    # In the turn of each group, ``1 / 2**shift`` of a frame's block is fetched, one line after the other, as the CPU's
    # own fetching likes it; of two frames, where there are fewer groups than frames.
    shift = 0
    while FRAMES << (shift + 1) <= groups:
        shift += 1
    at_once = 2 if groups < FRAMES and HAS_LONG_VECTORS else 1
    for i in range(top, top + frames, FRAMES):
        some = min(FRAMES, top + frames - i)
        is_last = i + some == top + frames
        wanted = next_top if is_last else i + some
        moved = next_begin - begin if is_last else 0
        at0, at1 = begin_of(places, i), begin_of(places, min(i + 1, last_frame))
        at2, at3 = begin_of(places, min(i + 2, last_frame)), begin_of(places, min(i + 3, last_frame))
        for b in range(begin, end, block):
            width = min(block, end - b)
            if some < FRAMES:
                for k in range(i, i + some):
                    at = begin_of(places, k) + b
                    _one_by_all(flat, order, at, packed, b * masks, first, last, width, out, k)
                continue
            size = width >> shift
            for m in range(first, together, MASKS_AT_ONCE):
                mask = b * masks + m * width
                turn = (m - first) // MASKS_AT_ONCE
                one = wanted + min(at_once * turn >> shift, FRAMES - 1)
                at = begin_of(places, min(one, last_frame))
                apart = begin_of(places, min(one + 1, last_frame)) - at if at_once == 2 else 0
                ahead = at + b + moved + (turn & ((1 << shift) - 1)) * size
                # Only the one whose argument is not None is compiled. Arguments are written out: numba makes tuples of
                # others, in each turn, which takes a tenth of the time.
                if direct is not None:
                    _some_by_some(
                        flat, order, at0 + b, at1 + b, at2 + b, at3 + b, packed, mask, width, out, i, m,
                        flat, ahead, apart, shift, None, scratch,
                    )  # fmt: skip
                if converted is not None:
                    if m == first:
                        _some_by_some(
                            flat, order, at0 + b, at1 + b, at2 + b, at3 + b, packed, mask, width, out, i, m,
                            flat, ahead, apart, shift, converted, scratch,
                        )  # fmt: skip
                    else:
                        _some_by_some(
                            converted, NATIVE, 0, width, 2 * width, 3 * width, packed, mask, width, out, i, m,
                            flat, ahead, apart, shift, None, scratch,
                        )  # fmt: skip
            if together < last:
                mask, follows = b * masks + together * width, b + moved
                _some_by_one(
                    flat, order, at0 + b, at1 + b, at2 + b, at3 + b, packed, mask, width, out, i, together,
                    begin_of(places, min(wanted, last_frame)) + follows,
                    begin_of(places, min(wanted + 1, last_frame)) + follows,
                    begin_of(places, min(wanted + 2, last_frame)) + follows,
                    begin_of(places, min(wanted + 3, last_frame)) + follows,
                )  # fmt: skip


@jit(part=True)
def add_last_pixels(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    start: int,
    stop: int,
    begin: int,
    end: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
) -> None:
    """Add the products of the pixels from `begin` on, which fill no vector."""
    cast = packed.dtype.type
    for i in range(start, stop):
        at = begin_of(places, i)
        for m in range(out.shape[1]):
            s = cast(0)
            for j in range(begin, end):
                s = cast(s + cast(cast(pixel(flat, at + j, order)) * packed[mask + m * width + j - begin]))
            out[i, m] += s


@jit
def add_products(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    start: int,
    stop: int,
    pixels: int,
    packed: NDArray[Any],
    masks: int,
    block: int,
    span: int,
    group: int,
    converted: NDArray[Any] | None,
    direct: tuple[()] | None,
    scratch: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Add the products of frames `start` to `stop` with all masks to `out`, float64 of shape (frames, masks).

    `masks` is a multiple of `MASKS_AT_ONCE`, or one more. Of `group` frames `span` pixels, one or several blocks, are
    read, then the next ones, so that masks are read from memory once per group. `converted`, of `FRAMES` blocks, is for
    pixels that are converted once for all masks; when it is None, and `direct` is not, each mask's turn converts them.
    `scratch` holds 16 numbers.
    """
    whole = pixels // lanes(packed) * lanes(packed)
    for top in range(start, stop, group):
        frames = min(group, stop - top)
        for begin in range(0, whole, span):
            end = min(begin + span, whole)
            next_top, next_begin = (top, begin + span) if end < whole else (top + group, 0)
            for first in range(0, masks, _MASKS):
                last = min(first + _MASKS, masks)
                _add_blocks(
                    flat, order, places, top, frames, begin, end, block, packed, masks, first, last, out,
                    converted, direct, scratch, next_top, next_begin, stop - 1,
                )  # fmt: skip
    if whole < pixels:
        add_last_pixels(flat, order, places, start, stop, whole, pixels, packed, whole * masks, pixels - whole, out)
