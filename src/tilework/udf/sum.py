"""Sum over all frames: the summed diffraction pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.kernels import sum_frames, takes_dtype
from tilework.common.slice import Slice
from tilework.udf.base import UDF
from tilework.udf.linear import add_pixel_sums
from tilework.udf.ordered_merge import merge_in_order
from tilework.udf.picked_frames import takes_picked_frames
from tilework.udf.plan import corrects_results

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Mapping

    from numpy.typing import DTypeLike

    from tilework.common.buffers import BufferWrapper
    from tilework.common.udf import TilingPreferences
    from tilework.udf.data import MergeAttrMapping

__all__ = ["SumUDF"]


class SumUDF(UDF):
    """Sum over all (selected) frames.

    Result: ``intensity``, of sig shape, in the dtype to which `dtype` and that of the dataset are promoted; in the
    units of the data. Integers of up to 4 bytes are summed exactly within a partition and then rounded to it; floats in
    their own precision, at most 256 frames at a time, and these in double precision (relative error: about 1e-6). What
    partitions have is added in the dtype of the result: in float32, 10000 partitions of equal frames are wrong by 5e-5.
    For scans of that size take float64.

    Parameters
    ----------
    dtype
        dtype of the result, promoted with that of the dataset. For integers take one that can hold the sum.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=SumUDF())
    >>> result["intensity"].data.shape
    (32, 32)
    """

    # NumPy sums whole frames at half the speed of the kernel or more, which other functions do not reach.
    COMPILED_FROM_PIXELS = 2**24

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

    def accepts_foreign_order(self) -> bool:
        """Take pixels in any byte order: the kernel swaps what it loads."""
        return True

    def corrects_results(self) -> bool:
        """Correct the sum instead of every frame."""
        return True

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size: the kernel works in blocks."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``intensity``."""
        return {"intensity": self.buffer(kind="sig", dtype=self.meta.input_dtype, where="device")}

    def get_task_data(self) -> dict[str, Any]:
        """Keep raw sums of the parts of the detector, and of how many frames, where the results are corrected."""
        return {"raw": {}, "frames": {}}

    @property
    def _is_raw(self) -> bool:
        """Whether tiles come as the detector gave them, although the run has corrections."""
        meta = self.meta
        corrects = meta.corrections.have_corrections() and corrects_results(self)
        takes_raw = meta.array_backend in NUMPY_BACKENDS and self.accepts_tile_dtype(meta.dataset_dtype)
        return corrects and takes_raw

    @takes_picked_frames
    def process_tile(self, tile: Any) -> None:
        """Add the frames of a tile."""
        meta = self.meta
        out = self.results.intensity
        if meta.array_backend not in NUMPY_BACKENDS:
            add_pixel_sums(tile, out)
            return
        if self._is_raw:
            part = meta.tiling_scheme_idx
            raw = self.task_data.raw
            if part not in raw:
                # Complex for a complex result: the corrections of real frames may be.
                raw[part] = np.zeros(tile.shape[1:], dtype=np.result_type(tile.dtype, out.dtype, np.float64))
            out = raw[part]
            self.task_data.frames[part] = self.task_data.frames.get(part, 0) + len(tile)
        sum_frames(tile, out, compiled=meta.kernels, threads=meta.threads_per_worker or 1)

    def postprocess(self) -> None:
        """Correct the sum of the partition, where that is left to do."""
        raw = self.task_data.raw
        if not raw:
            return
        scheme = self.meta.tiling_scheme
        assert scheme is not None
        total = raw[0]
        if not scheme.is_full_sig:
            total = np.empty(self.results.intensity.shape, dtype=total.dtype)
            for part, values in raw.items():
                total[scheme[part].get()] = values
        (frames,) = set(self.task_data.frames.values())
        whole = Slice.from_shape(total.shape, sig_dims=total.ndim)
        self.meta.corrections.correct_sum(total, frames, whole)
        with np.errstate(over="ignore"):
            self.results.intensity[:] = total

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        """Add the sum of a partition."""
        with np.errstate(invalid="ignore", over="ignore"):
            dest.intensity[:] += src.intensity

    def merge_all(self, ordered_results: OrderedDict[Slice, MergeAttrMapping]) -> Mapping[str, Any]:
        """Add the sums of all partitions, in order; NumPy arrays or Dask arrays."""
        return merge_in_order(self, ordered_results, ["intensity"])
