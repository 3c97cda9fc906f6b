"""The declaration of a result that exists at the end only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.buffers.wrapper import BufferWrapper

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["PlaceholderBufferWrapper"]


class PlaceholderBufferWrapper(BufferWrapper):
    """Declares a buffer that exists in the final results only; it is never allocated."""

    def allocate(self, lib: Any = None) -> None:
        """Do nothing: there is no storage until `UDF.get_results` makes the result."""

    def has_data(self) -> bool:
        """Return False."""
        return False

    def get_view_for_dataset(self, dataset: Any = None) -> Any:  # noqa: ARG002
        """Return None, as all views: while frames are processed, there is nothing to look at."""
        return None

    def get_view_for_partition(self, partition: Any) -> Any:  # noqa: ARG002
        """Return None."""
        return None

    def get_view_for_frame(self, partition: Any, tile: Any, frame_idx: int) -> Any:  # noqa: ARG002
        """Return None."""
        return None

    def get_view_for_tile(self, partition: Any, tile: Any) -> Any:  # noqa: ARG002
        """Return None."""
        return None

    def get_contiguous_view_for_tile(self, partition: Any, tile: Any) -> Any:  # noqa: ARG002
        """Return None."""
        return None

    @property
    def raw_data(self) -> Array | None:
        """Not there.

        Raises
        ------
        ValueError
            Always.
        """
        msg = "a buffer with use='result_only' holds no data: return the result from get_results()"
        raise ValueError(msg)

    @property
    def data(self) -> Array:
        """Not there; see `raw_data`."""
        raise ValueError(str(self.raw_data))
