"""Compiled decoding of packed frames; see `tilework.io.decode` for the layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode"]

_LOW_BYTES = np.uint64(0x00FF00FF00FF00FF)
_LOW_PAIRS = np.uint64(0x0000FFFF0000FFFF)


@jit
def _swap(w: np.uint64) -> np.uint64:
    w = ((w & _LOW_BYTES) << np.uint64(8)) | ((w >> np.uint64(8)) & _LOW_BYTES)
    w = ((w & _LOW_PAIRS) << np.uint64(16)) | ((w >> np.uint64(16)) & _LOW_PAIRS)
    return (w << np.uint64(32)) | (w >> np.uint64(32))


# In all kernels: `words` has the shape (frames, rows, chips, words in a chip's row), and row c of `places` says where chip
# c goes: row and column of its first pixel, and the steps from row to row and from pixel to pixel.


@jit
def _decode_1(words: NDArray[np.uint64], places: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    frames, rows, chips, count = words.shape
    one = np.uint64(1)
    for f in range(frames):
        for y in range(rows):
            for c in range(chips):
                line = out[f, places[c, 0] + y * places[c, 2]]
                x0, step = places[c, 1], places[c, 3]
                for k in range(count):
                    w = _swap(words[f, y, c, k])
                    x = x0 + step * 64 * k
                    for b in range(64):
                        line[x + step * b] = np.uint8((w >> np.uint64(b)) & one)


@jit
def _decode_6(words: NDArray[np.uint64], places: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    frames, rows, chips, count = words.shape
    for f in range(frames):
        for y in range(rows):
            for c in range(chips):
                line = out[f, places[c, 0] + y * places[c, 2]]
                x0, step = places[c, 1], places[c, 3]
                for k in range(count):
                    w = _swap(words[f, y, c, k])
                    x = x0 + step * 8 * k
                    for b in range(8):
                        line[x + step * b] = np.uint8(w >> np.uint64(8 * b))


@jit
def _decode_12(words: NDArray[np.uint64], places: NDArray[np.int64], out: NDArray[np.uint16]) -> None:
    frames, rows, chips, count = words.shape
    for f in range(frames):
        for y in range(rows):
            for c in range(chips):
                line = out[f, places[c, 0] + y * places[c, 2]]
                x0, step = places[c, 1], places[c, 3]
                for k in range(count):
                    w = _swap(words[f, y, c, k])
                    x = x0 + step * 4 * k
                    for b in range(4):
                        line[x + step * b] = np.uint16(w >> np.uint64(16 * b))


@jit
def _decode_24(
    high: NDArray[np.uint64],
    low: NDArray[np.uint64],
    places: NDArray[np.int64],
    out: NDArray[np.uint32],
) -> None:
    frames, rows, chips, count = high.shape
    for f in range(frames):
        for y in range(rows):
            for c in range(chips):
                line = out[f, places[c, 0] + y * places[c, 2]]
                x0, step = places[c, 1], places[c, 3]
                for k in range(count):
                    h = _swap(high[f, y, c, k])
                    w = _swap(low[f, y, c, k])
                    x = x0 + step * 4 * k
                    for b in range(4):
                        shift = np.uint64(16 * b)
                        line[x + step * b] = (np.uint32(np.uint16(h >> shift)) << np.uint32(12)) | np.uint32(
                            np.uint16(w >> shift)
                        )


def decode(words: NDArray[np.uint64], bits: int, rows: int, quad: bool, out: NDArray[Any]) -> None:
    """Decode frames.

    Parameters
    ----------
    words
        Stored frames as native words, of shape (frames, words of a frame); frames may lie apart.
    bits
        Bits of a pixel: 1, 6, 12 or 24.
    rows
        Stored rows.
    quad
        Whether there are four chips, to be put together.
    out
        Where to write, C-contiguous, of shape (frames, ``*sig``).
    """
    _, height, width = out.shape
    if quad:
        half = width // 2
        bottom, right = height - 1, width - 1
        turned = [(bottom, right, -1, -1), (bottom, half - 1, -1, -1)]
        places = np.array([*turned, (0, half, 1, 1), (0, 0, 1, 1)], dtype=np.int64)
    else:
        places = np.array([(0, 0, 1, 1)], dtype=np.int64)
    chips = len(places)
    if bits == 24:
        parts = words.reshape((len(words), 2, rows, chips, -1))
        _decode_24(parts[:, 0], parts[:, 1], places, out)
    else:
        kernel = {1: _decode_1, 6: _decode_6, 12: _decode_12}[bits]
        kernel(words.reshape((len(words), rows, chips, -1)), places, out)
