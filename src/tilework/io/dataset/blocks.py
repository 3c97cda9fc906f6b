"""From the segments of a partition to blocks: consecutive frames as one array, a view wherever that is possible.

Stretches of selected frames that are adjacent in the file and large enough become views. What is smaller, or packed, or
not aligned, is gathered into reused memory of about a megabyte, so that the frames are still in the cache when they are
processed. Whoever can read selected frames where they lie gets them without a copy, see `BlockReader.picked`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.picked_frames import PickedFrames
from tilework.common.pickled_once import PickledOnce
from tilework.io.decode import Packing, decode_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tilework.io.dataset.layout import Segment
    from tilework.io.dataset.scratch import Scratch

__all__ = ["SCRATCH_BYTES", "BlockReader", "FrameFormat"]

SCRATCH_BYTES = 2 * 1024 * 1024
# A stretch of at least this size is worth a tile of its own; copying smaller ones together costs less than more tiles.
VIEW_BYTES = 512 * 1024
# Where there are gaps between frames, those of at least this size are copied one by one; smaller ones with one call.
COPY_FRAME_BYTES = 8 * 1024


class FrameFormat(PickledOnce):
    """How the frames of a dataset are stored and what shape they have.

    Parameters
    ----------
    dtype
        Dtype of the stored pixels; bytes for packed frames.
    sig_shape
        Shape in which frames are delivered.
    packing
        How pixels are packed; None for plain arrays.
    aligned
        Whether every pixel lies at a multiple of its size.

    Attributes
    ----------
    frame_shape : tuple of int
        Shape in which stored frames are looked at: that of the detector, or ``(bytes,)`` for packed frames.
    inner_strides : tuple of int
        Distances in bytes within a stored frame.
    tile_dtype : dtype
        Dtype of frames that are delivered as stored; packed ones are decoded.
    views : bool
        Whether frames can be delivered as views.
    block_frame_bytes : int
        Bytes of a frame in a block.
    """

    __slots__ = (
        "aligned",
        "block_frame_bytes",
        "dtype",
        "frame_shape",
        "inner_strides",
        "packing",
        "sig_shape",
        "tile_dtype",
        "views",
    )

    def __init__(
        self, dtype: np.dtype[Any], sig_shape: tuple[int, ...], packing: Packing | None, aligned: bool
    ) -> None:
        self.dtype = dtype
        self.sig_shape = sig_shape
        self.packing = packing
        self.aligned = aligned
        self.frame_shape = sig_shape if packing is None else (packing.frame_bytes,)
        self.tile_dtype = dtype if packing is None else packing.dtype
        self.views = packing is None and aligned
        self.block_frame_bytes = math.prod(sig_shape) * self.tile_dtype.itemsize
        sizes = self.frame_shape
        self.inner_strides = tuple(math.prod(sizes[i + 1 :]) * dtype.itemsize for i in range(len(sizes)))

    def view(self, segment: Segment) -> NDArray[Any]:
        """Return all frames of a segment, of shape (frames, ``*frame_shape``), as they are stored."""
        return segment.view(self.dtype, self.frame_shape, self.inner_strides)

    def _recipe(self) -> tuple[Any, ...]:
        return self.dtype, self.sig_shape, self.packing, self.aligned


class _Stored:
    """All frames of one segment, looked at only when they are needed: until then, its file is not mapped."""

    __slots__ = ("_format", "_frames", "_segment")

    def __init__(self, segment: Segment, frame_format: FrameFormat) -> None:
        self._segment = segment
        self._format = frame_format
        self._frames: NDArray[Any] | None = None

    @property
    def frames(self) -> NDArray[Any]:
        if self._frames is None:
            self._frames = self._format.view(self._segment)
        return self._frames


@dataclass(slots=True)
class _Piece:
    """Some frames of one segment: consecutive ones, or picked ones."""

    stored: _Stored
    start: int
    count: int
    picks: NDArray[np.intp] | None  # indices of the frames; None for `count` frames from `start`
    nav: int  # position of the first in the (compressed) navigation axis

    def cut(self, skip: int, count: int) -> _Piece:
        picks = None if self.picks is None else self.picks[skip : skip + count]
        return _Piece(self.stored, self.start + skip, count, picks, self.nav + skip)

    def read(self) -> NDArray[Any]:
        """Return the frames: a view when they are consecutive, a new array otherwise."""
        frames = self.stored.frames
        return frames[self.start : self.start + self.count] if self.picks is None else frames[self.picks]

    def copy_to(self, out: NDArray[Any]) -> None:
        frames, picks = self.stored.frames, self.picks
        if picks is None:
            np.copyto(out, frames[self.start : self.start + self.count])
        elif frames.flags.c_contiguous:
            # One call, which waits for the interpreter lock once, and not once for each frame.
            np.take(frames, picks, axis=0, out=out, mode="clip")
        elif out[0].nbytes >= COPY_FRAME_BYTES:
            for i, pick in enumerate(picks):
                out[i] = frames[pick]
        else:
            out[...] = frames[picks]


class BlockReader:
    """Reads the selected frames of one partition in blocks.

    Parameters
    ----------
    segments
        Where the frames lie; their numbers are positions in the flattened scan.
    frame_format
        How they are stored.
    roi
        Flat selection over the whole scan, or None.
    """

    __slots__ = ("_format", "_roi", "_segments")

    def __init__(
        self,
        segments: tuple[Segment, ...],
        frame_format: FrameFormat,
        roi: NDArray[np.bool_] | None,
    ) -> None:
        self._segments = segments
        self._format = frame_format
        self._roi = roi

    def blocks(
        self, scratch: Scratch, view_depth: int, copy_depth: int, by_stretch: bool
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield blocks of shape (frames, ``*sig``) with the (compressed) position of their first frame.

        Parameters
        ----------
        scratch
            Memory for gathered blocks: that of a block that nobody holds is used for the next one.
        view_depth, copy_depth
            The most frames of a block that is a view, and of one that is gathered.
        by_stretch
            One block for each stretch of present frames, whatever its size.
        """
        for pieces in self._plan(view_depth, copy_depth, by_stretch):
            yield pieces[0].nav, self._join(pieces, scratch)

    def picked(self, depth: int) -> Iterator[tuple[int, NDArray[Any] | PickedFrames]]:
        """Yield up to `depth` selected frames where they lie, with the (compressed) position of the first.

        Only of frames that can be views: `FrameFormat.views`.
        """
        assert self._roi is not None
        for stored, picks, nav in self._selected(self._roi):
            frames = stored.frames
            for start in range(0, picks.size, depth):
                some = picks[start : start + depth]
                begin, end = int(some[0]), int(some[-1]) + 1
                yield nav + start, frames[begin:end] if some.size == end - begin else PickedFrames(frames, some)

    def _pieces(self) -> Iterator[_Piece]:
        if self._roi is None:
            for segment in self._segments:
                yield _Piece(_Stored(segment, self._format), 0, segment.frames, None, segment.first)
            return
        for stored, picks, nav in self._selected(self._roi):
            yield from self._stretches(stored, picks, nav)

    def _selected(self, roi: NDArray[np.bool_]) -> Iterator[tuple[_Stored, NDArray[np.intp], int]]:
        """Yield all frames of each segment, which of them are selected, and the compressed position of the first."""
        position = nav = 0
        for segment in self._segments:
            nav += int(np.count_nonzero(roi[position : segment.first]))
            position = segment.first + segment.frames
            picks = roi[segment.first : position].nonzero()[0]
            if picks.size:
                yield _Stored(segment, self._format), picks, nav
                nav += picks.size

    def _stretches(self, stored: _Stored, picks: NDArray[np.intp], nav: int) -> Iterator[_Piece]:
        """Yield runs of consecutive frames that are worth a view, and what lies between them as picked frames."""
        begin, end = int(picks[0]), int(picks[-1]) + 1
        if picks.size == end - begin:
            yield _Piece(stored, begin, picks.size, None, nav)
            return
        if not self._format.views or picks.size * self._format.block_frame_bytes < VIEW_BYTES:
            yield _Piece(stored, 0, picks.size, picks, nav)
            return
        starts = np.concatenate(([0], np.flatnonzero(np.diff(picks) != 1) + 1))
        lengths = np.diff(np.concatenate((starts, [picks.size])))
        worth = -(-VIEW_BYTES // self._format.block_frame_bytes)
        done = 0
        for i in np.flatnonzero(lengths >= worth):
            start, length = int(starts[i]), int(lengths[i])
            if start > done:
                yield _Piece(stored, 0, start - done, picks[done:start], nav + done)
            yield _Piece(stored, int(picks[start]), length, None, nav + start)
            done = start + length
        if done < picks.size:
            yield _Piece(stored, 0, picks.size - done, picks[done:], nav + done)

    def _plan(self, view_depth: int, copy_depth: int, by_stretch: bool) -> Iterator[list[_Piece]]:
        """Yield the pieces of each block."""
        pending: list[_Piece] = []
        count = 0
        views, frame_bytes = self._format.views, self._format.block_frame_bytes
        for piece in self._pieces():
            is_view = views and piece.picks is None and piece.count * frame_bytes >= VIEW_BYTES
            if pending and ((is_view and not by_stretch) or pending[-1].nav + pending[-1].count != piece.nav):
                yield pending
                pending, count = [], 0
            if by_stretch:
                pending.append(piece)
                continue
            if is_view:
                for skip in range(0, piece.count, view_depth):
                    yield [piece.cut(skip, min(view_depth, piece.count - skip))]
                continue
            done = 0
            while done < piece.count:
                part = piece.cut(done, min(piece.count - done, copy_depth - count))
                pending.append(part)
                done += part.count
                count += part.count
                if count == copy_depth:
                    yield pending
                    pending, count = [], 0
        if pending:
            yield pending

    def _join(self, pieces: list[_Piece], scratch: Scratch) -> NDArray[Any]:
        """Return the frames of the pieces as one array; nothing is left of several."""
        fmt = self._format
        if fmt.views and len(pieces) == 1 and pieces[0].picks is None:
            return pieces[0].read()
        frames = sum(piece.count for piece in pieces)
        if fmt.packing is None:
            # Pieces are copied in the byte order of the file: the conversion of a tile changes it in the same pass.
            out = scratch.get("block", (frames, *fmt.sig_shape), fmt.dtype)
        else:
            out = scratch.get("block", (frames, *fmt.packing.sig_shape), fmt.packing.dtype)
        done = 0
        pieces.reverse()
        while pieces:  # those that are done are let go: a process cannot have thousands of files mapped at a time
            piece = pieces.pop()
            part = out[done : done + piece.count]
            if fmt.packing is None:
                piece.copy_to(part)
            else:
                decode_frames(piece.read(), fmt.packing, part)
            done += piece.count
        return out.reshape((frames, *fmt.sig_shape))
