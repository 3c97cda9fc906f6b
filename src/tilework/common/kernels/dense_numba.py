"""Compiled products of frames and dense masks.

For blocks of pixels, three frames and four masks are held in vector registers at a time: 12 sums, 3 vectors of pixels
and one of a mask are the 16 registers of AVX2. Smaller groups take what is left over. Every sum is taken in the same
order in all of them: the lanes of a vector over the pixels of a block in float32 (float64 for float64 masks), then
across lanes, then across blocks in float64. So a result depends on nothing but its frame and its mask.

`packed` holds the masks as `tilework.common.kernels.dense.DenseMasks` lays them out: block after block, in a block
mask after mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit
from tilework.common.kernels.simd_numba import add_up, lanes, load, multiply_add, zero

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add_products"]


@jit
def _one_by_one(
    flat: NDArray[Any], at: int, packed: NDArray[Any], mask: int, width: int, out: NDArray[Any], i: int, m: int
) -> None:
    s = zero(packed)
    for j in range(0, width, lanes(packed)):
        s = multiply_add(load(packed, flat, at + j), load(packed, packed, mask + j), s)
    out[i, m] += add_up(s)


@jit
def _four_by_one(
    flat: NDArray[Any],
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
) -> None:
    at1, at2, at3 = at + stride, at + 2 * stride, at + 3 * stride
    s0 = s1 = s2 = s3 = zero(packed)
    for j in range(0, width, lanes(packed)):
        w = load(packed, packed, mask + j)
        s0 = multiply_add(load(packed, flat, at + j), w, s0)
        s1 = multiply_add(load(packed, flat, at1 + j), w, s1)
        s2 = multiply_add(load(packed, flat, at2 + j), w, s2)
        s3 = multiply_add(load(packed, flat, at3 + j), w, s3)
    out[i, m] += add_up(s0)
    out[i + 1, m] += add_up(s1)
    out[i + 2, m] += add_up(s2)
    out[i + 3, m] += add_up(s3)


@jit
def _one_by_four(
    flat: NDArray[Any], at: int, packed: NDArray[Any], mask: int, width: int, out: NDArray[Any], i: int, m: int
) -> None:
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    s0 = s1 = s2 = s3 = zero(packed)
    for j in range(0, width, lanes(packed)):
        x = load(packed, flat, at + j)
        s0 = multiply_add(x, load(packed, packed, mask + j), s0)
        s1 = multiply_add(x, load(packed, packed, mask1 + j), s1)
        s2 = multiply_add(x, load(packed, packed, mask2 + j), s2)
        s3 = multiply_add(x, load(packed, packed, mask3 + j), s3)
    out[i, m] += add_up(s0)
    out[i, m + 1] += add_up(s1)
    out[i, m + 2] += add_up(s2)
    out[i, m + 3] += add_up(s3)


@jit
def _three_by_four(
    flat: NDArray[Any],
    at: int,
    stride: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
) -> None:
    at1, at2 = at + stride, at + 2 * stride
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = s20 = s21 = s22 = s23 = zero(packed)
    for j in range(0, width, lanes(packed)):
        x0 = load(packed, flat, at + j)
        x1 = load(packed, flat, at1 + j)
        x2 = load(packed, flat, at2 + j)
        w = load(packed, packed, mask + j)
        s00 = multiply_add(x0, w, s00)
        s10 = multiply_add(x1, w, s10)
        s20 = multiply_add(x2, w, s20)
        w = load(packed, packed, mask1 + j)
        s01 = multiply_add(x0, w, s01)
        s11 = multiply_add(x1, w, s11)
        s21 = multiply_add(x2, w, s21)
        w = load(packed, packed, mask2 + j)
        s02 = multiply_add(x0, w, s02)
        s12 = multiply_add(x1, w, s12)
        s22 = multiply_add(x2, w, s22)
        w = load(packed, packed, mask3 + j)
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
def _add_last_pixels(
    flat: NDArray[Any],
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
                s = cast(s + cast(cast(flat[i * stride + j]) * packed[mask + m * width + j - begin]))
            out[i, m] += s


@jit
def add_products(
    flat: NDArray[Any],
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
    for top in range(start, stop, group):
        bottom = min(stop, top + group)
        for begin in range(0, whole, block):
            width = min(block, whole - begin)
            for m in range(0, fours, 4):
                mask = begin * masks + m * width
                i = top
                while i + 3 <= bottom:
                    _three_by_four(flat, i * stride + begin, stride, packed, mask, width, out, i, m)
                    i += 3
                while i < bottom:
                    _one_by_four(flat, i * stride + begin, packed, mask, width, out, i, m)
                    i += 1
            if fours < masks:
                mask = begin * masks + fours * width
                i = top
                while i + 4 <= bottom:
                    _four_by_one(flat, i * stride + begin, stride, packed, mask, width, out, i, fours)
                    i += 4
                while i < bottom:
                    _one_by_one(flat, i * stride + begin, packed, mask, width, out, i, fours)
                    i += 1
    if whole < pixels:
        _add_last_pixels(flat, stride, start, stop, whole, pixels, packed, whole * masks, pixels - whole, out)
