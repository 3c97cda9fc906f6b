"""Sum of logarithmically scaled frames, to see weak and strong features at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import CUPY_BACKENDS, NUMPY, NUMPY_BACKENDS, frames_of
from tilework.common.kernels import sum_logarithms, takes_dtype
from tilework.common.sparse import sparse_to_coo
from tilework.common.udf import UDFMethod, derives_for_frames
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.common.buffers import BufferWrapper
    from tilework.common.udf import TilingPreferences
    from tilework.udf.data import MergeAttrMapping

__all__ = ["LogsumUDF", "run_logsum"]

Array = np.ndarray[Any, np.dtype[Any]]
# Frames that are added up in float32: equal ones are wrong by 2e-6 then.
_TOGETHER = 256


class LogsumUDF(UDF):
    """Sum over all (selected) frames of ``log(frame - min(frame) + 1)``.

    Result: ``logsum``, float32, of sig shape, without unit. Of complex frames the absolute value is taken. Within a
    partition, sums of 256 frames are added in double precision; in a class that derives from this one, those of a tile.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=LogsumUDF())
    >>> result["logsum"].data.shape
    (32, 32)
    """

    _sums: Any = None
    """Those of the partition: in float32, a hundred thousand frames would be wrong by a thousandth."""
    _few: Any = None
    """Those of the last frames, which kernels add up in float32: that takes three quarters of the time."""
    _n_few = 0

    def __init__(self) -> None:
        super().__init__()

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``logsum``."""
        return {"logsum": self.buffer(kind="sig", dtype=np.float32, where="device")}

    def get_backends(self) -> tuple[str, ...]:
        """Take arrays with any number of axes; matrices have no logarithm of their own on a GPU."""
        return tuple(backend for backend in self.BACKEND_ALL if backend not in self.D2_BACKENDS)

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take real numbers as they are stored, where there is a kernel: NumPy's differences of integers overflow."""
        return self.meta.compiled and takes_dtype(dtype) and dtype.kind != "c"

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take any number of frames, but whole ones: the lowest pixel can be anywhere."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX, "whole_frames": True}

    def get_method(self) -> UDFMethod:
        """Work on tiles; on frames in a class that derives from this one for them, or does not ask for whole frames."""
        whole_frames = self.get_tiling_preferences().get("whole_frames")
        return super().get_method() if whole_frames and not derives_for_frames(self, LogsumUDF) else UDFMethod.FRAME

    def process_frame(self, frame: Any) -> None:
        """Add a frame; for classes that derive from this one."""
        if self._takes_numpy:
            self._add(frame[np.newaxis])
        else:
            self._add_other(frame)
        self._show()

    def process_tile(self, tile: Any) -> None:
        """Add the frames of a tile."""
        if self._takes_numpy:
            self._add(tile)
        else:
            for frame in frames_of(tile, self.meta.array_backend or NUMPY):
                self._add_other(frame)
        self._show()

    @property
    def _takes_numpy(self) -> bool:
        return (self.meta.array_backend or NUMPY) in NUMPY_BACKENDS

    def _add(self, tile: Array) -> None:
        values = np.abs(tile) if tile.dtype.kind == "c" else tile
        if self._few is None:
            self._few = np.zeros(self.results.logsum.shape, dtype=np.float32)
        start = 0
        while start < len(values):  # always as many together, however frames are cut into tiles
            some = values[start : start + _TOGETHER - self._n_few]
            sum_logarithms(some, self._few, compiled=self.meta.compiled)
            start += len(some)
            self._n_few += len(some)
            if self._n_few == _TOGETHER:
                self._add_few()

    def _add_few(self) -> None:
        if self._n_few:
            self._target()[:] += self._few
            self._few[:] = 0
            self._n_few = 0

    def _target(self) -> Any:
        """Return the sums of the partition: float64, of the kind of the results."""
        if self._sums is None:
            self._sums = self.xp.zeros(self.results.logsum.shape, dtype=np.float64)
        return self._sums

    def _add_other(self, frame: Any) -> None:
        """Add a frame that is sparse, or on a GPU."""
        target = self._target()
        if self.meta.array_backend in CUPY_BACKENDS:
            values = abs(frame) if frame.dtype.kind == "c" else frame
            target[:] += self.xp.log1p(values - values.min())
            return
        coo = sparse_to_coo(frame)
        values = np.abs(coo.data) if coo.dtype.kind == "c" else coo.data
        stored = tuple(coo.coords)
        is_full = values.size == coo.size
        lowest = values.min() if is_full else min(values.min(initial=0), 0)
        with np.errstate(invalid="ignore"):
            logarithms = np.log1p(values - lowest)
        if is_full or lowest == 0:
            target[stored] += logarithms
            return
        # Pixels that are not stored have a logarithm, too.
        frame = np.full(target.shape, np.log1p(-lowest))
        frame[stored] = logarithms
        target[:] += frame

    def postprocess(self) -> None:
        """Round the sum of the partition."""
        self._round()

    def _show(self) -> None:
        """Have the sum in the results at any time for a class that derives from this one, which may look for it there.

        It may also have a `postprocess` of its own.
        """
        if type(self) is not LogsumUDF:
            self._round()

    def _round(self) -> None:
        self._add_few()
        if self._sums is not None:
            self.results.logsum[:] += self._sums
            self._sums[:] = 0

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        """Add the sum of a partition."""
        dest.logsum[:] += src.logsum


def run_logsum(ctx: Any, dataset: Any, roi: Any = None) -> Mapping[str, Any]:
    """Run `LogsumUDF` over a dataset.

    Parameters
    ----------
    ctx
        The `Context` to run with.
    dataset
        The dataset.
    roi
        Selected positions; None: all.

    Returns
    -------
    Mapping
        With the result ``logsum``.

    Examples
    --------
    >>> run_logsum(ctx, ds)["logsum"].data.shape
    (32, 32)
    """
    result: Mapping[str, Any] = ctx.run_udf(dataset=dataset, udf=LogsumUDF(), roi=roi)
    return result
