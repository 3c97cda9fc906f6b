"""Frames as they are."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels import takes_dtype
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.common.udf import TilingPreferences

__all__ = ["PickUDF"]

logger = logging.getLogger(__name__)

_LARGE = 256 * 2**20


class PickUDF(UDF):
    """Load the selected frames.

    Result: ``intensity``, of shape ``(number of selected frames, *sig)``, in the dtype of the dataset, frames in the
    order of the scan. A frame that the source does not have is NaN, or 0 for integers, and False in ``valid_mask``.
    Use it with a ``roi`` that selects a few frames: all of them must fit into memory.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=PickUDF(), roi=ds.roi[2, :3])
    >>> result["intensity"].data.shape
    (3, 32, 32)
    """

    def __init__(self) -> None:
        super().__init__()

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
        """Declare ``intensity``; partitions have their own frames only, and need not be added up."""
        shape = self.meta.dataset_shape
        roi = self.meta.roi
        count = shape.nav.size if roi is None else int(np.count_nonzero(roi))
        sig = tuple(shape.sig)
        dtype = self.meta.input_dtype
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
        self.results.frames[(slice(None), *self.meta.sig_slice.get())] = tile

    def get_results(self) -> dict[str, Any]:
        """Return the frames."""
        frames, merged = self.results.frames, self.meta.get_valid_nav_mask()
        assert merged is not None  # on the main side
        return {"intensity": self.with_mask(frames, merged.reshape(-1, *(1,) * (frames.ndim - 1)))}
