"""Compiled decoding of packed frames; see `tilework.io.decode` for the layouts.

Everything is done in words of 64 bits, source and destination, on little-endian machines. In a chip that is turned by
180 degrees the reversed order within a group and the turned order of the row cancel out, so its words are written in
reverse order and not swapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Kernel = Callable[[NDArray[np.uint64], int, int, NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]], None]

__all__ = ["decode"]

_LOW_BYTES = np.uint64(0x00FF00FF00FF00FF)
_LOW_PAIRS = np.uint64(0x0000FFFF0000FFFF)
_LOW_16 = np.uint64(0x000000000000FFFF)
_NEXT_16 = np.uint64(0x00000000FFFF0000)

# The eight pixels, one byte each, of the eight bits of a byte, least significant bit first.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_PIXELS_OF_BYTE = np.ascontiguousarray(_BITS).view(np.uint64)[:, 0].copy()


@jit
def _swap_bytes(w: np.uint64) -> np.uint64:
    """Swap the bytes of each 16-bit lane."""
    return ((w & _LOW_BYTES) << np.uint64(8)) | ((w >> np.uint64(8)) & _LOW_BYTES)


@jit
def _swap(w: np.uint64) -> np.uint64:
    """Reverse all eight bytes."""
    w = _swap_bytes(w)
    w = ((w & _LOW_PAIRS) << np.uint64(16)) | ((w >> np.uint64(16)) & _LOW_PAIRS)
    return (w << np.uint64(32)) | (w >> np.uint64(32))


# In all kernels: frame f begins at words[f * stride] and holds `rows` times one row of each chip, one after the other.
# Row c of `places` tells for chip c whether it is turned, and the first of its words in a row of `out`, which has the
# shape (frames, height, words of a row). `table` holds the pixels of each byte.


@jit
def _decode_1(
    words: NDArray[np.uint64],
    stride: int,
    rows: int,
    places: NDArray[np.int64],
    table: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None:
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
def _decode_6(
    words: NDArray[np.uint64],
    stride: int,
    rows: int,
    places: NDArray[np.int64],
    table: NDArray[np.uint64],  # noqa: ARG001
    out: NDArray[np.uint64],
) -> None:
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
def _decode_12(
    words: NDArray[np.uint64],
    stride: int,
    rows: int,
    places: NDArray[np.int64],
    table: NDArray[np.uint64],  # noqa: ARG001
    out: NDArray[np.uint64],
) -> None:
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


@jit
def _widen(w: np.uint64) -> np.uint64:
    """Return the two low 16-bit lanes as 32-bit lanes."""
    return (w & _LOW_16) | ((w & _NEXT_16) << np.uint64(16))


@jit
def _decode_24(
    words: NDArray[np.uint64],
    stride: int,
    rows: int,
    places: NDArray[np.int64],
    table: NDArray[np.uint64],  # noqa: ARG001
    out: NDArray[np.uint64],
) -> None:
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


_KERNELS: dict[int, Kernel] = {1: _decode_1, 6: _decode_6, 12: _decode_12, 24: _decode_24}


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
    frames, count = words.shape
    stride = words.strides[0] // 8 if frames > 1 else count
    flat = np.lib.stride_tricks.as_strided(words, ((frames - 1) * stride + count,), (8,), writeable=False)
    lines = out.view(np.uint64)
    half = lines.shape[2] // 2
    places = np.array([(1, half), (1, 0), (0, half), (0, 0)] if quad else [(0, 0)], dtype=np.int64)
    _KERNELS[bits](flat, stride, rows, places, _PIXELS_OF_BYTE, lines)
