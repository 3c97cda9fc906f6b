"""Compiled products of frames and sparse masks.

Pixels of a mask lie anywhere in a frame, but at the same places in all frames. So eight frames are laid side by side,
block after block of pixels: then the same pixel of eight frames is one vector, which is multiplied with the mask's
value. Blocks without a pixel of any mask are left out.

A product is summed in float64 over the mask's pixels in their order, however many frames there are: a result depends on
nothing but its frame and its mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import begin_of
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import (
    fill,
    load,
    multiply_add,
    pick_even,
    pick_even_pairs,
    pick_lower,
    pick_odd,
    pick_odd_pairs,
    pick_upper,
    pixel,
    store,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_sparse_products"]


@jit(part=True)
def _lay_eight(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    first: int,
    begin: int,
    width: int,
    panel: NDArray[np.float64],
) -> None:
    """Write pixels from `begin` on of eight frames to the panel, pixel after pixel; `width` is 8 n.

    Eight vectors of a frame's pixels each become eight of a pixel each: in three steps, neighbouring frames, pairs and
    fours are joined.
    """
    at0, at1 = begin_of(places, first) + begin, begin_of(places, first + 1) + begin
    at2, at3 = begin_of(places, first + 2) + begin, begin_of(places, first + 3) + begin
    at4, at5 = begin_of(places, first + 4) + begin, begin_of(places, first + 5) + begin
    at6, at7 = begin_of(places, first + 6) + begin, begin_of(places, first + 7) + begin
    for j in range(0, width, 8):
        a = load(panel, flat, at0 + j, order)
        b = load(panel, flat, at1 + j, order)
        c = load(panel, flat, at2 + j, order)
        d = load(panel, flat, at3 + j, order)
        e = load(panel, flat, at4 + j, order)
        f = load(panel, flat, at5 + j, order)
        g = load(panel, flat, at6 + j, order)
        h = load(panel, flat, at7 + j, order)
        to = 8 * j
        ab, cd, ef, gh = pick_even(a, b), pick_even(c, d), pick_even(e, f), pick_even(g, h)
        abcd, efgh = pick_even_pairs(ab, cd), pick_even_pairs(ef, gh)
        store(panel, to, pick_lower(abcd, efgh))
        store(panel, to + 32, pick_upper(abcd, efgh))
        abcd, efgh = pick_odd_pairs(ab, cd), pick_odd_pairs(ef, gh)
        store(panel, to + 16, pick_lower(abcd, efgh))
        store(panel, to + 48, pick_upper(abcd, efgh))
        ab, cd, ef, gh = pick_odd(a, b), pick_odd(c, d), pick_odd(e, f), pick_odd(g, h)
        abcd, efgh = pick_even_pairs(ab, cd), pick_even_pairs(ef, gh)
        store(panel, to + 8, pick_lower(abcd, efgh))
        store(panel, to + 40, pick_upper(abcd, efgh))
        abcd, efgh = pick_odd_pairs(ab, cd), pick_odd_pairs(ef, gh)
        store(panel, to + 24, pick_lower(abcd, efgh))
        store(panel, to + 56, pick_upper(abcd, efgh))


@jit(part=True)
def _lay(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    first: int,
    frames: int,
    begin: int,
    width: int,
    panel: NDArray[np.float64],
) -> None:
    """Write `width` pixels of up to eight frames side by side: pixel j of frame f to ``panel[8 * j + f]``."""
    eights = width // 8 * 8 if frames == 8 else 0
    if frames == 8:
        _lay_eight(flat, order, places, first, begin, eights, panel)
    for f in range(frames):
        at = begin_of(places, first + f) + begin
        for j in range(eights, width):
            panel[8 * j + f] = pixel(flat, at + j, order)


@jit
def add_sparse_products(
    flat: NDArray[Any],
    order: Order,
    places: NDArray[Any],
    start: int,
    stop: int,
    pixels: int,
    masks: int,
    block: int,
    blocks: NDArray[np.int64],
    pieces: NDArray[np.int64],
    within: NDArray[np.int32],
    values: NDArray[np.float64],
    panel: NDArray[np.float64],
    sums: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Add the products of frames `start` to `stop` with all masks to `out`, float64 of shape (frames, masks).

    What a mask has in one block of pixels is a piece. Block ``b`` has pieces ``blocks[b]`` to ``blocks[b + 1]``. Piece
    ``p`` is of mask ``pieces[p, 0]``, and has ``values[k]`` at pixel ``within[k]`` of the block, for ``k`` from
    ``pieces[p, 1]`` to ``pieces[p + 1, 1]``. Scratch is `panel`, 8 times `block` numbers, and `sums`, 8 times `masks`.
    """
    # Columns of `panel` for frames that are not there are computed with, but not used.
    panel[:] = 0
    for first in range(start, stop, 8):
        frames = min(8, stop - first)
        sums[:] = 0
        for b in range(blocks.size - 1):
            if blocks[b] == blocks[b + 1]:
                continue
            begin = b * block
            _lay(flat, order, places, first, frames, begin, min(block, pixels - begin), panel)
            for p in range(blocks[b], blocks[b + 1]):
                at = 8 * pieces[p, 0]
                total = load(panel, sums, at, NATIVE)
                for k in range(pieces[p, 1], pieces[p + 1, 1]):
                    value = fill(panel, values[k])
                    total = multiply_add(load(panel, panel, 8 * within[k], NATIVE), value, total)
                store(sums, at, total)
        for f in range(frames):
            for m in range(masks):
                out[first + f, m] += sums[8 * m + f]
