"""What was seen last, to watch a detector while data comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.udf.base import UDF
from tilework.udf.sum import SumUDF

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.common.udf import TilingPreferences
    from tilework.udf.data import MergeAttrMapping

__all__ = ["PartitionMonitorUDF", "SignalMonitorUDF"]


class SignalMonitorUDF(UDF):
    """The last frame of the last partition that is merged.

    Result: ``intensity``, of sig shape, in the dtype of the dataset promoted with float32.

    Examples
    --------
    >>> for part in ctx.run_udf_iter(dataset=ds, udf=SignalMonitorUDF()):
    ...     seen = part.buffers[0]["intensity"].data  # to be shown
    >>> seen.shape
    (32, 32)
    """

    def __init__(self) -> None:
        super().__init__()

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take frames as they are stored; one of them is converted."""
        return dtype.isnative

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``intensity``, and whether there was any frame."""
        return {
            "intensity": self.buffer(kind="sig", dtype=self.meta.input_dtype),
            "frames": self.buffer(kind="single", dtype=np.int64, use="private"),
        }

    def process_tile(self, tile: NDArray[Any]) -> None:
        """Keep the last frame."""
        self.results.intensity[:] = tile[-1]
        self.results.frames[:] += len(tile)

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        """Replace what was there, unless the source holds no frame of the partition."""
        if src.frames[0]:
            dest.intensity[:] = src.intensity
            dest.frames[:] += src.frames


class PartitionMonitorUDF(SumUDF):
    """The sum over the last partition that is merged: less noise than a single frame.

    Result: ``intensity``, of sig shape, in the dtype to which `dtype` and that of the dataset are promoted.

    Parameters
    ----------
    dtype
        dtype of the result, promoted with that of the dataset.

    Examples
    --------
    >>> for part in ctx.run_udf_iter(dataset=ds, udf=PartitionMonitorUDF()):
    ...     seen = part.buffers[0]["intensity"].data  # to be shown
    >>> seen.shape
    (32, 32)
    """

    def __init__(self, dtype: DTypeLike = "float32") -> None:
        super().__init__(dtype=dtype)

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        """Replace what was there."""
        dest.intensity[:] = src.intensity

    def merge_all(self, ordered_results: Any) -> dict[str, Any]:
        """Return the sum of the last partition."""
        *_, last = ordered_results.values()
        return {"intensity": last.intensity}
