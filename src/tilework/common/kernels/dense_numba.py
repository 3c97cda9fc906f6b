"""Compiled products of frames and dense masks.

Four frames and four masks are held in vector registers at a time: 16 sums, 4 vectors of pixels and one of a mask; three
frames and two masks where a CPU has 16 registers of half the length. Smaller groups take what is left over. This goes
on for a block of pixels, so short that sixteen masks of it stay in the L1 cache, where a frame's pixels are converted
to for all of them. Then the sums, still vectors, are laid aside: other frames take their turn with the same masks, and
with the next block they go on.

Every sum is taken in the same order in all of this: the lanes of a vector over the pixels of a unit in float32 (float64
for float64 masks), then across lanes, then across units in float64. So a result depends on nothing but its frame and
its mask, and is the same on all CPUs.

The CPU does not see which frames' pixels will be wanted next, so they are fetched ahead, a cache line for every step or
two through the block.

`packed` holds the masks as `tilework.common.kernels.dense.DenseMasks` lays them out: block after block, in a block
mask after mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import (
    HAS_LONG_VECTORS,
    add_up,
    aligned,
    lanes,
    load,
    multiply_add,
    pixel,
    prefetch,
    store,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_products"]

# Masks and frames whose products are taken together. Of more masks, the next ones follow after a unit of pixels.
_MASKS = 16
_FRAMES = 4 if HAS_LONG_VECTORS else 3

# In all of these, pixels of frame 0 begin at flat[at], those of the next frame `stride` later; those of mask 0 begin at
# packed[mask], those of the next mask `width` later. Their vectors of sums begin at sums[to], those of the next mask a
# vector later, those of the next frame `row` later.


@jit
def _one_by_one(
    flat: NDArray[Any],
    order: Order,
    at: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    sums: NDArray[Any],
    to: int,
) -> None:
    s = load(packed, sums, to, NATIVE)
    for j in range(0, width, lanes(packed)):
        s = multiply_add(load(packed, flat, at + j, order), load(packed, packed, mask + j, NATIVE), s)
    store(sums, to, s)


@jit
def _three_by_one(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    sums: NDArray[Any],
    to: int,
    row: int,
    ahead: int,
) -> None:
    """Also fetch what lies `ahead` of each frame's pixels."""
    at1, at2 = at + stride, at + 2 * stride
    s0 = load(packed, sums, to, NATIVE)
    s1 = load(packed, sums, to + row, NATIVE)
    s2 = load(packed, sums, to + 2 * row, NATIVE)
    for j in range(0, width, lanes(packed)):
        prefetch(flat, at + j + ahead)
        prefetch(flat, at1 + j + ahead)
        prefetch(flat, at2 + j + ahead)
        w = load(packed, packed, mask + j, NATIVE)
        s0 = multiply_add(load(packed, flat, at + j, order), w, s0)
        s1 = multiply_add(load(packed, flat, at1 + j, order), w, s1)
        s2 = multiply_add(load(packed, flat, at2 + j, order), w, s2)
    store(sums, to, s0)
    store(sums, to + row, s1)
    store(sums, to + 2 * row, s2)


@jit
def _four_by_one(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    sums: NDArray[Any],
    to: int,
    row: int,
    ahead: int,
) -> None:
    """As `_three_by_one`."""
    at1, at2, at3 = at + stride, at + 2 * stride, at + 3 * stride
    s0 = load(packed, sums, to, NATIVE)
    s1 = load(packed, sums, to + row, NATIVE)
    s2 = load(packed, sums, to + 2 * row, NATIVE)
    s3 = load(packed, sums, to + 3 * row, NATIVE)
    for j in range(0, width, lanes(packed)):
        prefetch(flat, at + j + ahead)
        prefetch(flat, at1 + j + ahead)
        prefetch(flat, at2 + j + ahead)
        prefetch(flat, at3 + j + ahead)
        w = load(packed, packed, mask + j, NATIVE)
        s0 = multiply_add(load(packed, flat, at + j, order), w, s0)
        s1 = multiply_add(load(packed, flat, at1 + j, order), w, s1)
        s2 = multiply_add(load(packed, flat, at2 + j, order), w, s2)
        s3 = multiply_add(load(packed, flat, at3 + j, order), w, s3)
    store(sums, to, s0)
    store(sums, to + row, s1)
    store(sums, to + 2 * row, s2)
    store(sums, to + 3 * row, s3)


@jit
def _one_by_four(
    flat: NDArray[Any],
    order: Order,
    at: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    sums: NDArray[Any],
    to: int,
) -> None:
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    n = lanes(packed)
    s0 = load(packed, sums, to, NATIVE)
    s1 = load(packed, sums, to + n, NATIVE)
    s2 = load(packed, sums, to + 2 * n, NATIVE)
    s3 = load(packed, sums, to + 3 * n, NATIVE)
    for j in range(0, width, n):
        x = load(packed, flat, at + j, order)
        s0 = multiply_add(x, load(packed, packed, mask + j, NATIVE), s0)
        s1 = multiply_add(x, load(packed, packed, mask1 + j, NATIVE), s1)
        s2 = multiply_add(x, load(packed, packed, mask2 + j, NATIVE), s2)
        s3 = multiply_add(x, load(packed, packed, mask3 + j, NATIVE), s3)
    store(sums, to, s0)
    store(sums, to + n, s1)
    store(sums, to + 2 * n, s2)
    store(sums, to + 3 * n, s3)


@jit
def _three_by_two(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    sums: NDArray[Any],
    to: int,
    row: int,
    source: NDArray[Any],
    ahead: int,
) -> None:
    """Also fetch as many elements of `source` from `ahead` on."""
    at1, at2, mask1 = at + stride, at + 2 * stride, mask + width
    n = lanes(packed)
    s00 = load(packed, sums, to, NATIVE)
    s01 = load(packed, sums, to + n, NATIVE)
    s10 = load(packed, sums, to + row, NATIVE)
    s11 = load(packed, sums, to + row + n, NATIVE)
    s20 = load(packed, sums, to + 2 * row, NATIVE)
    s21 = load(packed, sums, to + 2 * row + n, NATIVE)
    for j in range(0, width, n):
        prefetch(source, ahead + j)
        w0 = load(packed, packed, mask + j, NATIVE)
        w1 = load(packed, packed, mask1 + j, NATIVE)
        x = load(packed, flat, at + j, order)
        s00 = multiply_add(x, w0, s00)
        s01 = multiply_add(x, w1, s01)
        x = load(packed, flat, at1 + j, order)
        s10 = multiply_add(x, w0, s10)
        s11 = multiply_add(x, w1, s11)
        x = load(packed, flat, at2 + j, order)
        s20 = multiply_add(x, w0, s20)
        s21 = multiply_add(x, w1, s21)
    store(sums, to, s00)
    store(sums, to + n, s01)
    store(sums, to + row, s10)
    store(sums, to + row + n, s11)
    store(sums, to + 2 * row, s20)
    store(sums, to + 2 * row + n, s21)


@jit
def _three_by_four(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    sums: NDArray[Any],
    to: int,
    row: int,
    source: NDArray[Any],
    ahead: int,
) -> None:
    """As `_four_by_four`, for CPUs with 16 registers, of half a vector each: two masks after the other two."""
    _three_by_two(flat, order, at, stride, packed, mask, width, sums, to, row, source, ahead)
    next_two = to + 2 * lanes(packed)
    _three_by_two(flat, order, at, stride, packed, mask + 2 * width, width, sums, next_two, row, source, ahead)


@jit
def _four_by_four(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    sums: NDArray[Any],
    to: int,
    row: int,
    source: NDArray[Any],
    ahead: int,
) -> None:
    """Also fetch as many elements of `source` from `ahead` on."""
    at1, at2, at3 = at + stride, at + 2 * stride, at + 3 * stride
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    n = lanes(packed)
    s00 = load(packed, sums, to, NATIVE)
    s01 = load(packed, sums, to + n, NATIVE)
    s02 = load(packed, sums, to + 2 * n, NATIVE)
    s03 = load(packed, sums, to + 3 * n, NATIVE)
    s10 = load(packed, sums, to + row, NATIVE)
    s11 = load(packed, sums, to + row + n, NATIVE)
    s12 = load(packed, sums, to + row + 2 * n, NATIVE)
    s13 = load(packed, sums, to + row + 3 * n, NATIVE)
    s20 = load(packed, sums, to + 2 * row, NATIVE)
    s21 = load(packed, sums, to + 2 * row + n, NATIVE)
    s22 = load(packed, sums, to + 2 * row + 2 * n, NATIVE)
    s23 = load(packed, sums, to + 2 * row + 3 * n, NATIVE)
    s30 = load(packed, sums, to + 3 * row, NATIVE)
    s31 = load(packed, sums, to + 3 * row + n, NATIVE)
    s32 = load(packed, sums, to + 3 * row + 2 * n, NATIVE)
    s33 = load(packed, sums, to + 3 * row + 3 * n, NATIVE)
    for j in range(0, width, n):
        prefetch(source, ahead + j)
        x0 = load(packed, flat, at + j, order)
        x1 = load(packed, flat, at1 + j, order)
        x2 = load(packed, flat, at2 + j, order)
        x3 = load(packed, flat, at3 + j, order)
        w = load(packed, packed, mask + j, NATIVE)
        s00 = multiply_add(x0, w, s00)
        s10 = multiply_add(x1, w, s10)
        s20 = multiply_add(x2, w, s20)
        s30 = multiply_add(x3, w, s30)
        w = load(packed, packed, mask1 + j, NATIVE)
        s01 = multiply_add(x0, w, s01)
        s11 = multiply_add(x1, w, s11)
        s21 = multiply_add(x2, w, s21)
        s31 = multiply_add(x3, w, s31)
        w = load(packed, packed, mask2 + j, NATIVE)
        s02 = multiply_add(x0, w, s02)
        s12 = multiply_add(x1, w, s12)
        s22 = multiply_add(x2, w, s22)
        s32 = multiply_add(x3, w, s32)
        w = load(packed, packed, mask3 + j, NATIVE)
        s03 = multiply_add(x0, w, s03)
        s13 = multiply_add(x1, w, s13)
        s23 = multiply_add(x2, w, s23)
        s33 = multiply_add(x3, w, s33)
    store(sums, to, s00)
    store(sums, to + n, s01)
    store(sums, to + 2 * n, s02)
    store(sums, to + 3 * n, s03)
    store(sums, to + row, s10)
    store(sums, to + row + n, s11)
    store(sums, to + row + 2 * n, s12)
    store(sums, to + row + 3 * n, s13)
    store(sums, to + 2 * row, s20)
    store(sums, to + 2 * row + n, s21)
    store(sums, to + 2 * row + 2 * n, s22)
    store(sums, to + 2 * row + 3 * n, s23)
    store(sums, to + 3 * row, s30)
    store(sums, to + 3 * row + n, s31)
    store(sums, to + 3 * row + 2 * n, s32)
    store(sums, to + 3 * row + 3 * n, s33)


_some_by_one = _four_by_one if HAS_LONG_VECTORS else _three_by_one
_some_by_four = _four_by_four if HAS_LONG_VECTORS else _three_by_four


@jit
def _convert(
    flat: NDArray[Any], order: Order, stride: int, at: int, frames: int, width: int, panel: NDArray[Any]
) -> None:
    """Write a block of pixels of some frames into a panel, frame after frame."""
    for f in range(frames):
        source, target = at + f * stride, f * width
        for j in range(0, width, lanes(panel)):
            store(panel, target + j, load(panel, flat, source + j, order))


@jit
def _add_block(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    frames: int,
    packed: NDArray[Any],
    mask: int,
    masks: int,
    width: int,
    sums: NDArray[Any],
    row: int,
    panel: NDArray[Any],
    next_block: int,
) -> None:
    """Add the products of a block of some frames' pixels with some masks, and fetch what is wanted next.

    A few frames are taken at a time. Meanwhile, the same pixels of the next few are fetched; after the last, those of
    the next block, `next_block` from these.
    """
    converts = panel.size > 0
    n = lanes(packed)
    fours = masks // 4 * 4
    one = mask + fours * width
    for f in range(0, frames, _FRAMES):
        here = at + f * stride
        some = min(_FRAMES, frames - f)
        ahead = some * stride if f + some < frames else next_block - f * stride
        if converts:
            _convert(flat, order, stride, here, some, width, panel)
        for m in range(0, fours, 4):
            first, target = mask + m * width, f * row + m * n
            turn = here + ahead + min(m // 4, _FRAMES - 1) * stride
            if some < _FRAMES:
                for k in range(some):
                    _one_by_four(flat, order, here + k * stride, packed, first, width, sums, target + k * row)
            elif converts:
                _some_by_four(panel, NATIVE, 0, width, packed, first, width, sums, target, row, flat, turn)
            else:
                _some_by_four(flat, order, here, stride, packed, first, width, sums, target, row, flat, turn)
        if fours < masks:
            target = f * row + fours * n
            if some == _FRAMES:
                _some_by_one(flat, order, here, stride, packed, one, width, sums, target, row, ahead)
            else:
                for k in range(some):
                    _one_by_one(flat, order, here + k * stride, packed, one, width, sums, target + k * row)


@jit
def _add_last_pixels(
    flat: NDArray[Any],
    order: Order,
    stride: int,
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
        for m in range(out.shape[1]):
            s = cast(0)
            for j in range(begin, end):
                s = cast(s + cast(cast(pixel(flat, i * stride + j, order)) * packed[mask + m * width + j - begin]))
            out[i, m] += s


@jit
def add_products(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    start: int,
    stop: int,
    pixels: int,
    packed: NDArray[Any],
    masks: int,
    block: int,
    unit: int,
    group: int,
    converts: bool,
    out: NDArray[Any],
) -> None:
    """Add the products of frames `start` to `stop` with all masks to `out`, float64 of shape (frames, masks).

    `masks` is a multiple of four, or one more. Of `group` frames a block of pixels is read, then the next one, so that
    the masks of the block are read from memory once per group. `unit` is how many pixels are added up in the masks'
    precision; `block` divides it. With `converts`, pixels are converted once for all masks, which pays for more than
    five.
    """
    whole = pixels // lanes(packed) * lanes(packed)
    panel = aligned(_FRAMES * block if converts else 0, packed)
    row = min(_MASKS, masks) * lanes(packed)
    sums = aligned(group * row, packed)
    for top in range(start, stop, group):
        frames = min(group, stop - top)
        for first in range(0, whole, unit):
            for m in range(0, masks, _MASKS):
                some = min(_MASKS, masks - m)
                sums[: frames * row] = 0
                for begin in range(first, min(first + unit, whole), block):
                    width = min(block, whole - begin)
                    next_block = block if begin + block < whole else group * stride - begin
                    _add_block(
                        *(flat, order, top * stride + begin, stride, frames, packed, begin * masks + m * width),
                        *(some, width, sums, row, panel, next_block),
                    )
                for f in range(frames):
                    for k in range(some):
                        out[top + f, m + k] += add_up(load(packed, sums, f * row + k * lanes(packed), NATIVE))
    if whole < pixels:
        _add_last_pixels(flat, order, stride, start, stop, whole, pixels, packed, whole * masks, pixels - whole, out)
