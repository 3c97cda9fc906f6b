"""What a UDF can have beyond its results: it has it when it has the method, whatever its base classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Mapping

    import numpy as np

    from tilework.common.slice import Slice
    from tilework.udf.data import MergeAttrMapping

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "UDFFrameMixin",
    "UDFMergeAllMixin",
    "UDFPartitionMixin",
    "UDFPostprocessMixin",
    "UDFPreprocessMixin",
    "UDFTileMixin",
]


@runtime_checkable
class UDFFrameMixin(Protocol):
    """A UDF that gets frame by frame."""

    def process_frame(self, frame: Array) -> None:
        """Process one frame, of sig shape and read-only."""
        ...


@runtime_checkable
class UDFTileMixin(Protocol):
    """A UDF that gets tiles."""

    def process_tile(self, tile: Array) -> None:
        """Process one tile, of shape ``(frames, *sig part)`` and read-only."""
        ...


@runtime_checkable
class UDFPartitionMixin(Protocol):
    """A UDF that gets whole partitions."""

    def process_partition(self, partition: Array) -> None:
        """Process one partition, of shape ``(frames, *sig)`` and read-only."""
        ...


@runtime_checkable
class UDFPreprocessMixin(Protocol):
    """A UDF that prepares something before data comes."""

    def preprocess(self) -> None:
        """Prepare; called on the main side once, and for every task before its data."""
        ...


@runtime_checkable
class UDFPostprocessMixin(Protocol):
    """A UDF that finishes something after the data of a partition."""

    def postprocess(self) -> None:
        """Finish; called for every task after its last tile, on the buffers of the partition."""
        ...


@runtime_checkable
class UDFMergeAllMixin(Protocol):
    """A UDF that can put all partial results together at once."""

    def merge_all(self, ordered_results: OrderedDict[Slice, MergeAttrMapping]) -> Mapping[str, Any]:
        """Return the merged arrays by name."""
        ...
