"""Frames that begin with a mark: finding those that were never written.

Acquisition software may write a file of the final size in advance and fill it frame by frame. When the acquisition ends
early, the rest is blank. Frames are written one after the other, so the end is found by bisection, with few small
reads.
"""

from __future__ import annotations

from typing import BinaryIO

__all__ = ["marked_frames", "read_at"]


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return `size` bytes from `offset` on, fewer at the end of the file."""
    file.seek(offset)
    return file.read(size)


def marked_frames(file: BinaryIO, offset: int, stride: int, frames: int, mark: bytes) -> int:
    """Return how many frames at the beginning of a file are there.

    Parameters
    ----------
    file
        The file.
    offset, stride
        Byte of the first frame's header, and distance of frames in bytes.
    frames
        Number of frames for which the file is long enough.
    mark
        Bytes with which every header begins.

    Returns
    -------
    int
        0 when not even the first frame has the mark.
    """

    def is_marked(i: int) -> bool:
        return read_at(file, offset + i * stride, len(mark)) == mark

    if frames and is_marked(frames - 1) and is_marked(0):
        return frames
    if not frames or not is_marked(0):
        return 0
    low, high = 0, frames - 1  # the first is marked, the last is not
    while high - low > 1:
        middle = (low + high) // 2
        if is_marked(middle):
            low = middle
        else:
            high = middle
    return low + 1
