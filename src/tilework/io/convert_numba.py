"""Compiled conversion of integers in foreign byte order: swap and cast in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["swap_and_cast"]

_LOW_BYTES = np.uint64(0x00FF00FF00FF00FF)
_LOW_PAIRS = np.uint64(0x0000FFFF0000FFFF)


# In all kernels: frame i is words[i * stride : i * stride + pixels], and row i of `out`. One flat array keeps the
# inner loops at unit stride, which compilers vectorise.


@jit
def _swap_u16(words: NDArray[np.uint16], stride: int, out: NDArray[Any]) -> None:
    frames, pixels = out.shape
    for i in range(frames):
        source = words[i * stride : i * stride + pixels]
        for j in range(pixels):
            w = source[j]
            out[i, j] = np.uint16((w << 8) | (w >> 8))


@jit
def _swap_i16(words: NDArray[np.uint16], stride: int, out: NDArray[Any]) -> None:
    frames, pixels = out.shape
    for i in range(frames):
        source = words[i * stride : i * stride + pixels]
        for j in range(pixels):
            w = source[j]
            out[i, j] = np.int16(np.uint16((w << 8) | (w >> 8)))


@jit
def _swap_u32(words: NDArray[np.uint32], stride: int, out: NDArray[Any]) -> None:
    frames, pixels = out.shape
    for i in range(frames):
        source = words[i * stride : i * stride + pixels]
        for j in range(pixels):
            w = source[j]
            out[i, j] = np.uint32((w << 24) | ((w << 8) & 0xFF0000) | ((w >> 8) & 0xFF00) | (w >> 24))


@jit
def _swap_i32(words: NDArray[np.uint32], stride: int, out: NDArray[Any]) -> None:
    frames, pixels = out.shape
    for i in range(frames):
        source = words[i * stride : i * stride + pixels]
        for j in range(pixels):
            w = source[j]
            out[i, j] = np.int32(np.uint32((w << 24) | ((w << 8) & 0xFF0000) | ((w >> 8) & 0xFF00) | (w >> 24)))


@jit
def _swap_u64(words: NDArray[np.uint64], stride: int, out: NDArray[Any]) -> None:
    frames, pixels = out.shape
    for i in range(frames):
        source = words[i * stride : i * stride + pixels]
        for j in range(pixels):
            w = source[j]
            w = ((w & _LOW_BYTES) << np.uint64(8)) | ((w >> np.uint64(8)) & _LOW_BYTES)
            w = ((w & _LOW_PAIRS) << np.uint64(16)) | ((w >> np.uint64(16)) & _LOW_PAIRS)
            out[i, j] = (w << np.uint64(32)) | (w >> np.uint64(32))


@jit
def _swap_i64(words: NDArray[np.uint64], stride: int, out: NDArray[Any]) -> None:
    frames, pixels = out.shape
    for i in range(frames):
        source = words[i * stride : i * stride + pixels]
        for j in range(pixels):
            w = source[j]
            w = ((w & _LOW_BYTES) << np.uint64(8)) | ((w >> np.uint64(8)) & _LOW_BYTES)
            w = ((w & _LOW_PAIRS) << np.uint64(16)) | ((w >> np.uint64(16)) & _LOW_PAIRS)
            out[i, j] = np.int64((w << np.uint64(32)) | (w >> np.uint64(32)))


_KERNELS: dict[str, Callable[[NDArray[Any], int, NDArray[Any]], None]] = {
    "u2": _swap_u16,
    "i2": _swap_i16,
    "u4": _swap_u32,
    "i4": _swap_i32,
    "u8": _swap_u64,
    "i8": _swap_i64,
}


def swap_and_cast(src: NDArray[Any], out: NDArray[Any]) -> None:
    """Write `src` to `out`.

    Parameters
    ----------
    src
        Integers of 2, 4 or 8 bytes in foreign byte order, of shape (frames, pixels), pixels contiguous, frames at a
        distance that is a multiple of a pixel.
    out
        Integers, f4 or f8 in native byte order, of the same shape, C-contiguous.
    """
    kind = src.dtype.str[1:]
    frames, pixels = src.shape
    itemsize = src.dtype.itemsize
    stride = src.strides[0] // itemsize if frames > 1 else pixels
    words = np.lib.stride_tricks.as_strided(src, ((frames - 1) * stride + pixels,), (itemsize,), writeable=False)
    _KERNELS[kind](words.view(f"u{itemsize}"), stride, out)
