"""Where frames of fixed size lie: one description for all formats in which frame follows frame at a fixed distance.

A `FrameLayout` numbers the frames of a source from 0, the first frame that was acquired. Its segments are runs of
frames at a fixed distance in one file (or in an array in memory), sorted by the number of their first frame. Numbers
between segments are frames that the source does not hold.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilework.io.dataset.mapping import get_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.io.dataset.seen import SeenFile
    from tilework.io.decode import Packing

__all__ = ["ArraySegment", "FileSegment", "FrameLayout", "Segment", "SparseSegment", "cut_rows"]


class FileSegment(NamedTuple):
    """Frames at a fixed distance in one file.

    A tuple, which is made and pickled several times as fast as a frozen dataclass: there is one for each partition.

    Parameters
    ----------
    seen
        The file, as it was when it was opened.
    offset
        Byte at which the pixels of the first frame begin.
    stride
        Bytes from the beginning of a frame to that of the next.
    frames
        Number of frames.
    first
        Number of the first frame.
    """

    seen: SeenFile
    offset: int
    stride: int
    frames: int
    first: int

    def cut(self, start: int, stop: int, shift: int) -> FileSegment:
        """Return the frames from `start` to `stop` (numbers of the source), their numbers lowered by `shift`."""
        skipped = start - self.first
        offset = self.offset + skipped * self.stride
        return FileSegment(self.seen, offset, self.stride, stop - start, start - shift)

    def view(self, dtype: np.dtype[Any], frame_shape: tuple[int, ...], inner: tuple[int, ...]) -> NDArray[Any]:
        """Return all frames as a read-only array of shape (frames, ``*frame_shape``) into the map of the file.

        `inner` are the strides within a frame, in bytes.
        """
        return np.ndarray((self.frames, *frame_shape), dtype, get_map(self.seen), self.offset, (self.stride, *inner))

    def check(self) -> None:
        """Raise a `DataSetException` when the file is not as it was, or cannot be read."""
        get_map(self.seen)


@dataclass(frozen=True, slots=True, eq=False)
class ArraySegment:
    """Frames in an array in memory.

    Parameters
    ----------
    array
        Array of shape (frames, ``*sig``), each frame C-contiguous.
    first
        Number of the first frame.
    """

    array: NDArray[Any]
    first: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.array, self.first)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.array)

    def cut(self, start: int, stop: int, shift: int) -> ArraySegment:
        """Return the frames from `start` to `stop` (numbers of the source), their numbers lowered by `shift`."""
        return ArraySegment(self.array[start - self.first : stop - self.first], start - shift)

    def view(self, dtype: np.dtype[Any], frame_shape: tuple[int, ...], inner: tuple[int, ...]) -> NDArray[Any]:  # noqa: ARG002
        """Return all frames as a read-only array of shape (frames, ``*frame_shape``)."""
        frames = self.array.reshape((-1, *frame_shape)) if self.array.shape[1:] != frame_shape else self.array.view()
        frames.flags.writeable = False
        return frames

    def check(self) -> None:
        """Do nothing: an array is always there."""


def _arrived(array: NDArray[Any], first: int) -> ArraySegment:
    """Return a segment that was pickled: Dask puts what it receives at any address, where bits of sums may differ."""
    return ArraySegment(array if array.flags.aligned else array.copy(), first)


@dataclass(frozen=True, slots=True, eq=False)
class SparseSegment:
    """Frames in a sparse matrix in memory.

    Parameters
    ----------
    matrix
        CSR matrix of SciPy, of shape (frames, pixels).
    first
        Number of the first frame.
    """

    matrix: Any
    first: int

    @property
    def frames(self) -> int:
        """Number of frames."""
        return int(self.matrix.shape[0])

    def cut(self, start: int, stop: int, shift: int) -> SparseSegment:
        """Return the frames from `start` to `stop` (numbers of the source), their numbers lowered by `shift`."""
        return SparseSegment(cut_rows(self.matrix, start - self.first, stop - self.first), start - shift)

    def view(self, dtype: np.dtype[Any], frame_shape: tuple[int, ...], inner: tuple[int, ...]) -> NDArray[Any]:  # noqa: ARG002
        """Return all frames as a dense array of shape (frames, ``*frame_shape``), which is made for every call."""
        frames: NDArray[Any] = self.matrix.toarray().reshape((self.frames, *frame_shape))
        frames.flags.writeable = False
        return frames

    def check(self) -> None:
        """Do nothing: a matrix in memory is always there."""


def cut_rows(matrix: Any, start: int, stop: int) -> Any:
    """Return some rows of a CSR matrix without duplicates, as a view of its values and indices."""
    if (start, stop) == (0, matrix.shape[0]):
        return matrix
    begin, end = matrix.indptr[start], matrix.indptr[stop]
    parts = matrix.data[begin:end], matrix.indices[begin:end], matrix.indptr[start : stop + 1] - begin
    rows = type(matrix)(parts, shape=(stop - start, matrix.shape[1]), copy=False)
    rows.has_canonical_format = True
    return rows


Segment = FileSegment | ArraySegment | SparseSegment


@dataclass(frozen=True)
class FrameLayout:
    """Frames of fixed size in some files, or in memory.

    Parameters
    ----------
    segments
        Where the frames lie, sorted by the number of their first frame, without overlap.
    dtype
        Dtype of the stored pixels, with byte order; bytes (u1) for packed frames.
    frame_shape
        Shape of a stored frame; ``(bytes,)`` for packed ones.
    packing
        How packed pixels are decoded; None for frames that are plain arrays.
    """

    segments: tuple[Segment, ...]
    dtype: np.dtype[Any]
    frame_shape: tuple[int, ...]
    packing: Packing | None = None

    @property
    def frame_bytes(self) -> int:
        """Bytes of the pixels of one frame as stored."""
        return math.prod(self.frame_shape) * self.dtype.itemsize

    @property
    def image_count(self) -> int:
        """Number of frames from the first to the last, missing ones between them included."""
        return self.segments[-1].first + self.segments[-1].frames if self.segments else 0

    @property
    def frames_held(self) -> int:
        """Number of frames that the source holds."""
        return sum(s.frames for s in self.segments)

    @property
    def is_aligned(self) -> bool:
        """Whether every pixel lies at a multiple of its size."""
        size = max(1, self.dtype.alignment)
        return all(
            not (s.offset % size or s.stride % size)
            if isinstance(s, FileSegment)
            else not isinstance(s, ArraySegment) or s.array.flags.aligned
            for s in self.segments
        )

    @property
    def paths(self) -> list[str]:
        """Paths of all files."""
        return list(dict.fromkeys(s.seen.path for s in self.segments if isinstance(s, FileSegment)))

    def cut(self, start: int, stop: int, sync_offset: int) -> tuple[Segment, ...]:
        """Return the segments with the frames at scan positions `start` to `stop`.

        Parameters
        ----------
        start, stop
            First and one-past-last position in the flattened scan.
        sync_offset
            Number of the frame at position 0.

        Returns
        -------
        tuple of segments
            Their ``first`` counts scan positions. Positions without a frame are in none of them.
        """
        low, high = start + sync_offset, stop + sync_offset
        segments = self.segments
        i = max(0, bisect_right(segments, low, key=lambda s: s.first) - 1)
        found: list[Segment] = []
        while i < len(segments) and segments[i].first < high:
            segment = segments[i]
            begin, end = max(low, segment.first), min(high, segment.first + segment.frames)
            if begin < end:
                found.append(segment.cut(begin, end, sync_offset))
            i += 1
        return tuple(found)

    def absent(self, positions: int, sync_offset: int) -> NDArray[np.bool_]:
        """Return for each position of the flattened scan whether the source holds no frame for it."""
        mask = np.ones(positions, dtype=np.bool_)
        for segment in self.cut(0, positions, sync_offset):
            mask[segment.first : segment.first + segment.frames] = False
        return mask
