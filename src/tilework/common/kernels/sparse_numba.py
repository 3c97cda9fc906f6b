"""Compiled products of frames and sparse masks.

Pixels of a mask lie anywhere in a frame, but at the same places in all frames. So eight frames are laid side by side,
block after block of pixels: then the same pixel of eight frames is one load, and is multiplied with the mask's value in
two vectors. Blocks without a pixel of any mask are left out.

A product is summed in float64 over the mask's pixels in their order, however many frames there are: a result depends on
nothing but its frame and its mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import (
    fill,
    load,
    multiply_add,
    pick_even,
    pick_lower,
    pick_odd,
    pick_upper,
    pixel,
    store,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_sparse_products"]

# Pixels after which the second four frames are laid down: both halves of their cache lines are written while these are
# in L1.
_CHUNK = 128


@jit
def _lay_four(
    flat: NDArray[Any], order: Order, stride: int, at: int, width: int, panel: NDArray[np.float64], to: int
) -> None:
    """Write pixels of four frames to every eighth place of the panel and the three after it; `width` is 4 n."""
    at1, at2, at3 = at + stride, at + 2 * stride, at + 3 * stride
    for j in range(0, width, 4):
        a = load(panel, flat, at + j, order)
        b = load(panel, flat, at1 + j, order)
        c = load(panel, flat, at2 + j, order)
        d = load(panel, flat, at3 + j, order)
        ab, cd = pick_even(a, b), pick_even(c, d)
        store(panel, to + 8 * j, pick_lower(ab, cd))
        store(panel, to + 8 * j + 16, pick_upper(ab, cd))
        ab, cd = pick_odd(a, b), pick_odd(c, d)
        store(panel, to + 8 * j + 8, pick_lower(ab, cd))
        store(panel, to + 8 * j + 24, pick_upper(ab, cd))


@jit
def _lay(
    flat: NDArray[Any], order: Order, stride: int, at: int, frames: int, width: int, panel: NDArray[np.float64]
) -> None:
    """Write `width` pixels of up to eight frames side by side: pixel j of frame f to ``panel[8 * j + f]``."""
    fours = width // 4 * 4 if frames == 8 else 0
    for chunk in range(0, fours, _CHUNK):
        n = min(_CHUNK, fours - chunk)
        _lay_four(flat, order, stride, at + chunk, n, panel, 8 * chunk)
        _lay_four(flat, order, stride, at + 4 * stride + chunk, n, panel, 8 * chunk + 4)
    for f in range(frames):
        for j in range(fours, width):
            panel[8 * j + f] = pixel(flat, at + f * stride + j, order)


@jit
def add_sparse_products(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    start: int,
    stop: int,
    pixels: int,
    masks: int,
    block: int,
    blocks: NDArray[np.int64],
    pieces: NDArray[np.int64],
    places: NDArray[np.int32],
    values: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Add the products of frames `start` to `stop` with all masks to `out`, float64 of shape (frames, masks).

    What a mask has in one block of pixels is a piece. Block ``b`` has pieces ``blocks[b]`` to ``blocks[b + 1]``. Piece
    ``p`` is of mask ``pieces[p, 0]``, and has ``values[k]`` at pixel ``places[k]`` of the block, for ``k`` from
    ``pieces[p, 1]`` to ``pieces[p + 1, 1]``.
    """
    # Places of frames that are not there are computed with, but not used.
    panel = np.zeros(8 * block)
    sums = np.empty(8 * masks)
    for first in range(start, stop, 8):
        frames = min(8, stop - first)
        sums[:] = 0
        for b in range(blocks.size - 1):
            if blocks[b] == blocks[b + 1]:
                continue
            begin = b * block
            _lay(flat, order, stride, first * stride + begin, frames, min(block, pixels - begin), panel)
            for p in range(blocks[b], blocks[b + 1]):
                at = 8 * pieces[p, 0]
                lower = load(panel, sums, at, NATIVE)
                upper = load(panel, sums, at + 4, NATIVE)
                for k in range(pieces[p, 1], pieces[p + 1, 1]):
                    value = fill(panel, values[k])
                    place = 8 * places[k]
                    lower = multiply_add(load(panel, panel, place, NATIVE), value, lower)
                    upper = multiply_add(load(panel, panel, place + 4, NATIVE), value, upper)
                store(sums, at, lower)
                store(sums, at + 4, upper)
        for f in range(frames):
            for m in range(masks):
                out[first + f, m] += sums[8 * m + f]
