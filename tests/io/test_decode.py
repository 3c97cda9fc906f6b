"""Packed frames: both decoders give what an independent writer, pixel by pixel, packed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector_files import counts, packed_frame
from tilework.common.kernels.kernel import Kernel
from tilework.io import decode
from tilework.io.decode import Packing, decode_frames, warmup_decoding


def _stored(images: np.ndarray[Any, Any], bits: int, quad: bool, gap: int, offset: int) -> np.ndarray[Any, Any]:
    """Return packed frames with `gap` bytes between them, the first at an address `offset` beyond a multiple of 8."""
    frames = [packed_frame(image, bits, quad) for image in images]
    size = len(frames[0])
    aligned = np.zeros((len(frames) * (size + gap) + offset) // 8 + 2, dtype=np.uint64).view(np.uint8)
    rows = aligned[offset : offset + len(frames) * (size + gap)].reshape(len(frames), size + gap)[:, :size]
    rows[:] = np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), size)
    return rows


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([1, 6, 12, 24]),
    quad=st.booleans(),
    frames=st.integers(1, 3),
    rows=st.integers(1, 3),
    groups=st.integers(1, 3),
    gap=st.sampled_from([0, 8, 5]),
    offset=st.sampled_from([0, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_decoders(
    bits: int, quad: bool, frames: int, rows: int, groups: int, gap: int, offset: int, seed: int
) -> None:
    """All packings, sizes and distances of frames, wherever in memory."""
    per_group = 64 // {1: 1, 6: 8, 12: 16, 24: 16}[bits]
    columns = groups * per_group * (4 if quad else 1)
    packing = Packing(bits, rows, columns, quad)
    images = counts((frames, *packing.sig_shape), "u4", high=2**bits - 1, seed=seed)
    stored = _stored(images, bits, quad, gap, offset)
    assert stored.shape[1] == packing.frame_bytes
    for compiled in (False, True):
        out = np.full((frames, *packing.sig_shape), 99, packing.dtype)
        assert decode_frames(stored, packing, out, compiled=compiled) is out
        np.testing.assert_array_equal(out, images)


def test_quadrants_are_where_they_belong() -> None:
    """The row of a file holds the quadrants 4, 3, 2, 1; those of the lower half are turned by 180 degrees."""
    rows, side = 4, 8
    chips = [np.full((rows, side), i, np.uint8) for i in range(4)]
    for chip in chips:
        chip[0, 0] += 10  # the first pixel that the chip delivers
    row_major = np.concatenate(chips, axis=1)
    stored = row_major.reshape(rows, -1, 8)[:, :, ::-1].reshape(1, -1)
    for compiled in (False, True):
        image = decode_frames(stored, Packing(6, rows, 4 * side, True), np.zeros((1, 8, 16), "u1"), compiled=compiled)[
            0
        ]
        assert (image[0, 0], image[0, 8]) == (13, 12)
        assert (image[7, 7], image[7, 15]) == (11, 10)
        assert (image[1, 1], image[1, 9], image[6, 1], image[6, 9]) == (3, 2, 1, 0)


@pytest.mark.parametrize(
    ("bits", "rows", "columns", "quad"), [(7, 4, 64, False), (1, 4, 65, False), (12, 0, 64, False), (6, 4, 8, True)]
)
def test_impossible_packings(bits: int, rows: int, columns: int, quad: bool) -> None:
    """A packing that cannot be is refused."""
    with pytest.raises(ValueError, match="packed"):
        Packing(bits, rows, columns, quad)


@pytest.mark.parametrize("offset", [0, 3])
def test_frames_at_odd_addresses_are_decoded_without_numba(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code is for memory that is aligned."""
    kernel = Kernel("tilework.io.decode_numba", "decode_12")
    monkeypatch.setitem(decode._KERNELS, 12, kernel)
    monkeypatch.setattr(kernel, "_function_of_numba", lambda: pytest.fail("numba is asked"))
    images = counts((1, 2, 8), "u2", high=2**12 - 1)
    out = np.empty((1, 2, 8), "u2")
    np.testing.assert_array_equal(
        decode_frames(_stored(images, 12, False, 0, offset), Packing(12, 2, 8, False), out, compiled=True), images
    )


@pytest.mark.parametrize("pixels", [0, 1 << 40])
def test_choice_changes_no_bits(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Whatever was decoded before, a large block gets the same pixels."""
    monkeypatch.setattr(decode.PAYOFF, "pixels", pixels)
    packing = Packing(12, 64, 1024, True)
    stored = np.random.default_rng(0).integers(0, 256, (2, packing.frame_bytes), dtype=np.uint8)
    expected = decode_frames(stored, packing, np.empty((2, 128, 512), "u2"), compiled=False)
    np.testing.assert_array_equal(decode_frames(stored, packing, np.empty((2, 128, 512), "u2")), expected)


def test_after_warmup_nothing_loads_numba() -> None:
    warmup_decoding()
    code = """
import sys
import numpy as np
from tilework.io.decode import Packing, decode_frames, warmup_decoding
for bits in (1, 6, 12, 24):
    for quad in (False, True):
        packing = Packing(bits, 2, 256, quad)
        out = np.empty((3, *packing.sig_shape), packing.dtype)
        decode_frames(np.zeros((3, packing.frame_bytes), np.uint8), packing, out, compiled=True)
        assert not out.any()
assert "numba" not in sys.modules
assert "llvmlite" in sys.modules  # compiled code was used
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
