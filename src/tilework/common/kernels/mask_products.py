"""Products of frames and masks, whatever the masks are like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.rows import as_rows

if TYPE_CHECKING:
    from tilework.common.kernels.picked_frames import PickedFrames
    from tilework.common.kernels.rows import Rows

__all__ = ["BLOCK_BYTES", "MaskProducts", "filled_up"]

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK_BYTES = 4 * 1024
"""Bytes of a mask over which compiled products with dense masks are summed in the masks' precision."""


class MaskProducts(ABC):
    """A stack of masks for one part of the detector, laid out for the product with many tiles.

    It is not changed after it is made, so any number of threads may use it.

    Parameters
    ----------
    count
        Number of masks.
    pixels
        Number of real pixels of a frame: a complex one is two.
    is_complex
        Whether results are complex: then there are two real products for each, its real and its imaginary part.
    """

    def __init__(self, count: int, pixels: int, *, is_complex: bool) -> None:
        self._count = count
        self._pixels = pixels
        self._is_complex = is_complex

    def __len__(self) -> int:
        return self._count

    def apply(self, tile: Array | PickedFrames, out: Array, *, threads: int = 1) -> None:
        """Add the products of every frame with every mask to `out`.

        With the compiled kernel a result depends on its frame and mask only, not on what else is in the tile or stack.

        Parameters
        ----------
        tile
            Frames, of shape ``(n, *sig part)``, in the dtype that was announced.
        out
            Results, of shape ``(n, n_masks)``.
        threads
            The most threads to use. The bits do not depend on it.

        Raises
        ------
        ValueError
            When the frames do not have as many pixels as the masks.
        """
        if tile.shape[0] == 0 or self._count == 0:
            return
        rows = as_rows(tile)
        if rows.pixels != self._pixels:
            msg = f"a tile of shape {tile.shape} does not fit masks of {self._pixels} (real) pixels"
            raise ValueError(msg)
        products = self._products(tile, rows, threads)
        if self._is_complex:
            products = np.ascontiguousarray(products).view(np.complex128)
        with np.errstate(invalid="ignore", over="ignore"):
            np.add(out, products, out=out, casting="unsafe")

    @abstractmethod
    def _products(self, tile: Array | PickedFrames, rows: Rows, threads: int) -> Array:
        """Return the real products in float64, of shape ``(n, n_masks)`` or ``(n, 2 * n_masks)``."""


def filled_up(rows: Array, multiple: int) -> Array:
    """Return masks, and as many of zeros behind them as make their number a multiple."""
    missing = -len(rows) % multiple
    return np.concatenate([rows, np.zeros((missing, rows.shape[1]), dtype=rows.dtype)]) if missing else rows
