"""Partitions of sparse arrays in memory: tiles are cut from a CSR matrix, nothing dense is made unless asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import SPARSE_BACKENDS, as_backend, as_dtype
from tilework.common.pydata import csr_from_pydata
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.common.sparse import is_scipy_sparse
from tilework.exceptions import DataSetException
from tilework.io.dataset.layout import SparseSegment, cut_rows
from tilework.io.dataset.partition import Partition
from tilework.io.dataset.tile import DataTile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from tilework.io.dataset.meta import DataSetMeta
    from tilework.io.dataset.tiling_scheme import TilingScheme

__all__ = ["SparsePartition", "as_canonical_csr", "sparse_backend_of"]


def sparse_backend_of(data: Any) -> str | None:
    """Return the array backend of sparse data in main memory; None for everything else, dense arrays included."""
    import sparseconverter

    try:
        backend: str = sparseconverter.get_backend(data)
    except (TypeError, ValueError):
        return None
    return backend if backend in SPARSE_BACKENDS else None


def as_canonical_csr(data: Any, pixels: int, dtype: np.dtype[Any]) -> Any:
    """Return sparse data as a CSR matrix of shape (frames, pixels), native byte order, without duplicates.

    Parameters
    ----------
    data
        Sparse array of any number of axes, in C order a stack of frames.
    pixels
        Number of pixels of a frame.
    dtype
        dtype of the result.
    """
    from scipy.sparse import csr_matrix

    if is_scipy_sparse(data):
        cut = data if data.shape[1] == pixels else data.reshape((-1, pixels))
        matrix = as_dtype(csr_matrix(cut), dtype)
    else:
        matrix = csr_from_pydata(as_dtype(data, dtype), pixels)
    if not matrix.has_canonical_format:
        # The matrix may be that of the caller, who keeps it as it is.
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


class SparsePartition(Partition):
    """A partition of a sparse array in memory.

    Parameters
    ----------
    meta, partition_slice
        As of `Partition`; `DataSetMeta.array_backends` begins with the backend of the data.
    segments
        The frames; their numbers are positions in the flattened scan.
    """

    def __init__(self, meta: DataSetMeta, partition_slice: Slice, segments: Sequence[SparseSegment]) -> None:
        super().__init__(meta, partition_slice)
        self._segments = tuple(segments)

    def get_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None = "float32",
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> Iterator[DataTile]:
        """Yield the frames of the partition in tiles; see `Partition.get_tiles`.

        Raises
        ------
        DataSetException
            When tiles cannot be had in that backend, or should be corrected for the detector.
        """
        self.validate_tiling_scheme(tiling_scheme)
        backend = self._checked_backend(array_backend)
        return self._tiles(tiling_scheme, self._dest_dtype(dest_dtype), self._flat_roi(roi), backend)

    def _checked_backend(self, backend: str | None) -> str:
        if self._corrections is not None:
            msg = "sparse tiles cannot be corrected for the detector: in a run they are made dense for that"
            raise DataSetException(msg)
        return super()._checked_backend(backend)

    def _stretches(self, roi: NDArray[np.bool_] | None) -> Iterator[tuple[int, Any]]:
        """Yield the (compressed) position of the first selected frame of each segment, and its selected frames."""
        for segment in self._segments:
            if roi is None:
                yield segment.first, segment.matrix
                continue
            picks = np.flatnonzero(roi[segment.first : segment.first + segment.frames])
            if len(picks):
                yield int(np.count_nonzero(roi[: segment.first])), segment.matrix[picks]

    def _tiles(
        self, scheme: TilingScheme, dest: np.dtype[Any], roi: NDArray[np.bool_] | None, backend: str
    ) -> Iterator[DataTile]:
        sig = tuple(self.meta.shape.sig)
        columns = [_columns(part, sig) for _, part in scheme.slices]
        for nav, rows in self._stretches(roi):
            depth = rows.shape[0] if scheme.intent == "partition" else max(1, scheme.depth)
            for start in range(0, rows.shape[0], depth):
                block = cut_rows(rows, start, min(rows.shape[0], start + depth))
                for (idx, part), places in zip(scheme.slices, columns, strict=True):
                    matrix = as_dtype(block if places is None else block[:, places], dest)
                    shape = Shape((matrix.shape[0], *part.shape), sig_dims=len(sig))
                    where = Slice((nav + start, *part.origin), shape)
                    yield DataTile(_read_only(as_backend(matrix, backend, tuple(shape))), where, idx)

    def _lasting_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None,
        roi: NDArray[np.bool_] | None,
        array_backend: str | None,
    ) -> Iterator[DataTile]:
        return self.get_tiles(tiling_scheme, dest_dtype, roi, array_backend)


def _columns(part: Slice, sig: tuple[int, ...]) -> NDArray[np.intp] | None:
    """Return the flat pixels of a part of the detector; None for the whole."""
    if tuple(part.shape) == sig:
        return None
    return np.arange(int(np.prod(sig))).reshape(sig)[part.get()].reshape(-1)


def _read_only(tile: Any) -> Any:
    # Values only: libraries may sort indices in place, which changes nothing.
    values = tile if isinstance(tile, np.ndarray) else getattr(tile, "data", None)
    if isinstance(values, np.ndarray):
        values.flags.writeable = False
    return tile
