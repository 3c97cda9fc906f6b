"""The function that does nothing: what is left is the time for reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.udf.base import UDF

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper

__all__ = ["NoOpUDF"]


class NoOpUDF(UDF):
    """Computes nothing: reads the data, for measurements.

    Parameters
    ----------
    preferred_input_dtype
        dtype in which tiles are wanted.

    Examples
    --------
    >>> len(ctx.run_udf(dataset=ds, udf=NoOpUDF()))
    0
    """

    def __init__(self, preferred_input_dtype: Any = bool) -> None:
        super().__init__(preferred_input_dtype=preferred_input_dtype)

    def get_preferred_input_dtype(self) -> Any:
        """Return what was asked for."""
        return self.params.preferred_input_dtype

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Return nothing."""
        return {}

    def process_tile(self, tile: NDArray[Any]) -> None:
        """Do nothing."""
