"""Compiled products of frames and dense masks.

For blocks of pixels, four frames and four masks are held in vector registers at a time: 16 sums, 4 vectors of pixels
and one of a mask; three frames and two masks where a CPU has 16 registers of half the length. Smaller groups take what
is left over. Every sum is taken in the same order in all of them: the lanes of a vector over the pixels of a block in
float32 (float64 for float64 masks), then across lanes, then across blocks in float64. So a result depends on nothing
but its frame and its mask, and is the same on all CPUs.

With more than a few masks, the pixels of these frames are converted first, once for all masks.

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
    add,
    add_up,
    aligned,
    lanes,
    load,
    multiply_add,
    pick_even,
    pick_even_fours,
    pick_even_pairs,
    pick_lower,
    pick_odd,
    pick_odd_fours,
    pick_odd_pairs,
    pick_upper,
    pixel,
    prefetch,
    store,
    zero,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["FEW_MASKS", "add_products"]

# Up to so many masks, converting pixels each time is quicker than into a panel.
FEW_MASKS = 5 if HAS_LONG_VECTORS else 3
# Masks of a block that stay in the L2 cache, and frames that are taken together.
_MASKS = 64
_FRAMES = 4 if HAS_LONG_VECTORS else 3

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
def _three_by_one(
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
    at1, at2 = at + stride, at + 2 * stride
    s0 = s1 = s2 = zero(packed)
    for j in range(0, width, lanes(packed)):
        prefetch(flat, at + j + ahead)
        prefetch(flat, at1 + j + ahead)
        prefetch(flat, at2 + j + ahead)
        w = load(packed, packed, mask + j, NATIVE)
        s0 = multiply_add(load(packed, flat, at + j, order), w, s0)
        s1 = multiply_add(load(packed, flat, at1 + j, order), w, s1)
        s2 = multiply_add(load(packed, flat, at2 + j, order), w, s2)
    out[i, m] += add_up(s0)
    out[i + 1, m] += add_up(s1)
    out[i + 2, m] += add_up(s2)


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
    """As `_three_by_one`."""
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
    n = lanes(packed)
    s0 = s1 = s2 = s3 = zero(packed)
    for j in range(0, width, n):
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
def _three_by_two(
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
    at1, at2, mask1 = at + stride, at + 2 * stride, mask + width
    n = lanes(packed)
    s00 = s01 = s10 = s11 = s20 = s21 = zero(packed)
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
    out[i, m] += add_up(s00)
    out[i, m + 1] += add_up(s01)
    out[i + 1, m] += add_up(s10)
    out[i + 1, m + 1] += add_up(s11)
    out[i + 2, m] += add_up(s20)
    out[i + 2, m + 1] += add_up(s21)


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
    apart: int,
    scratch: NDArray[Any],  # noqa: ARG001  (which only `_four_by_four` needs)
) -> None:
    """As `_four_by_four`, for CPUs with 16 registers, of half a vector each: two masks after the other two."""
    _three_by_two(flat, order, at, stride, packed, mask, width, out, i, m, source, ahead)
    _three_by_two(flat, order, at, stride, packed, mask + 2 * width, width, out, i, m + 2, source, ahead + apart)


@jit
def _four_sums(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return a vector of sums of four neighbouring numbers: of a, b, c, d, and again a, b, c, d ..."""
    ab, cd = add(pick_even(a, b), pick_odd(a, b)), add(pick_even(c, d), pick_odd(c, d))
    return add(pick_even_pairs(ab, cd), pick_odd_pairs(ab, cd))


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
    apart: int,
    scratch: NDArray[Any],
) -> None:
    """Also fetch as many elements of `source` from `ahead` on, and as many `apart` from these."""
    at1, at2, at3 = at + stride, at + 2 * stride, at + 3 * stride
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    n = lanes(packed)
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero(packed)
    for j in range(0, width, n):
        prefetch(source, ahead + j)
        prefetch(source, ahead + apart + j)
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
    row0, row1 = _four_sums(s00, s01, s02, s03), _four_sums(s10, s11, s12, s13)
    row2, row3 = _four_sums(s20, s21, s22, s23), _four_sums(s30, s31, s32, s33)
    rows01 = add(pick_even_fours(row0, row1), pick_odd_fours(row0, row1))
    rows23 = add(pick_even_fours(row2, row3), pick_odd_fours(row2, row3))
    if n == 16:
        store(scratch, 0, add(pick_lower(rows01, rows23), pick_upper(rows01, rows23)))
    else:
        store(scratch, 0, rows01)
        store(scratch, n, rows23)
    for k in range(4):
        out[i, m + k] += scratch[k]
        out[i + 1, m + k] += scratch[4 + k]
        out[i + 2, m + k] += scratch[8 + k]
        out[i + 3, m + k] += scratch[12 + k]


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
def _add_blocks(
    flat: NDArray[Any],
    order: Order,
    at: int,
    stride: int,
    frames: int,
    begin: int,
    end: int,
    block: int,
    packed: NDArray[Any],
    masks: int,
    first: int,
    last: int,
    out: NDArray[Any],
    i: int,
    panel: NDArray[Any],
    scratch: NDArray[Any],
    next_blocks: int,
) -> None:
    """Add the products of pixels `begin` to `end` of some frames with masks `first` to `last`, and fetch the next ones.

    A few frames are taken at a time. Meanwhile, the same pixels of the next few are fetched; after the last, those
    `next_blocks` after the pixels of frame 0, which begin at flat[at].
    """
    converts = panel.size > 0
    fours = first + (last - first) // 4 * 4
    for f in range(0, frames, _FRAMES):
        some = min(_FRAMES, frames - f)
        ahead = some * stride if f + some < frames else next_blocks - f * stride
        to = i + f
        for b in range(begin, end, block):
            width = min(block, end - b)
            here = at + f * stride + b - begin
            if converts:
                _convert(flat, order, stride, here, some, width, panel)
            for m in range(first, fours, 4):
                mask = b * masks + m * width
                turn = here + ahead + min((m - first) // 2, _FRAMES - 1) * stride
                apart = stride if m - first < 8 else 0
                if some < _FRAMES:
                    for k in range(some):
                        _one_by_four(flat, order, here + k * stride, packed, mask, width, out, to + k, m)
                elif converts:
                    _some_by_four(panel, NATIVE, 0, width, packed, mask, width, out, to, m, flat, turn, apart, scratch)
                else:
                    _some_by_four(
                        flat, order, here, stride, packed, mask, width, out, to, m, flat, turn, apart, scratch
                    )
            if fours < last:
                mask = b * masks + fours * width
                if some == _FRAMES:
                    _some_by_one(flat, order, here, stride, packed, mask, width, out, to, fours, ahead)
                else:
                    for k in range(some):
                        _one_by_one(flat, order, here + k * stride, packed, mask, width, out, to + k, fours)


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
    span: int,
    group: int,
    converts: bool,
    out: NDArray[Any],
) -> None:
    """Add the products of frames `start` to `stop` with all masks to `out`, float64 of shape (frames, masks).

    `masks` is a multiple of four, or one more. Of `group` frames `span` pixels, one or several blocks, are read, then
    the next ones, so that masks are read from memory once per group. With `converts`, pixels are converted once for all
    masks.
    """
    whole = pixels // lanes(packed) * lanes(packed)
    panel = aligned(_FRAMES * block if converts else 0, packed)
    scratch = aligned(16, packed)
    for top in range(start, stop, group):
        frames = min(group, stop - top)
        for begin in range(0, whole, span):
            end = min(begin + span, whole)
            next_blocks = span if end < whole else group * stride - begin
            for first in range(0, masks, _MASKS):
                _add_blocks(
                    *(flat, order, top * stride + begin, stride, frames, begin, end, block, packed, masks),
                    *(first, min(first + _MASKS, masks), out, top, panel, scratch, next_blocks),
                )
    if whole < pixels:
        _add_last_pixels(flat, order, stride, start, stop, whole, pixels, packed, whole * masks, pixels - whole, out)
