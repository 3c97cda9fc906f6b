"""Conversion of tiles: the compiled kernels give NumPy's bits."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.io import convert
from tilework.io.convert import convert_tile, is_in_one_piece, repeat_conversion

REAL = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
# Compiling takes its time: every kernel once, and some with all targets.
COMPILED = {"u2": [*REAL, "c8"], "i4": ["i2", "u8", "f4", "f8"]} | {
    s: ["f4"] for s in ("u1", "i1", "i2", "u4", "u8", "i8")
}


def _tile(dtype: np.dtype[Any], frames: int, sig: tuple[int, ...], gap: int, seed: int) -> np.ndarray[Any, Any]:
    """Return random pixels with `gap` pixels between frames, as in a file with frame headers."""
    rng = np.random.default_rng(seed)
    pixels = int(np.prod(sig))
    if dtype.kind == "f":
        flat = (rng.normal(0, 1e3, (frames, pixels + gap))).astype(dtype)
    else:
        flat = np.frombuffer(rng.bytes(frames * (pixels + gap) * dtype.itemsize), dtype).reshape(frames, pixels + gap)
    return (
        flat[:, gap:].reshape((frames, *sig))
        if gap == 0
        else np.lib.stride_tricks.as_strided(
            flat[:, gap:], (frames, *sig), (flat.strides[0], *np.empty(sig, dtype).strides)
        )
    )


@settings(max_examples=150, deadline=None)
@given(
    source=st.sampled_from(REAL),
    target=st.sampled_from([*REAL, "c8", "c16"]),
    order=st.sampled_from("<>"),
    frames=st.integers(1, 5),
    sig=st.sampled_from([(1,), (7,), (3, 5), (2, 3, 4), (16, 16)]),
    gap=st.sampled_from([0, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernels_and_numpy_agree(
    source: str, target: str, order: str, frames: int, sig: tuple[int, ...], gap: int, seed: int
) -> None:
    """Every pair of dtypes, byte orders and distances of frames: same bits with and without kernels, those of "
    "astype."""
    if source[0] == "f" and target[0] in "ui":
        return  # what a float becomes beyond the range of an integer is not defined
    tile = _tile(np.dtype(order + source), frames, sig, gap, seed)
    expected = tile.astype(target)
    for compiled in (False, True) if target in COMPILED.get(source, REAL) else (False,):
        got = convert_tile(tile, target, compiled=compiled)
        assert got.dtype == np.dtype(target)
        assert got.flags.c_contiguous
        assert got.tobytes() == expected.tobytes()
        out = np.empty(tile.shape, target)
        assert convert_tile(tile, target, out, compiled=compiled) is out
        assert out.tobytes() == expected.tobytes()


def test_what_has_no_kernel() -> None:
    """Unaligned, transposed and empty tiles are converted too."""
    buffer = np.frombuffer(b"\0" + np.arange(60, dtype=">u2").tobytes(), np.uint8)
    unaligned = np.ndarray((3, 4, 5), ">u2", buffer, 1)
    assert not unaligned.flags.aligned
    for tile in (
        np.array(5, "u1"),
        unaligned,
        np.arange(60, dtype=">u2").reshape(5, 4, 3).T,
        np.zeros((0, 4, 5), ">u2"),
    ):
        np.testing.assert_array_equal(convert_tile(tile, "f4", compiled=True), tile.astype("f4"))


@pytest.mark.parametrize("pixels", [0, 1 << 40])
def test_choice_changes_no_bits(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Whatever was converted before, a large tile gets the same bits."""
    monkeypatch.setattr(convert.PAYOFF, "pixels", pixels)
    tile = _tile(np.dtype(">u2"), 2, (256, 256), 4, 1)
    assert convert_tile(tile, "f4").tobytes() == tile.astype("f4").tobytes()
    assert convert.PAYOFF.pixels == pixels + tile.size


def test_small_tiles_never_wait_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles do not count, and the first large ones of a process are converted by NumPy."""
    monkeypatch.setattr(convert.PAYOFF, "pixels", 0)
    convert_tile(np.zeros((3, 8, 8), ">u2"), "f4")
    assert convert.PAYOFF.pixels == 0
    code = """
import subprocess
import sys
import numpy as np
from tilework.io.convert import convert_tile, is_in_one_piece, repeat_conversion
convert_tile(np.zeros((20, 256, 256), ">u2"), "f4")
assert not {"numba", "llvmlite"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("source", ["<u2", ">u2", "<i4", "u1"])
def test_tiles_that_are_like_the_one_before(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out about one serves for the next."""
    monkeypatch.setattr(convert.PAYOFF, "to_load", 0)
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 200, (3, 2, 256, 256)).astype(source)
    tiles.flags.writeable = False
    out = np.empty((2, 256, 256), np.float32)
    convert_tile(tiles[0], np.float32, out, compiled=True)
    repeat = repeat_conversion(tiles[0], out)
    assert repeat is not None
    for tile in tiles:
        repeat(tile)
        np.testing.assert_array_equal(out, tile)


def test_tiles_for_which_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, with gaps between frames, at odd addresses, and those that NumPy converts."""
    monkeypatch.setattr(convert.PAYOFF, "to_load", 0)
    whole = np.zeros((4, 512, 256), np.uint16)
    odd = np.zeros(whole.nbytes + 1, np.uint8)[1:].view(np.uint16).reshape(whole.shape)
    for tile in (whole[:, :2], whole[:, :256], odd, whole.astype(np.float64)):
        assert repeat_conversion(tile, np.empty(tile.shape, np.float32)) is None
    assert repeat_conversion(whole, np.empty(whole.shape, np.uint16)) is None
    assert [is_in_one_piece(tile) for tile in (whole, whole[:, :256], odd)] == [True, False, False]
