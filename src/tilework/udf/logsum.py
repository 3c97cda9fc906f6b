"""Sum of logarithmically scaled frames, to see weak and strong features at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.udf.data import MergeAttrMapping

__all__ = ["LogsumUDF", "run_logsum"]


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

    def process_frame(self, frame: NDArray[Any]) -> None:
        """Add a frame."""
        if frame.dtype.kind == "c":
            frame = np.abs(frame)
        with np.errstate(invalid="ignore"):
            self.results.logsum[:] += np.log1p(frame - np.min(frame))

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
    """
    result: Mapping[str, Any] = ctx.run_udf(dataset=dataset, udf=LogsumUDF(), roi=roi)
    return result
