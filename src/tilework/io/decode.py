"""Decoding of frames whose pixels are packed by the detector's readout ("raw" frames of Medipix readouts).

Pixels are stored in 64-bit groups, and within a group in reversed order; read as a big-endian word, a group has pixel 0
in its least significant bits. A frame of 24 bits is stored as two frames of 12 bits, the high bits first.

A quad detector (2x2 chips) stores the rows of its four chips side by side. In the image, the fourth and the third of
them are the upper half, from the left; the second and the first are the lower half, each turned by 180 degrees.

The NumPy path is as fast as compiled kernels for single chips of up to 12 bits; the kernels are up to three times as
fast for the others. The bits are the same.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.payoff import Payoff

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Packing", "decode_frames", "warmup_decoding"]

# Frames below this many pixels in one call are decoded by NumPy.
SMALL_PIXELS = 64 * 1024
PAYOFF = Payoff(to_load=2**24, to_compile=2**24, to_import=2**28)

_BITS_STORED = {1: 1, 6: 8, 12: 16, 24: 32}
_DTYPES = {1: "u1", 6: "u1", 12: "u2", 24: "u4"}
_KERNELS = {bits: Kernel("tilework.io.decode_numba", f"decode_{bits}") for bits in _BITS_STORED}


@dataclass(frozen=True, slots=True)
class Packing:
    """How the pixels of a frame are packed.

    Parameters
    ----------
    bits
        Bits of a pixel: 1, 6, 12 or 24.
    rows, columns
        Stored rows, and stored pixels in a row: all four chips side by side for a quad detector, and the two halves of
        a 24-bit frame counted once.
    quad
        Whether the frame is that of a quad detector.

    Raises
    ------
    ValueError
        When there is no such packing.
    """

    bits: int
    rows: int
    columns: int
    quad: bool

    def __post_init__(self) -> None:
        if self.bits not in _BITS_STORED:
            msg = f"packed frames of {self.bits} bits are not known, only of 1, 6, 12 and 24"
            raise ValueError(msg)
        per_group = 64 // min(16, _BITS_STORED[self.bits])
        group = per_group * (4 if self.quad else 1)
        if self.rows < 1 or self.columns < 1 or self.columns % group:
            msg = f"packed rows of {self.bits} bits hold a multiple of {group} pixels, not {self.columns}"
            raise ValueError(msg)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of decoded pixels, in native byte order."""
        return np.dtype(_DTYPES[self.bits])

    @property
    def frame_bytes(self) -> int:
        """Bytes of a stored frame."""
        return self.rows * self.columns * _BITS_STORED[self.bits] // 8

    @property
    def sig_shape(self) -> tuple[int, int]:
        """Shape of a decoded frame."""
        return (2 * self.rows, self.columns // 2) if self.quad else (self.rows, self.columns)


def decode_frames(
    stored: NDArray[np.uint8],
    packing: Packing,
    out: NDArray[Any],
    *,
    compiled: bool | None = None,
) -> NDArray[Any]:
    """Decode frames.

    Parameters
    ----------
    stored
        Bytes of shape (frames, `packing.frame_bytes`); frames may lie apart.
    packing
        How they are packed.
    out
        Where to write, C-contiguous, of shape (frames, ``*packing.sig_shape``) and `packing.dtype`.
    compiled
        True for the compiled kernels (on little-endian machines), False for NumPy, None for what pays.

    Returns
    -------
    array
        `out`.
    """
    is_slow = packing.quad or packing.bits == 24  # with NumPy
    is_worth_it = is_slow and out.size >= SMALL_PIXELS if compiled is None else compiled
    if is_worth_it and sys.byteorder == "little":
        kernel, arguments = _KERNELS[packing.bits], _arguments(stored, packing, out)
        if compiled or PAYOFF.is_reached(out.size, kernel, arguments):
            kernel(*arguments)
            return out
    _decode_numpy(stored, packing, out)
    return out


def warmup_decoding() -> None:
    """Compile the kernels, and keep them on disk."""
    for bits in _BITS_STORED:
        packing = Packing(bits, 1, 64, quad=False)
        out = np.empty((1, *packing.sig_shape), dtype=packing.dtype)
        decode_frames(np.zeros((1, packing.frame_bytes), dtype=np.uint8), packing, out, compiled=True)


def _arguments(stored: NDArray[np.uint8], packing: Packing, out: NDArray[Any]) -> tuple[Any, ...]:
    """Return the arguments of the kernel that decodes frames: they are taken as native words."""
    if stored.ctypes.data % 8 or stored.strides[0] % 8 or stored.strides[1] != 1:
        stored = stored.copy()  # also what is contiguous, as it may lie at an odd address
    words = stored.view(np.uint64)
    frames, count = words.shape
    stride = words.strides[0] // 8 if frames > 1 else count
    flat = np.lib.stride_tricks.as_strided(words, ((frames - 1) * stride + count,), (8,), writeable=False)
    lines = out.view(np.uint64)
    half = lines.shape[2] // 2
    places = np.array([(1, half), (1, 0), (0, half), (0, 0)] if packing.quad else [(0, 0)], dtype=np.int64)
    return flat, stride, packing.rows, places, _pixels_of_byte(), lines


@functools.cache
def _pixels_of_byte() -> NDArray[np.uint64]:
    """Return the eight pixels, one byte each, of the eight bits of a byte, least significant bit first."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.ascontiguousarray(bits).view(np.uint64)[:, 0].copy()


def _decode_numpy(stored: NDArray[np.uint8], packing: Packing, out: NDArray[Any]) -> None:
    groups = np.ascontiguousarray(stored).view(">u8").astype("<u8")
    shape = (len(stored), packing.rows, packing.columns)
    if packing.bits == 24:
        high, low = groups.view("<u2").reshape((len(stored), 2, *shape[1:])).swapaxes(0, 1)
        pixels = (high.astype(np.uint32) << np.uint32(12)) | low
    elif packing.bits == 12:
        pixels = groups.view("<u2").reshape(shape)
    elif packing.bits == 6:
        pixels = groups.view(np.uint8).reshape(shape)
    else:
        pixels = np.unpackbits(groups.view(np.uint8), axis=-1, bitorder="little").reshape(shape)
    if not packing.quad:
        out[...] = pixels
        return
    rows, half = packing.rows, packing.columns // 4
    chips = pixels.reshape((len(stored), rows, 4, half))
    out[:, :rows, :half] = chips[:, :, 3]
    out[:, :rows, half:] = chips[:, :, 2]
    out[:, rows:, :half] = chips[:, ::-1, 1, ::-1]
    out[:, rows:, half:] = chips[:, ::-1, 0, ::-1]
