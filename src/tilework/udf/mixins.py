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
    "UDFRunEndMixin",
    "UDFTileMixin",
]


@runtime_checkable
class UDFFrameMixin(Protocol):
    """A UDF that gets frame by frame.

    Examples
    --------
    >>> from tilework.udf import UDF
    >>> class Maximum(UDFFrameMixin, UDF):
    ...     def get_result_buffers(self):
    ...         return {"maximum": self.buffer(kind="nav", dtype="float32")}
    ...
    ...     def process_frame(self, frame):
    ...         self.results.maximum[:] = frame.max()
    >>> result = ctx.run_udf(dataset=ds, udf=Maximum())["maximum"]
    >>> np.array_equal(result.data, ds.data.max(axis=(2, 3)))
    True
    """

    def process_frame(self, frame: Array) -> None:
        """Process one frame, of sig shape and read-only."""
        ...


@runtime_checkable
class UDFTileMixin(Protocol):
    """A UDF that gets tiles.

    Examples
    --------
    Tiles may be parts of the detector, and a frame comes in several then: what belongs to frames is added up.

    >>> from tilework.udf import UDF
    >>> class Total(UDFTileMixin, UDF):
    ...     def get_result_buffers(self):
    ...         return {"total": self.buffer(kind="nav", dtype="float32")}
    ...
    ...     def process_tile(self, tile):
    ...         self.results.total[:] += tile.sum(axis=(1, 2))
    >>> result = ctx.run_udf(dataset=ds, udf=Total())["total"]
    >>> np.array_equal(result.data, ds.data.sum(axis=(2, 3)))
    True
    """

    def process_tile(self, tile: Array) -> None:
        """Process one tile, of shape ``(frames, *sig part)`` and read-only."""
        ...


@runtime_checkable
class UDFPartitionMixin(Protocol):
    """A UDF that gets whole partitions.

    Examples
    --------
    >>> from tilework.udf import UDF
    >>> class RelativeToMedian(UDFPartitionMixin, UDF):
    ...     def get_result_buffers(self):
    ...         return {"relative": self.buffer(kind="nav", dtype="float32")}
    ...
    ...     def process_partition(self, partition):
    ...         total = partition.sum(axis=(1, 2))
    ...         self.results.relative[:] = total / np.median(total)
    >>> ctx.run_udf(dataset=ds, udf=RelativeToMedian())["relative"].data.shape
    (6, 8)
    """

    def process_partition(self, partition: Array) -> None:
        """Process one partition, of shape ``(frames, *sig)`` and read-only."""
        ...


@runtime_checkable
class UDFPreprocessMixin(Protocol):
    """A UDF that prepares something before data comes.

    Examples
    --------
    A minimum, which does not start with the zeros of a new buffer:

    >>> from tilework.udf import UDF
    >>> class Minimum(UDFPreprocessMixin, UDF):
    ...     def get_result_buffers(self):
    ...         return {"minimum": self.buffer(kind="sig", dtype="float32")}
    ...
    ...     def preprocess(self):
    ...         self.results.minimum[:] = np.inf
    ...
    ...     def process_frame(self, frame):
    ...         self.results.minimum[:] = np.minimum(self.results.minimum, frame)
    ...
    ...     def merge(self, dest, src):
    ...         dest.minimum[:] = np.minimum(dest.minimum, src.minimum)
    >>> result = ctx.run_udf(dataset=ds, udf=Minimum())["minimum"]
    >>> np.array_equal(result.data, ds.data.min(axis=(0, 1)))
    True
    """

    def preprocess(self) -> None:
        """Prepare; called on the main side once, and for every task before its data."""
        ...


@runtime_checkable
class UDFPostprocessMixin(Protocol):
    """A UDF that finishes something after the data of a partition.

    Examples
    --------
    >>> from tilework.udf import UDF
    >>> class Amplitude(UDFPostprocessMixin, UDF):
    ...     def get_result_buffers(self):
    ...         return {"amplitude": self.buffer(kind="nav", dtype="float32")}
    ...
    ...     def process_tile(self, tile):
    ...         self.results.amplitude[:] += tile.sum(axis=(1, 2))
    ...
    ...     def postprocess(self):
    ...         self.results.amplitude[:] = np.sqrt(self.results.amplitude)
    >>> result = ctx.run_udf(dataset=ds, udf=Amplitude())["amplitude"]
    >>> bool(np.allclose(result.data**2, ds.data.sum(axis=(2, 3))))
    True
    """

    def postprocess(self) -> None:
        """Finish; called for every task after its last tile, on the buffers of the partition."""
        ...


@runtime_checkable
class UDFRunEndMixin(Protocol):
    """A UDF that finishes or cleans up what it began outside of its results, such as a file.

    Examples
    --------
    >>> from tilework.udf import UDF
    >>> class Noted(UDFRunEndMixin, UDF):
    ...     def get_result_buffers(self):
    ...         return {"total": self.buffer(kind="nav", dtype="float32")}
    ...
    ...     def process_tile(self, tile):
    ...         self.results.total[:] += tile.sum(axis=(1, 2))
    ...
    ...     def end_run(self, is_complete):
    ...         merged = int(self.meta.get_valid_nav_mask().sum())
    ...         print(f"{merged} positions:", "complete" if is_complete else "ended early")
    >>> _ = ctx.run_udf(dataset=ds, udf=Noted())
    48 positions: complete
    >>> for _ in ctx.run_udf_iter(dataset=ds, udf=Noted()):
    ...     break
    16 positions: ended early
    """

    def end_run(self, is_complete: bool) -> None:
        """Finish; called on the main side once, when nothing of the run is processed any more, however it ended.

        An exception of this method ends the run with an error when it is complete; otherwise there is a reason already
        why it ended, and the exception is logged. When results are computed later, as by the executor ``"delayed"``,
        the run is over as soon as it is known how.

        Parameters
        ----------
        is_complete
            Whether all partitions are merged. ``self.meta.get_valid_nav_mask()`` says which positions are; it is None
            when the run has not begun, because it could not, or because nobody iterated.
        """
        ...


@runtime_checkable
class UDFMergeAllMixin(Protocol):
    """A UDF that can put all partial results together at once.

    Examples
    --------
    With the executor ``"delayed"``, one sum over all partitions in place of one merge after the other:

    >>> from tilework.udf import UDF
    >>> class Total(UDFMergeAllMixin, UDF):
    ...     def get_result_buffers(self):
    ...         return {"total": self.buffer(kind="sig", dtype="float32")}
    ...
    ...     def process_tile(self, tile):
    ...         self.results.total[:] += tile.sum(axis=0)
    ...
    ...     def merge(self, dest, src):
    ...         dest.total[:] += src.total
    ...
    ...     def merge_all(self, ordered_results):
    ...         return {"total": sum(part.total for part in ordered_results.values())}
    >>> result = ctx.run_udf(dataset=ds, udf=Total())["total"]
    >>> np.array_equal(result.data, ds.data.sum(axis=(0, 1)))
    True
    """

    def merge_all(self, ordered_results: OrderedDict[Slice, MergeAttrMapping]) -> Mapping[str, Any]:
        """Return the merged arrays by name."""
        ...
