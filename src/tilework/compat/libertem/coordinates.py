"""Positions of the scan by their numbers, for readers that were written for LiberTEM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.shape import Shape
    from tilework.common.slice import Slice

__all__ = ["get_coordinates"]


def get_coordinates(slice_: Slice, ds_shape: Shape, roi: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Return the positions in the scan of the frames of a tile or a partition.

    Parameters
    ----------
    slice_
        Where the frames are in the flattened scan; with `roi`, among the selected positions.
    ds_shape
        Shape of the dataset.
    roi
        Selected positions, or None.

    Returns
    -------
    numpy.ndarray
        int64 of shape (frames, nav dims).
    """
    start, stop = slice_.origin[0], slice_.origin[0] + slice_.shape[0]
    flat = np.arange(start, stop) if roi is None else np.flatnonzero(roi)[start:stop]
    found = np.unravel_index(flat, ds_shape.nav.to_tuple())
    return np.stack(found, axis=-1).astype(np.int64, copy=False)
