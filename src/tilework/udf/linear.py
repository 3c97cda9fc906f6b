"""Sums of tiles, and products with masks, by the arrays' own library: what the kernels do not take.

These are tiles that are sparse or on a GPU, and products that are integers. Floats are taken in double precision, so
results agree with those of the kernels within rounding; integers in 64 bits, which wrap. Nothing becomes dense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import CUPY_BACKENDS, as_dtype, as_matrix, make_like
from tilework.common.kernels.picked_frames import in_memory
from tilework.common.kernels.rows import frame_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["PlainMasks", "add_frame_sums", "add_pixel_sums", "widened"]


def widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return in which dtype numbers are added up: double precision, or 64 bits for integers."""
    if dtype.kind in "bui":
        return np.dtype(np.int64 if dtype.kind == "i" else np.uint64)
    return np.result_type(dtype, np.float64)


def _add(make: Callable[[], Any], out: Any) -> None:
    # What is infinite, or becomes it, is no news: results say so.
    with np.errstate(invalid="ignore", over="ignore"):
        out[:] += as_dtype(make_like(make(), out), out.dtype)


def add_frame_sums(tile: Any, out: Any) -> None:
    """Add the sum over the pixels of each frame of a tile to `out`, of shape ``(n,)``."""
    _add(lambda: as_matrix(tile).sum(axis=1, dtype=widened(tile.dtype)), out)


def add_pixel_sums(tile: Any, out: Any) -> None:
    """Add the sum over the frames of a tile to `out`, of the sig shape of the tile."""
    _add(lambda: as_matrix(tile).sum(axis=0, dtype=widened(tile.dtype)), out)


class PlainMasks:
    """A stack of masks for one part of the detector, in the memory where the tiles are.

    Parameters
    ----------
    masks
        Of shape ``(n_masks, pixels)``, dense or a CSR matrix of SciPy.
    dtype
        dtype of the results.
    backend
        Kind of the tiles.
    """

    def __init__(self, masks: NDArray[Any] | Any, dtype: np.dtype[Any], backend: str | None) -> None:
        # Masks for integer results are integers themselves; real ones are left real for complex results.
        wide = widened(dtype if dtype.kind in "bui" else np.result_type(masks.dtype, np.float32))
        turned = as_dtype(masks, wide).T
        self._masks = np.ascontiguousarray(turned) if isinstance(turned, np.ndarray) else turned.tocsr()
        if backend in CUPY_BACKENDS:
            import cupy
            import cupyx.scipy.sparse

            is_dense = isinstance(turned, np.ndarray)
            self._masks = cupy.asarray(self._masks) if is_dense else cupyx.scipy.sparse.csr_matrix(self._masks)

    def apply(self, tile: Any, out: Any, *, threads: int = 1) -> None:  # noqa: ARG002  (as that of the kernels' masks)
        """Add the products of the frames of a tile to `out`, of shape ``(n, n_masks)``."""
        tile = in_memory(tile)
        if not isinstance(tile, np.ndarray):
            self._add(tile, out)
            return
        for block in frame_blocks(tile):
            self._add(tile[block], out[block])

    def _add(self, tile: Any, out: Any) -> None:
        _add(lambda: self._products(as_matrix(tile)), out)

    def _products(self, matrix: Any) -> Any:
        masks = self._masks
        if hasattr(masks, "tocsr") and not hasattr(matrix, "tocsr"):
            # Dense arrays on a GPU have no product with a sparse matrix on their right, but sparse ones with a dense
            # one.
            return (masks.T.tocsr() @ as_dtype(matrix, masks.dtype).T).T
        return as_dtype(matrix, np.result_type(matrix.dtype, masks.dtype)) @ masks
