"""Sum over all frames: the summed diffraction pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.kernels import sum_frames, takes_dtype
from tilework.udf.base import UDF
from tilework.udf.linear import add_pixel_sums

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Mapping

    from numpy.typing import DTypeLike

    from tilework.common.buffers import BufferWrapper
    from tilework.common.slice import Slice
    from tilework.common.udf import TilingPreferences
    from tilework.udf.data import MergeAttrMapping

__all__ = ["SumUDF"]


class SumUDF(UDF):
    """Sum over all (selected) frames.

    Result: ``intensity``, of sig shape, in the dtype to which `dtype` and that of the dataset are promoted; in the
    units of the data. Integers of up to 4 bytes are summed exactly within a partition and then rounded to it.

    Parameters
    ----------
    dtype
        dtype of the result, promoted with that of the dataset. For integers take one that can hold the sum.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=SumUDF())  # doctest: +SKIP
    >>> result["intensity"].data.shape  # doctest: +SKIP
    (256, 256)
    """

    # NumPy sums whole frames nearly as fast as the kernel.
    COMPILED_FROM_PIXELS = 2**26

    def __init__(self, dtype: DTypeLike = "float32") -> None:
        super().__init__(dtype=dtype)

    def get_preferred_input_dtype(self) -> Any:
        """Return what was asked for."""
        return self.params.dtype

    def get_backends(self) -> tuple[str, ...]:
        """Take arrays of every kind."""
        return self.BACKEND_ALL

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take all numbers as they are stored."""
        return takes_dtype(dtype)

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size: the kernel works in blocks."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``intensity``."""
        return {"intensity": self.buffer(kind="sig", dtype=self.meta.input_dtype, where="device")}

    def process_tile(self, tile: Any) -> None:
        """Add the frames of a tile."""
        meta = self.meta
        if meta.array_backend not in NUMPY_BACKENDS:
            add_pixel_sums(self, tile, self.results.intensity)
            return
        sum_frames(tile, self.results.intensity, compiled=meta.compiled, threads=meta.threads_per_worker or 1)

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        """Add the sum of a partition."""
        dest.intensity[:] += src.intensity

    def merge_all(self, ordered_results: OrderedDict[Slice, MergeAttrMapping]) -> Mapping[str, Any]:
        """Add the sums of all partitions."""
        parts = np.stack([part.intensity for part in ordered_results.values()])
        return {"intensity": parts.sum(axis=0, dtype=parts.dtype)}
