"""Products of frames and dense masks: virtual detectors, moments, any linear function of a frame."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.kernel import Kernel, loaded
from tilework.common.kernels.kernel_call import KernelCall
from tilework.common.kernels.mask_products import MaskProducts
from tilework.common.kernels.picked_frames import PickedFrames, in_memory
from tilework.common.kernels.rows import NATIVE, aligned, as_real, frame_blocks

if TYPE_CHECKING:
    from tilework.common.kernels.rows import Rows

__all__ = ["SUMMED_AT_ONCE", "DenseMasks", "real_masks"]

Array = np.ndarray[Any, np.dtype[Any]]

_add_products = Kernel("tilework.common.kernels.dense_numba", "add_products")

# Bytes of a mask in a block: four masks and four frames of it stay in the L1 cache. Frames for which masks are read
# once. For a few masks, several blocks of a frame are read at once: so many of a frame and the masks.
_BLOCK_BYTES = 4 * 1024
_GROUP = 256
_FEW_BLOCKS, _FEWEST_BLOCKS = 16, 4
SUMMED_AT_ONCE = 2048
"""Products that NumPy adds up in their own precision: of equal ones in float32, the sum is wrong by up to 1e-5."""
_VECTOR_BYTES = 64


class DenseMasks(MaskProducts):
    """A stack of dense masks, as `MaskProducts`.

    Parameters
    ----------
    masks
        The masks, of shape ``(n_masks, *sig part)``, or ``(n_masks, n_pixels)``.
    tile_dtype
        dtype of the tiles that will come.
    dtype
        dtype of the results, float32, float64, complex64 or complex128: products are taken in this precision, and
        summed in it a few thousand at a time, these sums in double precision.
    compiled
        True for the compiled kernel, False for NumPy.

    Raises
    ------
    ValueError
        When `dtype` is none of these, or real for complex masks or tiles.
    """

    def __init__(self, masks: Array, tile_dtype: np.dtype[Any], dtype: np.dtype[Any], *, compiled: bool) -> None:
        dtype = np.dtype(dtype)
        self._compiled = compiled
        rows = real_masks(masks.reshape(len(masks), math.prod(masks.shape[1:])), np.dtype(tile_dtype), dtype)
        super().__init__(len(masks), rows.shape[1], is_complex=dtype.kind == "c")
        self._n_rows = len(rows)
        if compiled:
            at_once: int = _registers().MASKS_AT_ONCE
            if self._n_rows % at_once > 1:
                missing = at_once - self._n_rows % at_once
                rows = np.concatenate([rows, np.zeros((missing, self._pixels), dtype=rows.dtype)])
            self._stored_rows = len(rows)
            self._masks = _pack(rows)
        else:
            self._masks = rows

    def _products(self, tile: Array | PickedFrames, rows: Rows, threads: int) -> Array:
        if not self._compiled:
            return self._apply_numpy(in_memory(tile))
        registers = _registers()
        few_masks = registers.FEW_MASKS if rows.order == NATIVE else registers.FEW_MASKS_SWAPPED
        frames = tile.shape[0]
        products = np.zeros((frames, self._stored_rows))
        masks, stored = self._masks, self._stored_rows
        # A single mask does not use a panel, but then the same kernel is compiled for one mask and for many.
        has_panel = stored == 1 or stored > few_masks
        converts = has_panel and (rows.flat.dtype != masks.dtype or rows.order != NATIVE)
        block = _BLOCK_BYTES // masks.itemsize
        span = block if stored > few_masks else max(_FEWEST_BLOCKS, _FEW_BLOCKS // stored) * block

        def arguments(rows: Rows, start: int, stop: int) -> tuple[Any, ...]:
            place = rows.flat, rows.order, rows.places, start, stop, rows.pixels
            panel, direct = (aligned(registers.FRAMES * block, masks.dtype), None) if converts else (None, ())
            scratch = aligned(16, masks.dtype)
            return *place, masks, stored, block, span, _GROUP, panel, direct, scratch, products

        call = KernelCall(_add_products, tile, rows, arguments)
        call.run(frames, threads, work=frames * rows.pixels * max(4, stored))
        return products[:, : self._n_rows]

    def _apply_numpy(self, tile: Array) -> Array:
        # einsum and not BLAS, whose bits depend on its number of threads; in pieces, as the compiled kernel does.
        products = np.zeros((tile.shape[0], self._n_rows))
        with np.errstate(invalid="ignore", over="ignore"):
            for block in frame_blocks(tile):
                flat = as_real(tile[block]).astype(self._masks.dtype, copy=False)
                for begin in range(0, self._pixels, SUMMED_AT_ONCE):
                    part = slice(begin, begin + SUMMED_AT_ONCE)
                    products[block] += np.einsum("ip,mp->im", flat[:, part], self._masks[:, part])
        return products


@functools.cache
def _registers() -> Any:
    return loaded("tilework.common.kernels.dense_registers")


def real_masks(masks: Array, tile_dtype: np.dtype[Any], dtype: np.dtype[Any]) -> Array:
    """Return masks for real and imaginary parts, so that products with (pairs of) real pixels give the results.

    Parameters
    ----------
    masks
        Of shape ``(n_masks, n_pixels)``.
    tile_dtype, dtype
        dtypes of tiles and of results.

    Returns
    -------
    numpy.ndarray
        float32 or float64. For complex results there are two masks in turn for each one, for the real and imaginary
        part of the result; for complex tiles every pixel is two, its real and imaginary part.
    """
    if dtype not in (np.float32, np.float64, np.complex64, np.complex128):
        msg = f"results of masks are float32, float64, complex64 or complex128, not {dtype}"
        raise ValueError(msg)
    real = np.dtype(np.float32 if dtype.itemsize // (2 if dtype.kind == "c" else 1) == 4 else np.float64)
    is_complex = masks.dtype.kind == "c" or tile_dtype.kind == "c"
    if is_complex and dtype.kind != "c":
        msg = f"results must be complex for masks of {masks.dtype} and tiles of {tile_dtype}, not {dtype}"
        raise ValueError(msg)
    if dtype.kind != "c":
        return np.ascontiguousarray(masks, dtype=real)
    count, pixels = masks.shape
    per_pixel = 2 if tile_dtype.kind == "c" else 1
    rows = np.zeros((count, 2, pixels, per_pixel), dtype=real)
    rows[:, 0, :, 0] = masks.real
    rows[:, 1, :, 0] = masks.imag
    if per_pixel == 2:
        np.negative(rows[:, 1, :, 0], out=rows[:, 0, :, 1])
        rows[:, 1, :, 1] = masks.real
    return rows.reshape(2 * count, pixels * per_pixel)


def _pack(rows: Array) -> Array:
    """Return the masks block after block, in each block mask after mask, in cache-aligned memory.

    The pixels that fill no vector are a block of their own.
    """
    count, pixels = rows.shape
    size = count * pixels
    block = _BLOCK_BYTES // rows.itemsize
    packed = aligned(size, rows.dtype)
    whole = pixels - pixels % (_VECTOR_BYTES // rows.itemsize)
    for begin, end in itertools.pairwise([*range(0, whole, block), whole, pixels]):
        packed[begin * count : end * count] = rows[:, begin:end].reshape(-1)
    packed.flags.writeable = False
    return packed
