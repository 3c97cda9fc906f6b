"""What a partition yields: some consecutive frames, or a rectangle of each of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import as_backend

if TYPE_CHECKING:
    from tilework.common.slice import Slice

__all__ = ["DataTile"]


class DataTile:
    """Some consecutive frames, or a rectangle of each of them.

    Parameters
    ----------
    data
        Array of shape (frames, ``*sig``), or (frames, pixels) for array backends that have matrices only. In a NumPy
        array the part of each frame is C-contiguous, the distance between frames may be larger than a frame. To be read
        only, and only until the next tile is asked for. `PickedFrames` in tiles of `HasPickedTiles.get_picked_tiles`.
    tile_slice
        Where the tile lies: flat navigation axis (compressed where there is a region of interest), then signal axes.
    scheme_idx
        Index of its signal slice in the tiling scheme.
    """

    __slots__ = ("data", "scheme_idx", "tile_slice")

    def __init__(self, data: Any, tile_slice: Slice, scheme_idx: int) -> None:
        self.data = data
        self.tile_slice = tile_slice
        self.scheme_idx = scheme_idx

    @property
    def flat_data(self) -> Any:
        """The data with the signal axes joined, of shape (frames, pixels)."""
        frames, *sig = self.data.shape
        return self.data.reshape((frames, math.prod(sig)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the data."""
        dtype: np.dtype[Any] = self.data.dtype
        return dtype

    @property
    def size(self) -> int:
        """Number of pixels."""
        return math.prod(self.tile_slice.shape)

    @property
    def c_contiguous(self) -> bool:
        """Whether the data lies in memory without gaps, in C order."""
        return isinstance(self.data, np.ndarray) and bool(self.data.flags.c_contiguous)

    def as_backend(self, backend: str) -> DataTile:
        """Return the tile as another kind of array."""
        return DataTile(as_backend(self.data, backend, tuple(self.tile_slice.shape)), self.tile_slice, self.scheme_idx)

    def __repr__(self) -> str:
        return f"<DataTile {self.tile_slice} dtype={self.dtype} scheme_idx={self.scheme_idx}>"
