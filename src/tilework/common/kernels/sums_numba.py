"""Compiled sums. A frame's pixels are contiguous, frames are `stride` elements apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add_frames", "add_pixels", "add_pixels_complex"]

# Pixels that are summed in 32 bits (exact for integers of 2 bytes) or in parallel lanes of float32.
_RUN = 4096


@jit
def add_frames(
    flat: NDArray[Any],
    stride: int,
    frames: int,
    start: int,
    stop: int,
    scratch: NDArray[Any],
    out: NDArray[Any],
    flush: int,
) -> None:
    """Add the sum over frames of pixels `start` to `stop` to `out`; in the dtype of `scratch`, a block at a time."""
    cast = scratch.dtype.type
    for block in range(start, stop, scratch.size):
        width = min(scratch.size, stop - block)
        sums = scratch[:width]
        target = out[block : block + width]
        for top in range(0, frames, flush):
            bottom = min(frames, top + flush)
            for j in range(width):
                sums[j] = 0
            i = top
            while i + 4 <= bottom:
                at = i * stride + block
                row0 = flat[at : at + width]
                at += stride
                row1 = flat[at : at + width]
                at += stride
                row2 = flat[at : at + width]
                at += stride
                row3 = flat[at : at + width]
                for j in range(width):
                    left = cast(cast(row0[j]) + cast(row1[j]))
                    right = cast(cast(row2[j]) + cast(row3[j]))
                    sums[j] = cast(sums[j] + cast(left + right))
                i += 4
            while i < bottom:
                row0 = flat[i * stride + block : i * stride + block + width]
                for j in range(width):
                    sums[j] = cast(sums[j] + cast(row0[j]))
                i += 1
            for j in range(width):
                target[j] += sums[j]


@jit(math="reorder")
def add_pixels(
    flat: NDArray[Any], stride: int, start: int, stop: int, pixels: int, kind: NDArray[Any], out: NDArray[Any]
) -> None:
    """Write the sum over pixels of frames `start` to `stop` to `out`; runs of pixels in the dtype of `kind`."""
    cast = kind.dtype.type
    for i in range(start, stop):
        total = 0.0
        for begin in range(0, pixels, _RUN):
            at = i * stride + begin
            run = flat[at : at + min(_RUN, pixels - begin)]
            s = cast(0)
            for j in range(run.size):
                s = cast(s + cast(run[j]))
            total += s
        out[i] = total


@jit(math="reorder")
def add_pixels_complex(
    flat: NDArray[Any], stride: int, start: int, stop: int, pixels: int, kind: NDArray[Any], out: NDArray[Any]
) -> None:
    """As `add_pixels` for real and imaginary parts in turn; `out` has two columns."""
    cast = kind.dtype.type
    for i in range(start, stop):
        real = 0.0
        imaginary = 0.0
        for begin in range(0, pixels, _RUN):
            at = i * stride + begin
            run = flat[at : at + min(_RUN, pixels - begin)]
            s = cast(0)
            t = cast(0)
            for j in range(run.size // 2):
                s += cast(run[2 * j])
                t += cast(run[2 * j + 1])
            real += s
            imaginary += t
        out[i, 0] = real
        out[i, 1] = imaginary
