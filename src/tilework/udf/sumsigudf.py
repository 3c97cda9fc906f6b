"""Sum over the detector, frame by frame: the image that a detector without pixels would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.kernels import sum_pixels, takes_dtype
from tilework.udf.base import UDF
from tilework.udf.linear import add_frame_sums
from tilework.udf.picked_frames import takes_picked_frames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.common.buffers import BufferWrapper
    from tilework.common.udf import TilingPreferences

__all__ = ["SumSigUDF", "run_sumsig"]


class SumSigUDF(UDF):
    """Sum over all pixels of each frame.

    Result: ``intensity``, of nav shape, float32 or what the dataset's dtype is promoted to with it; in the units of the
    data.

    Parameters
    ----------
    **kwargs
        Parameters of a class that derives from this one; it has none itself.

    Raises
    ------
    TypeError
        When it is given any itself.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=SumSigUDF())
    >>> result["intensity"].data.shape
    (6, 8)
    """

    # NumPy sums whole frames at half the speed of the kernel or more, which other functions do not reach.
    COMPILED_FROM_PIXELS = 2**24

    def __init__(self, **kwargs: Any) -> None:
        if kwargs and type(self) is SumSigUDF:
            msg = f"SumSigUDF has no parameters, got {', '.join(kwargs)}"
            raise TypeError(msg)
        super().__init__(**kwargs)

    def get_backends(self) -> tuple[str, ...]:
        """Take arrays of every kind."""
        return self.BACKEND_ALL

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take all numbers as they are stored."""
        return takes_dtype(dtype)

    def accepts_foreign_order(self) -> bool:
        """Take pixels in any byte order: the kernel swaps what it loads."""
        return True

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size: the kernel works in blocks."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``intensity``."""
        dtype = np.result_type(self.meta.input_dtype, np.float32)
        return {"intensity": self.buffer(kind="nav", dtype=dtype, where="device")}

    @takes_picked_frames
    def process_tile(self, tile: Any) -> None:
        """Add the sums over a tile to those of its frames."""
        meta = self.meta
        if meta.array_backend not in NUMPY_BACKENDS:
            add_frame_sums(tile, self.results.intensity)
            return
        sum_pixels(tile, self.results.intensity, compiled=meta.kernels, threads=meta.threads_per_worker or 1)


def run_sumsig(ctx: Any, dataset: Any) -> Mapping[str, Any]:
    """Run `SumSigUDF` over a dataset.

    Parameters
    ----------
    ctx
        The `Context` to run with.
    dataset
        The dataset.

    Returns
    -------
    Mapping
        With the result ``intensity``.

    Examples
    --------
    >>> run_sumsig(ctx, ds)["intensity"].data.shape
    (6, 8)
    """
    result: Mapping[str, Any] = ctx.run_udf(dataset=dataset, udf=SumSigUDF())
    return result
