"""Products of frames and sparse masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.kernel_call import KernelCall
from tilework.common.kernels.mask_products import MaskProducts
from tilework.common.kernels.picked_frames import PickedFrames, in_memory
from tilework.common.kernels.rows import aligned, as_real, frame_blocks

if TYPE_CHECKING:
    from tilework.common.kernels.rows import Rows

__all__ = ["SparseMasks"]

Array = np.ndarray[Any, np.dtype[Any]]

_add_sparse_products = Kernel("tilework.common.kernels.sparse_numba", "add_sparse_products")

# Pixels of a block: eight frames of it are 64 KiB of float64 in the L2 cache.
_BLOCK = 1024


class SparseMasks(MaskProducts):
    """A stack of sparse masks, as `MaskProducts`.

    Parameters
    ----------
    masks
        A SciPy sparse matrix or array of shape ``(n_masks, n_pixels)``.
    tile_dtype
        dtype of the tiles that will come.
    dtype
        dtype of the results, float32, float64, complex64 or complex128. Products and sums are taken in float64.
    compiled
        True for the compiled kernel, False for SciPy.

    Raises
    ------
    ValueError
        When `dtype` is real for complex masks or tiles.
    """

    def __init__(self, masks: Any, tile_dtype: np.dtype[Any], dtype: np.dtype[Any], *, compiled: bool) -> None:
        from scipy import sparse

        matrix = sparse.csr_matrix(masks)
        matrix.sum_duplicates()
        tile_dtype, dtype = np.dtype(tile_dtype), np.dtype(dtype)
        is_complex = dtype.kind == "c"
        count = matrix.shape[0]
        if not is_complex and (matrix.dtype.kind == "c" or tile_dtype.kind == "c"):
            msg = f"results must be complex for masks of {matrix.dtype} and tiles of {tile_dtype}, not {dtype}"
            raise ValueError(msg)
        if is_complex:
            matrix = _real_and_imaginary(matrix, tile_dtype.kind == "c")
        super().__init__(count, matrix.shape[1], is_complex=is_complex)
        self._compiled = compiled
        self._rows: int = matrix.shape[0]
        self._size: int = matrix.nnz
        self._matrix = matrix.astype(np.float64)
        if compiled:
            self._pieces = _in_pieces(self._matrix)

    def _products(self, tile: Array | PickedFrames, rows: Rows, threads: int) -> Array:
        count = tile.shape[0]
        if not self._compiled:
            products = np.empty((count, self._rows))
            frames = in_memory(tile)
            for block in frame_blocks(frames):
                products[block] = (self._matrix @ as_real(frames[block]).T).T
            return products
        products = np.zeros((count, self._rows))

        def arguments(start: int, stop: int) -> tuple[Any, ...]:
            place = rows.flat, rows.order, rows.places, start, stop, rows.pixels
            panel, sums = aligned(8 * _BLOCK, np.float64), aligned(8 * self._rows, np.float64)
            return *place, self._rows, _BLOCK, *self._pieces, panel, sums, products

        call = KernelCall(_add_sparse_products, rows, arguments)
        call.run(count, threads, work=count * max(self._size, rows.pixels) * 8)
        return products


def _real_and_imaginary(matrix: Any, is_tile_complex: bool) -> Any:
    """Return two real masks in turn for each complex one, as `tilework.common.kernels.dense.real_masks` does."""
    from scipy import sparse

    count, pixels = matrix.shape
    coo = matrix.tocoo()
    per_pixel = 2 if is_tile_complex else 1
    real = coo.data.real.astype(np.float64)
    values, masks, places = [real], [2 * coo.row], [per_pixel * coo.col]
    if is_tile_complex:
        values, masks, places = [real, real], [*masks, 2 * coo.row + 1], [*places, 2 * coo.col + 1]
    if matrix.dtype.kind == "c":  # zeros of a real mask would make an infinite real part a NaN in the imaginary part
        imaginary = coo.data.imag.astype(np.float64)
        values, masks, places = [*values, imaginary], [*masks, 2 * coo.row + 1], [*places, per_pixel * coo.col]
        if is_tile_complex:
            values, masks, places = [*values, -imaginary], [*masks, 2 * coo.row], [*places, 2 * coo.col + 1]
    entries = np.concatenate(values), (np.concatenate(masks), np.concatenate(places))
    return sparse.csr_matrix(entries, shape=(2 * count, per_pixel * pixels))


def _in_pieces(matrix: Any) -> tuple[Array, Array, Array, Array]:
    """Return blocks, pieces, places and values of a CSR matrix, as `sparse_numba.add_sparse_products` takes them."""
    masks, pixels = matrix.shape
    coo = matrix.tocoo()
    block = coo.col // _BLOCK
    order = np.lexsort((coo.col, coo.row, block))
    # Blocks and masks of the entries, in that order; a new piece begins where one of them changes.
    piece_of = (block.astype(np.int64) * masks + coo.row)[order]
    begins = np.flatnonzero(np.diff(piece_of, prepend=-1))
    found = piece_of[begins]
    pieces = np.stack([np.append(found % max(1, masks), 0), np.append(begins, len(order))], axis=1)
    blocks = np.searchsorted(found, np.arange(-(-pixels // _BLOCK) + 1) * masks)
    places = (coo.col - block * _BLOCK)[order]
    return blocks.astype(np.int64), pieces.astype(np.int64), places.astype(np.int32), coo.data[order]
