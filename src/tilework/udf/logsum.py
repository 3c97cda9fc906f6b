"""Sum of logarithmically scaled frames, to see weak and strong features at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.array_backends import CUPY_BACKENDS, NUMPY_BACKENDS
from tilework.common.sparse import sparse_to_coo
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.common.buffers import BufferWrapper
    from tilework.udf.data import MergeAttrMapping

__all__ = ["LogsumUDF", "run_logsum"]

_BLOCK_BYTES: Final = 2**22
"""Of a frame at a time: larger arrays are pages that the system gives, and takes back, for each."""


class LogsumUDF(UDF):
    """Sum over all (selected) frames of ``log(frame - min(frame) + 1)``.

    Result: ``logsum``, float32, of sig shape, without unit. Of complex frames the absolute value is taken.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=LogsumUDF())
    >>> result["logsum"].data.shape
    (32, 32)
    """

    def __init__(self) -> None:
        super().__init__()

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``logsum``."""
        return {"logsum": self.buffer(kind="sig", dtype=np.float32, where="device")}

    def get_backends(self) -> tuple[str, ...]:
        """Take arrays with any number of axes; matrices have no logarithm of their own on a GPU."""
        return tuple(backend for backend in self.BACKEND_ALL if backend not in self.D2_BACKENDS)

    def process_frame(self, frame: Any) -> None:
        """Add a frame."""
        if self.meta.array_backend not in NUMPY_BACKENDS:
            self._add_other(frame)
            return
        if frame.dtype.kind == "c":
            frame = np.abs(frame)
        with np.errstate(invalid="ignore"):
            lowest = np.min(frame)
            rows = max(1, _BLOCK_BYTES * len(frame) // max(1, frame.nbytes))
            for start in range(0, len(frame), rows):
                part = slice(start, start + rows)
                self.results.logsum[part] += np.log1p(frame[part] - lowest)

    def _add_other(self, frame: Any) -> None:
        """Add a frame that is sparse, or on a GPU."""
        target = self.results.logsum
        if self.meta.array_backend in CUPY_BACKENDS:
            values = abs(frame) if frame.dtype.kind == "c" else frame
            target[:] += self.xp.log1p(values - values.min())
            return
        coo = sparse_to_coo(frame)
        values = np.abs(coo.data) if coo.dtype.kind == "c" else coo.data
        lowest = values.min() if values.size == coo.size else min(values.min(initial=0), 0)
        if lowest:
            # Pixels that are not stored have a logarithm, too.
            target[:] += np.log1p(-lowest)
            target[tuple(coo.coords)] -= np.log1p(-lowest)
        with np.errstate(invalid="ignore"):
            target[tuple(coo.coords)] += np.log1p(values - lowest)

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
