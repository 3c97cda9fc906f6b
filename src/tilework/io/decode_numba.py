"""Compiled decoding of packed frames; see `tilework.io.decode` for the layouts.

Everything is done in words of 64 bits, source and destination, on little-endian machines. In a chip that is turned by
180 degrees the reversed order within a group and the turned order of the row cancel out, so its words are written in
reverse order and not swapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilework.common.kernels.jit import jit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode_1", "decode_6", "decode_12", "decode_24"]

_LOW_BYTES = np.uint64(0x00FF00FF00FF00FF)
_LOW_PAIRS = np.uint64(0x0000FFFF0000FFFF)
_LOW_16 = np.uint64(0x000000000000FFFF)
_NEXT_16 = np.uint64(0x00000000FFFF0000)


@jit(inner=True)
def _swap_bytes(w: np.uint64) -> np.uint64:
    """Swap the bytes of each 16-bit lane."""
    return ((w & _LOW_BYTES) << np.uint64(8)) | ((w >> np.uint64(8)) & _LOW_BYTES)


@jit(inner=True)
def _swap(w: np.uint64) -> np.uint64:
    """Reverse all eight bytes."""
    w = _swap_bytes(w)
    w = ((w & _LOW_PAIRS) << np.uint64(16)) | ((w >> np.uint64(16)) & _LOW_PAIRS)
    return (w << np.uint64(32)) | (w >> np.uint64(32))


# In all kernels: frame f begins at words[f * stride] and holds `rows` times one row of each chip, one after the other.
# Row c of `places` tells for chip c whether it is turned, and the first of its words in a row of `out`, which has the
# shape (frames, height, words of a row). `table` holds the pixels of each byte.


@jit
def decode_1(
    words: NDArray[np.uint64],
    stride: int,
    rows: int,
    places: NDArray[np.int64],
    table: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None:
    """Decode pixels of one bit."""
    frames, height, width = out.shape
    chips = len(places)
    count = width * height // (rows * chips) // 8
    for f in range(frames):
        for y in range(rows):
            for c in range(chips):
                begin = f * stride + (y * chips + c) * count
                source = words[begin : begin + count]
                turned, x = places[c]
                if turned:
                    line = out[f, height - 1 - y, x : x + 8 * count]
                    for k in range(count):
                        w = _swap(source[k])
                        for b in range(8):
                            pixels = table[(w >> np.uint64(8 * b)) & np.uint64(255)]
                            line[8 * (count - k) - 1 - b] = _swap(pixels)
                else:
                    line = out[f, y, x : x + 8 * count]
                    for k in range(count):
                        w = _swap(source[k])
                        for b in range(8):
                            line[8 * k + b] = table[(w >> np.uint64(8 * b)) & np.uint64(255)]


@jit
def decode_6(
    words: NDArray[np.uint64],
    stride: int,
    rows: int,
    places: NDArray[np.int64],
    table: NDArray[np.uint64],  # noqa: ARG001
    out: NDArray[np.uint64],
) -> None:
    """Decode pixels of 6 bits."""
    frames, height, width = out.shape
    chips = len(places)
    count = width * height // (rows * chips)
    for f in range(frames):
        for y in range(rows):
            for c in range(chips):
                begin = f * stride + (y * chips + c) * count
                source = words[begin : begin + count]
                turned, x = places[c]
                if turned:
                    line = out[f, height - 1 - y, x : x + count]
                    for k in range(count):
                        line[count - 1 - k] = source[k]
                else:
                    line = out[f, y, x : x + count]
                    for k in range(count):
                        line[k] = _swap(source[k])


@jit
def decode_12(
    words: NDArray[np.uint64],
    stride: int,
    rows: int,
    places: NDArray[np.int64],
    table: NDArray[np.uint64],  # noqa: ARG001
    out: NDArray[np.uint64],
) -> None:
    """Decode pixels of 12 bits."""
    frames, height, width = out.shape
    chips = len(places)
    count = width * height // (rows * chips)
    for f in range(frames):
        for y in range(rows):
            for c in range(chips):
                begin = f * stride + (y * chips + c) * count
                source = words[begin : begin + count]
                turned, x = places[c]
                if turned:
                    line = out[f, height - 1 - y, x : x + count]
                    for k in range(count):
                        line[count - 1 - k] = _swap_bytes(source[k])
                else:
                    line = out[f, y, x : x + count]
                    for k in range(count):
                        line[k] = _swap(source[k])


@jit(inner=True)
def _widen(w: np.uint64) -> np.uint64:
    """Return the two low 16-bit lanes as 32-bit lanes."""
    return (w & _LOW_16) | ((w & _NEXT_16) << np.uint64(16))


@jit
def decode_24(
    words: NDArray[np.uint64],
    stride: int,
    rows: int,
    places: NDArray[np.int64],
    table: NDArray[np.uint64],  # noqa: ARG001
    out: NDArray[np.uint64],
) -> None:
    """Decode pixels of 24 bits."""
    frames, height, width = out.shape
    chips = len(places)
    count = width * height // (rows * chips) // 2
    half = rows * chips * count
    for f in range(frames):
        for y in range(rows):
            for c in range(chips):
                begin = f * stride + (y * chips + c) * count
                high = words[begin : begin + count]
                low = words[begin + half : begin + half + count]
                turned, x = places[c]
                line = out[f, height - 1 - y if turned else y, x : x + 2 * count]
                for k in range(count):
                    h = _swap_bytes(high[k]) if turned else _swap(high[k])
                    w = _swap_bytes(low[k]) if turned else _swap(low[k])
                    i = 2 * (count - 1 - k) if turned else 2 * k
                    line[i] = (_widen(h) << np.uint64(12)) | _widen(w)
                    line[i + 1] = (_widen(h >> np.uint64(32)) << np.uint64(12)) | _widen(w >> np.uint64(32))
