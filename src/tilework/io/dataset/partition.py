"""What a partition is, whatever the format: the unit of work, which opens the data on a worker and yields tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.exceptions import DataSetException
from tilework.io.dataset.partitioning import make_slices
from tilework.io.dataset.tile import DataTile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.executor import WorkerContext
    from tilework.common.scheduler import WorkerSet
    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.meta import DataSetMeta
    from tilework.io.dataset.tiling_scheme import TilingScheme

__all__ = ["HasPickedTiles", "Partition"]


class Partition(ABC):
    """A contiguous part of the flattened scan over the whole detector: the unit of work.

    Parameters
    ----------
    meta
        Facts about the dataset.
    partition_slice
        The part, with exactly one navigation axis.
    io_backend, decoder
        Accepted for compatibility, and only None: how its data is read is up to each kind of partition.

    Raises
    ------
    ValueError
        When `partition_slice` has not one navigation axis.
    DataSetException
        For an `io_backend` or a `decoder`.
    """

    make_slices = staticmethod(make_slices)

    def __init__(self, meta: DataSetMeta, partition_slice: Slice, io_backend: Any = None, decoder: Any = None) -> None:
        for name, given in (("io_backend", io_backend), ("decoder", decoder)):
            if given is not None:
                msg = f"{name}={given!r}: tilework has none; read the data in get_tiles, and leave {name} out"
                raise DataSetException(msg)
        if partition_slice.shape.nav_dims != 1:
            msg = f"the slice of a partition needs one navigation axis: {partition_slice}"
            raise ValueError(msg)
        self.meta = meta
        self.slice = partition_slice
        self.idx: int | None = None
        self._corrections: CorrectionSet | None = None
        self._worker_context: WorkerContext | None = None

    @property
    def shape(self) -> Shape:
        """Frames of the partition, then the signal axes."""
        return self.slice.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the frames, in native byte order."""
        return self.meta.dtype

    @abstractmethod
    def get_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None = "float32",
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> Iterator[DataTile]:
        """Yield the frames of the partition in tiles: consecutive frames outer, signal slices of the scheme inner.

        Parameters
        ----------
        tiling_scheme
            The signal slices, which tiles match exactly, and the most frames of a tile; tiles may have fewer.
            With intent ``"partition"`` there is one tile for each signal slice and stretch of present frames.
        dest_dtype
            Dtype of the tiles, float32 unless another is given; None for the frames as stored, possibly in foreign byte
            order.
        roi
            Selected positions of the whole dataset, in the shape of the scan or flat; None selects all. With it,
            tiles count in the compressed navigation axis that holds the selected positions only.
        array_backend
            Kind of array, one of `DataSet.array_backends`; None for the first of them. Tiles of matrices have the
            shape (frames, pixels).

        Yields
        ------
        DataTile
            Read-only, and valid until the next one is asked for. Frames that the source does not hold are skipped.
        """

    def get_macrotile(
        self,
        dest_dtype: DTypeLike | None = "float32",
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> DataTile:
        """Return all selected frames as one tile, which keeps its data; it has no frames when none is selected.

        Parameters are those of `get_tiles`, from which it comes.

        Raises
        ------
        DataSetException
            When frames are absent between others, so that one tile cannot say which frames it holds.
        """
        from tilework.io.dataset.tiling_scheme import TilingScheme

        scheme = TilingScheme.make_for_shape(self.shape, self.meta.shape, intent="partition")
        whole: DataTile | None = None
        for tile in self._lasting_tiles(scheme, dest_dtype, roi, array_backend):
            if whole is not None:
                msg = (
                    f"{self.get_ident()} has absent frames between others, or gives several tiles when asked for one: "
                    "its frames are no single tile, use get_tiles, or leave the absent positions out of the scan"
                )
                raise DataSetException(msg)
            whole = tile
        return self._no_frames(dest_dtype, roi, array_backend) if whole is None else whole

    def _lasting_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None,
        roi: NDArray[np.bool_] | None,
        array_backend: str | None,
    ) -> Iterator[DataTile]:
        """Yield what `get_tiles` yields, but valid for as long as somebody holds it."""
        for tile in self.get_tiles(tiling_scheme, dest_dtype, roi, array_backend):
            yield DataTile(tile.data.copy(), tile.tile_slice, tile.scheme_idx)

    def _no_frames(
        self, dest_dtype: DTypeLike | None, roi: NDArray[np.bool_] | None, array_backend: str | None
    ) -> DataTile:
        """Return the tile of a partition in which nothing is selected, or all frames are absent."""
        before, *sig_origin = self.slice.origin
        selected = self._flat_roi(roi)
        if selected is not None:
            before = int(np.count_nonzero(selected[:before]))
        shape = Shape((0, *self.shape.sig), self.shape.sig.dims)
        backend = array_backend or self.meta.array_backends[0]
        dtype = self._dest_dtype(dest_dtype)
        if backend not in NUMPY_BACKENDS:
            dtype = dtype.newbyteorder("=")
        return DataTile(np.empty(tuple(shape), dtype), Slice((before, *sig_origin), shape), 0).as_backend(backend)

    def _dest_dtype(self, dest_dtype: DTypeLike | None) -> np.dtype[Any]:
        """Return the dtype of tiles."""
        return self.dtype if dest_dtype is None else np.dtype(dest_dtype)

    def _checked_backend(self, backend: str | None) -> str:
        """Return which kind of array tiles are; DataSetException when they cannot be had like that."""
        offered = self.meta.array_backends
        if backend is not None and backend not in offered:
            msg = f"tiles as {backend!r} cannot be had from this dataset, only as one of {offered}"
            raise DataSetException(msg)
        return backend or offered[0]

    def _flat_roi(self, roi: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Return the selected positions of the whole dataset, flat; ValueError when they do not fit it."""
        if roi is None:
            return None
        flat = np.asarray(roi).reshape(-1)
        if flat.size != self.meta.shape.nav.size or flat.dtype != np.bool_:
            msg = (
                f"roi of shape {np.shape(roi)} and dtype {flat.dtype} does not fit the scan of shape "
                f"{self.meta.shape.nav}: it must be a bool array with one entry for each position"
            )
            raise ValueError(msg)
        return flat

    def get_frame_count(self, roi: NDArray[np.bool_] | None = None) -> int:
        """Return the number of scan positions in this partition, or of those that `roi` selects."""
        if roi is None:
            return self.shape[0]
        start = self.slice.origin[0]
        return int(np.count_nonzero(roi.reshape(-1)[start : start + self.shape[0]]))

    def get_locations(self) -> WorkerSet | None:
        """Return the workers that have the data; None when any worker will do."""
        return None

    def set_idx(self, idx: int) -> None:
        """Say which partition of its dataset this is."""
        self.idx = idx

    def get_ident(self) -> str:
        """Return a name for messages."""
        return f"part-{self.idx}"

    def set_corrections(self, corrections: CorrectionSet | None) -> None:
        """Set the detector corrections for the tiles to come; None, or an empty set, for none.

        For who reads tiles himself. In a run, tiles are corrected where they are converted, whatever the dataset.
        """
        self._corrections = corrections if corrections is not None and corrections.have_corrections() else None

    def set_worker_context(self, worker_context: WorkerContext | None) -> None:
        """Set the worker's context, for partitions that get their data streamed."""
        self._worker_context = worker_context

    def validate_tiling_scheme(self, tiling_scheme: TilingScheme) -> None:
        """Look whether the scheme can be used for this partition.

        Raises
        ------
        ValueError
            When it was made for another detector shape.
        """
        if tuple(tiling_scheme.dataset_shape.sig) != tuple(self.shape.sig):
            made, own = tuple(tiling_scheme.dataset_shape.sig), tuple(self.shape.sig)
            msg = f"the tiling scheme was made for signal shape {made}, {self.get_ident()} has {own}"
            raise ValueError(msg)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.get_ident()} {self.slice}>"


@runtime_checkable
class HasPickedTiles(Protocol):
    """What a `Partition` has as well when selected frames need not be copied together."""

    def get_picked_tiles(
        self, tiling_scheme: TilingScheme, roi: NDArray[np.bool_], *, for_kernels: bool
    ) -> Iterator[DataTile] | None:
        """Return tiles of selected frames as they are stored and where they lie, or None where that cannot be had.

        Their data are `tilework.common.kernels.picked_frames.PickedFrames`, or views of consecutive frames. Otherwise
        they are like those of `Partition.get_tiles`.

        Parameters
        ----------
        tiling_scheme, roi
            As of `Partition.get_tiles`.
        for_kernels
            Tiles as large as pays for kernels, whatever the scheme says.
        """
