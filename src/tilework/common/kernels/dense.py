"""Products of frames and dense masks: virtual detectors, moments, any linear function of a frame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.dense_panels import MaskPanels, in_panels
from tilework.common.kernels.dense_rows import MaskRows, registers
from tilework.common.kernels.mask_products import MaskProducts
from tilework.common.kernels.picked_frames import in_memory
from tilework.common.kernels.rows import as_real, frame_blocks

if TYPE_CHECKING:
    from tilework.common.kernels.picked_frames import PickedFrames
    from tilework.common.kernels.rows import Rows

__all__ = ["SUMMED_AT_ONCE", "DenseMasks", "real_masks"]

Array = np.ndarray[Any, np.dtype[Any]]

SUMMED_AT_ONCE = 2048
"""Products that NumPy adds up in their own precision: of equal ones in float32, the sum is wrong by up to 1e-5."""


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
        rows = real_masks(masks.reshape(len(masks), math.prod(masks.shape[1:])), np.dtype(tile_dtype), dtype)
        super().__init__(len(masks), rows.shape[1], is_complex=dtype.kind == "c")
        self._masks = None if compiled else rows
        self._stacks = _compiled(rows) if compiled else []

    def _products(self, tile: Array | PickedFrames, rows: Rows, threads: int) -> Array:
        if self._masks is not None:
            return _products_of_numpy(in_memory(tile), self._masks)
        products = [stack.products(rows, threads) for stack in self._stacks]
        return products[0] if len(products) == 1 else np.concatenate(products, axis=1)


def _compiled(rows: Array) -> list[MaskPanels | MaskRows]:
    """Return the masks as kernels take them quickest, in their order."""
    count = in_panels(len(rows), rows.itemsize) if registers().HAS_PANELS else 0
    stacks: list[MaskPanels | MaskRows] = [MaskPanels(rows[:count])] if count else []
    return [*stacks, MaskRows(rows[count:])] if count < len(rows) else stacks


def _products_of_numpy(frames: Array, masks: Array) -> Array:
    # einsum and not BLAS, whose bits depend on its number of threads; in pieces, as the compiled kernel does.
    count, pixels = masks.shape
    products = np.zeros((len(frames), count))
    with np.errstate(invalid="ignore", over="ignore"):
        for block in frame_blocks(frames):
            flat = as_real(frames[block]).astype(masks.dtype, copy=False)
            for begin in range(0, pixels, SUMMED_AT_ONCE):
                part = slice(begin, begin + SUMMED_AT_ONCE)
                products[block] += np.einsum("ip,mp->im", flat[:, part], masks[:, part])
    return products


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
