"""Frames that were picked from a stack: kernels read them where they lie, instead of a copy in one piece.

To copy frames takes about as long as to compute with them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.rows import Rows, layout_of

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["PickedFrames", "in_memory"]

Array = np.ndarray[Any, np.dtype[Any]]


class PickedFrames:
    """Frames of a stack that were picked, and are not copied before somebody asks for it.

    It has what of an array is asked for most; `in_memory` and `numpy.asarray` make one. Used by one thread.

    Parameters
    ----------
    frames
        The stack, of shape ``(n, *sig)``.
    picks
        Which ones, ascending.
    """

    __slots__ = ("_copied", "_frames", "_picks", "dtype", "shape")

    def __init__(self, frames: Array, picks: NDArray[np.intp]) -> None:
        self._frames = frames
        self._picks = picks
        self._copied: Array | None = None
        self.shape: tuple[int, ...] = (len(picks), *frames.shape[1:])
        self.dtype: np.dtype[Any] = frames.dtype

    def __len__(self) -> int:
        return len(self._picks)

    def __getitem__(self, part: slice) -> PickedFrames:
        return PickedFrames(self._frames, self._picks[part])

    @property
    def size(self) -> int:
        """Number of pixels."""
        return math.prod(self.shape)

    def view(self, dtype: DTypeLike) -> PickedFrames:
        """Return the same frames with their bytes looked at as another dtype, of the same size."""
        return PickedFrames(self._frames.view(dtype), self._picks)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            msg = "picked frames are no array before they are copied"
            raise ValueError(msg)
        return self.copied().astype(self.dtype if dtype is None else dtype, copy=bool(copy))

    def copied(self) -> Array:
        """Return them copied together, read-only; always the same array, as all functions of a run may ask for it."""
        if self._copied is None:
            self._copied = self._frames[self._picks]
            self._copied.flags.writeable = False
        return self._copied

    def as_rows(self) -> Rows:
        """Describe them as rows; see `tilework.common.kernels.rows.as_rows`."""
        layout = layout_of(self._frames)
        places = self._picks.astype(np.int64) * layout.stride
        places.flags.writeable = False
        return Rows(layout.flat, places, len(places), layout.pixels, layout.order)


def in_memory(tile: Array | PickedFrames) -> Array:
    """Return a tile as an array: itself, or a copy where frames were picked."""
    return tile.copied() if isinstance(tile, PickedFrames) else tile
