"""Frames as they are."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels import takes_dtype
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.common.slice import Slice
    from tilework.common.udf import TilingPreferences
    from tilework.udf.data import MergeAttrMapping

__all__ = ["PickUDF"]

logger = logging.getLogger(__name__)

_LARGE = 256 * 2**20


class PickUDF(UDF):
    """Load the selected frames.

    Result: ``intensity``, of shape ``(number of selected frames, *sig)``, in the dtype of the dataset, frames in the
    order of the scan. A frame that the source does not have is NaN, or 0 for integers, and False in ``valid_mask``.
    Use it with a ``roi`` that selects a few frames: all of them must fit into memory.

    For a class that derives from it, ``self.results.intensity`` has room for all selected frames in each task, those of
    other partitions being 0, and `merge` adds them up; frames that the source does not have are 0.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=PickUDF(), roi=ds.roi[2, :3])
    >>> result["intensity"].data.shape
    (3, 32, 32)
    """

    def __init__(self) -> None:
        super().__init__()

    @property
    def _is_derived(self) -> bool:
        return type(self) is not PickUDF

    def get_preferred_input_dtype(self) -> Any:
        """Take the dataset's own."""
        return self.USE_NATIVE_DTYPE

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take all numbers as they are stored."""
        return takes_dtype(dtype)

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``intensity``; partitions have their own frames only, but for a class that derives from this."""
        shape = self.meta.dataset_shape
        roi = self.meta.roi
        count = shape.nav.size if roi is None else int(np.count_nonzero(roi))
        sig = tuple(shape.sig)
        dtype = self.meta.input_dtype
        if self._is_derived:
            return {"intensity": self.buffer(kind="single", extra_shape=(count, *sig), dtype=dtype)}
        return {
            "intensity": self.buffer(kind="single", extra_shape=(count, *sig), dtype=dtype, use="result_only"),
            "frames": self.buffer(kind="nav", extra_shape=sig, dtype=dtype, use="private"),
        }

    def preprocess(self) -> None:
        """Warn when very much is selected; once, on the main side."""
        if self.meta.array_backend is None:
            size = math.prod(self.results.get_buffer("intensity").extra_shape) * self.meta.input_dtype.itemsize
            if size > _LARGE:
                logger.warning("PickUDF loads %.0f MiB into memory: select fewer frames with a roi", size / 2**20)

    def process_tile(self, tile: NDArray[Any]) -> None:
        """Copy a tile."""
        if self._is_derived:
            self.results.intensity[self.meta.slice.get()] = tile
        else:
            self.results.frames[(slice(None), *self.meta.sig_slice.get())] = tile

    @property
    def _merge_needs_order(self) -> bool:
        return self._is_derived  # its own frames are put where nobody else's are

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        """Take the frames of a partition; those of a class that derives from this are added up."""
        if self._is_derived:
            dest.intensity[:] += src.intensity
        else:
            dest.frames[:] = src.frames

    def merge_all(self, ordered_results: OrderedDict[Slice, MergeAttrMapping]) -> Mapping[str, Any]:
        """Take the frames of all partitions, see `merge`; those that are not added up need only be put together."""
        return {"intensity": sum(part.intensity for part in ordered_results.values())} if self._is_derived else {}

    def get_results(self) -> dict[str, Any]:
        """Return the frames."""
        frames = self.results.intensity if self._is_derived else self.results.frames
        merged = self.meta.get_valid_nav_mask()
        assert merged is not None  # on the main side
        return {"intensity": self.with_mask(frames, merged.reshape(-1, *(1,) * (frames.ndim - 1)))}
