"""Compiled products of frames and dense masks.

For blocks of pixels, four frames and four masks are held in vector registers at a time: 16 sums, 4 vectors of pixels
and one of a mask; three frames where a CPU has 16 registers. Smaller groups take what is left over. Every sum is taken
in the same order in all of them: the lanes of a vector over the pixels of a block in float32 (float64 for float64
masks), then across lanes, then across blocks in float64. So a result depends on nothing but its frame and its mask, and
is the same on CPUs with 16 and with 32 registers.

With more than four masks, the pixels of a block are converted into a panel first, once for all masks. That also keeps
them in the cache: frames lie a power of two apart more often than not, and then compete for the same few places there.

The CPU does not see that the next block of each frame will be wanted, so it is fetched ahead, a cache line for every
step or two through the block.

`packed` holds the masks as `tilework.common.kernels.dense.DenseMasks` lays them out: block after block, in a block
mask after mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import (
    HAS_MANY_REGISTERS,
    add_up,
    lanes,
    load,
    multiply_add,
    pixel,
    prefetch,
    store,
    zero,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_products"]

_FRAMES = 4 if HAS_MANY_REGISTERS else 3

# In all of these, pixels of frame 0 begin at flat[at], those of the next frame `stride` later; those of mask 0 begin at
# packed[mask], those of the next mask `width` later. They add to out[i, m] and its neighbours.


@jit
def _one_by_one(
    flat: NDArray[Any],
    order: Order,
    at: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
) -> None:
    s = zero(packed)
    for j in range(0, width, lanes(packed)):
        s = multiply_add(load(packed, flat, at + j, order), load(packed, packed, mask + j, NATIVE), s)
    out[i, m] += add_up(s)


@jit
def _four_by_one(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
    ahead: int,
) -> None:
    """Also fetch what lies `ahead` of each frame's pixels."""
    at1, at2, at3 = at + stride, at + 2 * stride, at + 3 * stride
    s0 = s1 = s2 = s3 = zero(packed)
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
    out[i, m] += add_up(s0)
    out[i + 1, m] += add_up(s1)
    out[i + 2, m] += add_up(s2)
    out[i + 3, m] += add_up(s3)


@jit
def _one_by_four(
    flat: NDArray[Any],
    order: Order,
    at: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
) -> None:
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    s0 = s1 = s2 = s3 = zero(packed)
    for j in range(0, width, lanes(packed)):
        x = load(packed, flat, at + j, order)
        s0 = multiply_add(x, load(packed, packed, mask + j, NATIVE), s0)
        s1 = multiply_add(x, load(packed, packed, mask1 + j, NATIVE), s1)
        s2 = multiply_add(x, load(packed, packed, mask2 + j, NATIVE), s2)
        s3 = multiply_add(x, load(packed, packed, mask3 + j, NATIVE), s3)
    out[i, m] += add_up(s0)
    out[i, m + 1] += add_up(s1)
    out[i, m + 2] += add_up(s2)
    out[i, m + 3] += add_up(s3)


@jit
def _three_by_four(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
    source: NDArray[Any],
    ahead: int,
) -> None:
    """Also fetch as many elements of `source` from `ahead` on."""
    at1, at2 = at + stride, at + 2 * stride
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = s20 = s21 = s22 = s23 = zero(packed)
    for j in range(0, width, lanes(packed)):
        prefetch(source, ahead + j)
        x0 = load(packed, flat, at + j, order)
        x1 = load(packed, flat, at1 + j, order)
        x2 = load(packed, flat, at2 + j, order)
        w = load(packed, packed, mask + j, NATIVE)
        s00 = multiply_add(x0, w, s00)
        s10 = multiply_add(x1, w, s10)
        s20 = multiply_add(x2, w, s20)
        w = load(packed, packed, mask1 + j, NATIVE)
        s01 = multiply_add(x0, w, s01)
        s11 = multiply_add(x1, w, s11)
        s21 = multiply_add(x2, w, s21)
        w = load(packed, packed, mask2 + j, NATIVE)
        s02 = multiply_add(x0, w, s02)
        s12 = multiply_add(x1, w, s12)
        s22 = multiply_add(x2, w, s22)
        w = load(packed, packed, mask3 + j, NATIVE)
        s03 = multiply_add(x0, w, s03)
        s13 = multiply_add(x1, w, s13)
        s23 = multiply_add(x2, w, s23)
    out[i, m] += add_up(s00)
    out[i, m + 1] += add_up(s01)
    out[i, m + 2] += add_up(s02)
    out[i, m + 3] += add_up(s03)
    out[i + 1, m] += add_up(s10)
    out[i + 1, m + 1] += add_up(s11)
    out[i + 1, m + 2] += add_up(s12)
    out[i + 1, m + 3] += add_up(s13)
    out[i + 2, m] += add_up(s20)
    out[i + 2, m + 1] += add_up(s21)
    out[i + 2, m + 2] += add_up(s22)
    out[i + 2, m + 3] += add_up(s23)


@jit
def _four_by_four(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
    source: NDArray[Any],
    ahead: int,
) -> None:
    """As `_three_by_four`, for CPUs with 32 vector registers."""
    at1, at2, at3 = at + stride, at + 2 * stride, at + 3 * stride
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero(packed)
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero(packed)
    for j in range(0, width, lanes(packed)):
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
    out[i, m] += add_up(s00)
    out[i, m + 1] += add_up(s01)
    out[i, m + 2] += add_up(s02)
    out[i, m + 3] += add_up(s03)
    out[i + 1, m] += add_up(s10)
    out[i + 1, m + 1] += add_up(s11)
    out[i + 1, m + 2] += add_up(s12)
    out[i + 1, m + 3] += add_up(s13)
    out[i + 2, m] += add_up(s20)
    out[i + 2, m + 1] += add_up(s21)
    out[i + 2, m + 2] += add_up(s22)
    out[i + 2, m + 3] += add_up(s23)
    out[i + 3, m] += add_up(s30)
    out[i + 3, m + 1] += add_up(s31)
    out[i + 3, m + 2] += add_up(s32)
    out[i + 3, m + 3] += add_up(s33)


_some_by_four = _four_by_four if HAS_MANY_REGISTERS else _three_by_four


@jit
def _by_four(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    frames: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
    source: NDArray[Any],
    source_stride: int,
    next_block: int,
) -> None:
    """Add the products of some frames with four masks, and fetch part of the next block.

    That begins at ``source[next_block]``, frames `source_stride` apart. Each call fetches a frame in turn.
    """
    turn = min(m // 4, _FRAMES - 1) * source_stride
    f = 0
    while f + _FRAMES <= frames:
        ahead = next_block + f * source_stride + turn
        _some_by_four(flat, order, at + f * stride, stride, packed, mask, width, out, i + f, m, source, ahead)
        f += _FRAMES
    while f < frames:
        _one_by_four(flat, order, at + f * stride, packed, mask, width, out, i + f, m)
        f += 1


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
    group: int,
    out: NDArray[Any],
) -> None:
    """Add the products of frames `start` to `stop` with all masks to `out`, float64 of shape (frames, masks).

    `masks` is a multiple of four, or one more. Of `group` frames a block of pixels is read, then the next one, so that
    the masks of the block are read from memory once per group.
    """
    fours = masks // 4 * 4
    whole = pixels // lanes(packed) * lanes(packed)
    converts = fours > 4
    panel = np.empty(group * block if converts else 0, packed.dtype)
    for top in range(start, stop, group):
        frames = min(group, stop - top)
        for begin in range(0, whole, block):
            width = min(block, whole - begin)
            at = top * stride + begin
            next_block = at + block if begin + block < whole else (top + group) * stride
            if converts:
                _convert(flat, order, stride, at, frames, width, panel)
            for m in range(0, fours, 4):
                mask = begin * masks + m * width
                if converts:
                    _by_four(
                        panel, NATIVE, 0, width, frames, packed, mask, width, out, top, m, flat, stride, next_block
                    )
                else:
                    _by_four(
                        flat, order, at, stride, frames, packed, mask, width, out, top, m, flat, stride, next_block
                    )
            if fours < masks:
                mask = begin * masks + fours * width
                f = 0
                while f + 4 <= frames:
                    _four_by_one(
                        *(flat, order, at + f * stride, stride, packed, mask, width, out, top + f, fours),
                        next_block - at,
                    )
                    f += 4
                while f < frames:
                    _one_by_one(flat, order, at + f * stride, packed, mask, width, out, top + f, fours)
                    f += 1
    if whole < pixels:
        _add_last_pixels(flat, order, stride, start, stop, whole, pixels, packed, whole * masks, pixels - whole, out)
