"""Compiled detector corrections: conversion, dark frame and gain in one loop over a tile; excluded pixels.

Every operation is taken as written, in the dtype of the result, so the bits are those of the NumPy path. Source frames
begin at `places`, see `tilework.common.kernels.rows.Rows`; results are contiguous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import begin_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["correct_rows", "correct_swapped_rows", "repair_rows"]

# Pixels of dark frame and gain map that stay in the L2 cache while all frames of a tile pass by.
_BLOCK = 32768


@jit
def correct_rows(
    flat: NDArray[Any], places: NDArray[Any], dark: NDArray[Any], gain: NDArray[Any], out: NDArray[Any]
) -> None:
    """Write ``(frames - dark) * gain`` to `out`.

    Four frames at a time, so that the corrections are loaded once for all of them, and the CPU reads ahead in each.

    Parameters
    ----------
    flat
        Frames in native byte order.
    places
        Where they begin.
    dark, gain
        Of shape ``(pixels,)`` and the dtype of `out`; empty where there is none, but not both.
    out
        float32 or float64, of shape ``(frames, pixels)``.
    """
    frames, pixels = out.shape
    for begin in range(0, pixels, _BLOCK):
        end = min(pixels, begin + _BLOCK)
        d = dark[begin:end]
        g = gain[begin:end]
        i = 0
        while i + 4 <= frames:
            at = begin_of(places, i) + begin
            row0 = flat[at : at + end - begin]
            at = begin_of(places, i + 1) + begin
            row1 = flat[at : at + end - begin]
            at = begin_of(places, i + 2) + begin
            row2 = flat[at : at + end - begin]
            at = begin_of(places, i + 3) + begin
            row3 = flat[at : at + end - begin]
            _correct_four(
                row0, row1, row2, row3, d, g,
                out[i, begin:end], out[i + 1, begin:end], out[i + 2, begin:end], out[i + 3, begin:end],
            )  # fmt: skip
            i += 4
        while i < frames:
            at = begin_of(places, i)
            _correct_run(flat[at + begin : at + end], d, g, out[i, begin:end])
            i += 1


@jit(inner=True)
def _correct_run(source: NDArray[Any], dark: NDArray[Any], gain: NDArray[Any], out: NDArray[Any]) -> None:
    """Correct a run of pixels of one frame."""
    cast = out.dtype.type
    if dark.size and gain.size:
        for j in range(out.size):
            out[j] = (cast(source[j]) - dark[j]) * gain[j]
    elif dark.size:
        for j in range(out.size):
            out[j] = cast(source[j]) - dark[j]
    else:
        for j in range(out.size):
            out[j] = cast(source[j]) * gain[j]


@jit(inner=True)
def _correct_four(
    row0: NDArray[Any],
    row1: NDArray[Any],
    row2: NDArray[Any],
    row3: NDArray[Any],
    dark: NDArray[Any],
    gain: NDArray[Any],
    out0: NDArray[Any],
    out1: NDArray[Any],
    out2: NDArray[Any],
    out3: NDArray[Any],
) -> None:
    """Correct the same run of pixels of four frames."""
    cast = out0.dtype.type
    if dark.size and gain.size:
        for j in range(out0.size):
            d = dark[j]
            g = gain[j]
            out0[j] = (cast(row0[j]) - d) * g
            out1[j] = (cast(row1[j]) - d) * g
            out2[j] = (cast(row2[j]) - d) * g
            out3[j] = (cast(row3[j]) - d) * g
    elif dark.size:
        for j in range(out0.size):
            d = dark[j]
            out0[j] = cast(row0[j]) - d
            out1[j] = cast(row1[j]) - d
            out2[j] = cast(row2[j]) - d
            out3[j] = cast(row3[j]) - d
    else:
        for j in range(out0.size):
            g = gain[j]
            out0[j] = cast(row0[j]) * g
            out1[j] = cast(row1[j]) * g
            out2[j] = cast(row2[j]) * g
            out3[j] = cast(row3[j]) * g


@jit
def correct_swapped_rows(
    words: NDArray[Any],
    places: NDArray[Any],
    swapped: NDArray[Any],
    values: NDArray[Any],
    dark: NDArray[Any],
    gain: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """As `correct_rows`, for frames in foreign byte order.

    Parameters
    ----------
    words
        The frames as unsigned integers of 2, 4 or 8 bytes, in foreign byte order.
    places, dark, gain, out
        As of `correct_rows`.
    swapped, values
        Memory for as many words as are swapped at a time, and the same memory in the dtype of the frames.
    """
    frames, pixels = out.shape
    size = words.itemsize
    for begin in range(0, pixels, swapped.size):
        end = min(pixels, begin + swapped.size)
        width = end - begin
        d = dark[begin:end]
        g = gain[begin:end]
        for i in range(frames):
            at = begin_of(places, i)
            source = words[at + begin : at + end]
            if size == 2:
                for j in range(width):
                    w = source[j]
                    swapped[j] = np.uint16((w << 8) | (w >> 8))
            elif size == 4:
                for j in range(width):
                    w = source[j]
                    swapped[j] = np.uint32((w << 24) | ((w << 8) & 0xFF0000) | ((w >> 8) & 0xFF00) | (w >> 24))
            else:
                for j in range(width):
                    v = np.uint64(source[j])
                    r = np.uint64(0)
                    for _ in range(8):
                        r = (r << np.uint64(8)) | (v & np.uint64(0xFF))
                        v = v >> np.uint64(8)
                    swapped[j] = r
            _correct_run(values[:width], d, g, out[i, begin:end])


@jit
def repair_rows(
    frames: NDArray[Any], excluded: NDArray[np.int64], neighbours: NDArray[np.int64], counts: NDArray[np.int64]
) -> None:
    """Replace excluded pixels of frames, of shape ``(n, pixels)``, by the mean of their neighbours; in place."""
    for i in range(frames.shape[0]):
        frame = frames[i]
        for e in range(excluded.size):
            total = 0.0
            for k in range(counts[e]):
                total += frame[neighbours[e, k]]
            frame[excluded[e]] = total / counts[e]
