"""Dense masks block after block: for kernels whose vectors hold neighbouring pixels of a mask."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.kernel import Kernel, loaded
from tilework.common.kernels.kernel_call import KernelCall
from tilework.common.kernels.mask_products import BLOCK_BYTES, filled_up
from tilework.common.kernels.rows import NATIVE, VECTOR_BYTES, aligned

if TYPE_CHECKING:
    from tilework.common.kernels.rows import Rows

__all__ = ["MaskRows", "registers"]

Array = np.ndarray[Any, np.dtype[Any]]

_add_products = Kernel("tilework.common.kernels.dense_numba", "add_products")

# Frames for which masks are read once: of four frames and four masks, a block stays in the L1 cache. For a few masks,
# several blocks of a frame are read at once: so many of a frame and the masks.
_GROUP = 256
_FEW_BLOCKS, _FEWEST_BLOCKS = 16, 4


@functools.cache
def registers() -> Any:
    """Return the module that knows how much the CPU's registers hold, `tilework.common.kernels.dense_registers`."""
    return loaded("tilework.common.kernels.dense_registers")


class MaskRows:
    """A stack of masks.

    Parameters
    ----------
    rows
        Real masks, of shape ``(n_masks, n_pixels)``, float32 or float64.
    """

    def __init__(self, rows: Array) -> None:
        self._count = len(rows)
        at_once: int = registers().MASKS_AT_ONCE
        if len(rows) % at_once > 1:  # a single one is taken by itself
            rows = filled_up(rows, at_once)
        self._stored = len(rows)
        self._masks = _pack(rows)

    def products(self, rows: Rows, threads: int) -> Array:
        """Return the products of all frames and masks, in float64."""
        few_masks = registers().FEW_MASKS if rows.order == NATIVE else registers().FEW_MASKS_SWAPPED
        frames = rows.frames
        products = np.zeros((frames, self._stored))
        masks, stored = self._masks, self._stored
        # For a single mask nothing is kept converted, but then the same kernel is compiled for one mask and for many:
        # where those are not in panels.
        keeps = stored > few_masks or (stored == 1 and not registers().HAS_PANELS)
        converts = keeps and (rows.flat.dtype != masks.dtype or rows.order != NATIVE)
        block = BLOCK_BYTES // masks.itemsize
        span = block if stored > few_masks else max(_FEWEST_BLOCKS, _FEW_BLOCKS // stored) * block

        def arguments(start: int, stop: int) -> tuple[Any, ...]:
            place = rows.flat, rows.order, rows.places, start, stop, rows.pixels
            converted, direct = (aligned(registers().FRAMES * block, masks.dtype), None) if converts else (None, ())
            scratch = aligned(16, masks.dtype)
            return *place, masks, stored, block, span, _GROUP, converted, direct, scratch, products

        call = KernelCall(_add_products, rows, arguments)
        call.run(frames, threads, work=frames * rows.pixels * max(4, stored))
        return products[:, : self._count]


def _pack(rows: Array) -> Array:
    """Return the masks block after block, in each block mask after mask, in cache-aligned memory.

    The pixels that fill no vector are a block of their own.
    """
    count, pixels = rows.shape
    block = BLOCK_BYTES // rows.itemsize
    packed = aligned(count * pixels, rows.dtype)
    whole = pixels - pixels % (VECTOR_BYTES // rows.itemsize)
    even = whole - whole % block
    packed[: even * count].reshape(-1, count, block)[:] = rows[:, :even].reshape(count, -1, block).swapaxes(0, 1)
    for begin, end in itertools.pairwise((even, whole, pixels)):
        packed[begin * count : end * count] = rows[:, begin:end].reshape(-1)
    packed.flags.writeable = False
    return packed
