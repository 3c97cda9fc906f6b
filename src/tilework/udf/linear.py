"""Sums of tiles, and products with masks, for arrays that the kernels do not take: sparse ones, and those on a GPU.

They are taken by the array's own library, in double precision (integers: in 64 bits), so they agree with those of the
kernels within rounding. Nothing becomes dense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import CUPY_BACKENDS, as_dtype, as_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tilework.udf.base import UDF

__all__ = ["add_frame_sums", "add_pixel_sums", "add_products", "masks_for"]


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind in "bui":
        return np.dtype(np.int64 if dtype.kind == "i" else np.uint64)
    return np.result_type(dtype, np.float64)


def _add(udf: UDF, make: Callable[[], Any], out: Any) -> None:
    # What is infinite, or becomes it, is no news: results say so.
    with np.errstate(invalid="ignore", over="ignore"):
        out[:] += as_dtype(udf.forbuf(make(), out), out.dtype)


def add_frame_sums(udf: UDF, tile: Any, out: Any) -> None:
    """Add the sum over the pixels of each frame of a tile to `out`, of shape ``(n,)``."""
    _add(udf, lambda: as_matrix(tile).sum(axis=1, dtype=_wide(tile.dtype)), out)


def add_pixel_sums(udf: UDF, tile: Any, out: Any) -> None:
    """Add the sum over the frames of a tile to `out`, of the sig shape of the tile."""
    _add(udf, lambda: as_matrix(tile).sum(axis=0, dtype=_wide(tile.dtype)), out)


def masks_for(udf: UDF, masks: NDArray[Any] | Any) -> Any:
    """Return masks in double precision, in the memory where the tiles of `udf` are.

    Parameters
    ----------
    udf
        The UDF, in a task.
    masks
        Of shape ``(n_masks, pixels)``, dense or a CSR matrix of SciPy.

    Returns
    -------
    array
        Of shape ``(pixels, n_masks)``, for `add_products`.
    """
    wide = as_dtype(masks, _wide(np.result_type(masks.dtype, np.float32))).T
    if udf.meta.array_backend not in CUPY_BACKENDS:
        return np.ascontiguousarray(wide) if isinstance(wide, np.ndarray) else wide.tocsr()
    import cupy

    if isinstance(wide, np.ndarray):
        return cupy.asarray(wide, order="C")
    import cupyx.scipy.sparse

    return cupyx.scipy.sparse.csr_matrix(wide.tocsr())


def add_products(udf: UDF, tile: Any, masks: Any, out: Any) -> None:
    """Add the products of the frames of a tile with masks to `out`, of shape ``(n, n_masks)``.

    Parameters
    ----------
    udf
        The UDF, in a task.
    tile
        Tile of any kind.
    masks
        What `masks_for` returned.
    out
        Result.
    """
    _add(udf, lambda: _products(as_matrix(tile), masks), out)


def _products(matrix: Any, masks: Any) -> Any:
    if hasattr(masks, "tocsr") and not hasattr(matrix, "tocsr"):
        # Dense arrays on a GPU have no product with a sparse matrix on their right, but sparse ones with a dense one.
        return (masks.T.tocsr() @ as_dtype(matrix, masks.dtype).T).T
    return as_dtype(matrix, np.result_type(matrix.dtype, masks.dtype)) @ masks
