"""Dense masks by the dozen: for kernels whose vectors hold the same pixel of as many masks, a panel of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.dense_rows import registers
from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.kernel_call import KernelCall
from tilework.common.kernels.mask_products import BLOCK_BYTES, filled_up
from tilework.common.kernels.rows import NATIVE, VECTOR_BYTES, aligned

if TYPE_CHECKING:
    from tilework.common.kernels.rows import Rows

__all__ = ["MaskPanels", "in_panels"]

Array = np.ndarray[Any, np.dtype[Any]]

_add_panel_products = Kernel("tilework.common.kernels.dense_panels_numba", "add_panel_products")

# Frames for which masks are read once.
_GROUP = 252


def in_panels(count: int, itemsize: int) -> int:
    """Return how many masks of a stack, the first ones, fill panels to three quarters; fewer take less time without."""
    lanes = VECTOR_BYTES // itemsize
    return count if -count % lanes <= lanes // 4 else count // lanes * lanes


class MaskPanels:
    """A stack of masks.

    Parameters
    ----------
    rows
        Real masks, of shape ``(n_masks, n_pixels)``, float32 or float64.
    """

    def __init__(self, rows: Array) -> None:
        self._count = len(rows)
        rows = filled_up(rows, VECTOR_BYTES // rows.itemsize)
        self._stored = len(rows)
        self._masks = _pack(rows)

    def products(self, rows: Rows, threads: int) -> Array:
        """Return the products of all frames and masks, in float64."""
        frames = rows.frames
        products = np.zeros((frames, self._stored))
        masks = self._masks
        itemsize, lanes = masks.itemsize, VECTOR_BYTES // masks.itemsize
        block, part, at_once = BLOCK_BYTES // itemsize, registers().PANEL_BYTES // itemsize, registers().PANEL_FRAMES
        converts = rows.flat.dtype != masks.dtype or rows.order != NATIVE

        def arguments(start: int, stop: int) -> tuple[Any, ...]:
            place = rows.flat, rows.order, rows.places, start, stop, rows.pixels
            size = block // part * at_once * (part + lanes)
            converted, direct = (aligned(size, masks.dtype), None) if converts else (None, ())
            if converted is not None:
                converted.fill(0)  # where there are fewer frames: some CPUs are slow with what memory happens to hold
            sums = aligned(lanes * at_once * lanes, masks.dtype)
            begins, ahead = np.zeros(at_once, np.int64), np.zeros(at_once, np.int64)
            scratch = converted, direct, sums, begins, ahead
            return *place, masks, self._stored, block, part, _GROUP, *scratch, products, products.reshape(-1)

        call = KernelCall(_add_panel_products, rows, arguments)
        call.run(frames, threads, at_once, work=frames * rows.pixels * self._stored)
        return products[:, : self._count]


def _pack(rows: Array) -> Array:
    """Return masks part after part, in it panel after panel, lane after lane, pixel after pixel.

    The pixels that fill no vector come at the end, mask after mask.
    """
    count, pixels = rows.shape
    lanes = VECTOR_BYTES // rows.itemsize
    part = registers().PANEL_BYTES // rows.itemsize
    packed = aligned(count * pixels, rows.dtype)
    whole = pixels - pixels % lanes
    for begin in range(0, whole, part):
        end = min(begin + part, whole)
        piece = rows[:, begin:end].copy()  # together in the caches, while masks and pixels change places
        panels = packed[begin * count : end * count].reshape(count // lanes, lanes, -1, lanes)
        panels[:] = piece.reshape(count // lanes, lanes, -1, lanes).transpose(0, 3, 2, 1)
    packed[whole * count :] = rows[:, whole:].reshape(-1)
    packed.flags.writeable = False
    return packed
