"""What a dataset sends along with each of its partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.pickled_once import PickledOnce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

    from tilework.common.shape import Shape

__all__ = ["DataSetMeta"]


class DataSetMeta(PickledOnce):
    """What the partitions of a dataset need to know of it.

    Parameters
    ----------
    shape
        Shape of the dataset.
    array_backends
        Names of the array backends in which tiles can be had.
    image_count
        Number of frames in the source, missing ones between others included.
    raw_dtype
        Dtype as stored, with its byte order.
    dtype
        Dtype of the tiles, in native byte order.
    metadata
        Further facts for a format's own partitions; must be picklable.
    sync_offset
        Number of source frames skipped (positive) or missing (negative) at the start of the scan.
    """

    __slots__ = ("array_backends", "dtype", "image_count", "metadata", "raw_dtype", "shape", "sync_offset")

    def __init__(
        self,
        shape: Shape,
        array_backends: Sequence[str] | None = None,
        image_count: int = 0,
        raw_dtype: DTypeLike | None = None,
        dtype: DTypeLike | None = None,
        metadata: Any = None,
        sync_offset: int = 0,
    ) -> None:
        self.shape = shape
        self.array_backends = tuple(array_backends) if array_backends is not None else ("numpy", "cuda")
        self.image_count = image_count
        self.dtype = np.dtype(dtype if dtype is not None else raw_dtype)
        self.raw_dtype = np.dtype(raw_dtype) if raw_dtype is not None else self.dtype
        self.metadata = metadata
        self.sync_offset = sync_offset

    def _recipe(self) -> tuple[Any, ...] | None:
        if type(self) is not DataSetMeta or self.metadata is not None:
            return None  # a format's own facts may be anything
        return self.shape, self.array_backends, self.image_count, self.raw_dtype, self.dtype, None, self.sync_offset
