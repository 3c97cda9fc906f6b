"""Sums over frames and over pixels: right for all dtypes, and the same bits for any tiling and number of threads."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_tiles import DTYPES, cuts, exact, make_tile, tiles
from tilework.common.kernels import sum_frames, sum_pixels
from tilework.common.kernels.parallel import PART_BYTES

SHAPES = [(1, 1, 1), (3, 16, 16), (70, 1), (37, 91, 103), (2, 512, 300), (1000, 3, 5)]


def result_of(dtype: Any) -> np.dtype[Any]:
    return np.result_type(dtype, np.float32)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_those_of_numpy_in_double_precision(dtype: str, shape: tuple[int, ...], compiled: bool) -> None:
    tile = make_tile(dtype, shape, header=3)
    data = exact(tile)
    scale = np.abs(data).max()
    tolerance = {"rtol": 1e-6, "atol": 1e-6 * scale} if result_of(dtype).itemsize == 4 * (1 + (dtype == "c8")) else {}

    frames = np.ones(shape[1:], dtype=result_of(dtype))
    sum_frames(tile, frames, compiled=compiled)
    np.testing.assert_allclose(frames.reshape(-1), 1 + data.sum(axis=0), **{**tolerance, "atol": 1e-6 * scale * 10})

    pixels = np.ones(shape[0], dtype=result_of(dtype))
    sum_pixels(tile, pixels, compiled=compiled)
    np.testing.assert_allclose(pixels, 1 + data.sum(axis=1), rtol=1e-6, atol=1e-6 * scale * np.sqrt(data.shape[1]))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4"])
@pytest.mark.parametrize("result", ["i4", "u4", "i8", "u8"])
def test_integers_wrap_around(dtype: str, result: str, compiled: bool) -> None:
    """However many there are at a time, and whether signed and unsigned ones meet."""
    top, width = np.iinfo(dtype).max, 5
    out = np.full(width, np.iinfo(result).max - 3, dtype=result)
    expected = int(out[0])
    for frames in (1, 2, 300, 70_000):
        sum_frames(np.full((frames, width), top, dtype=dtype), out, compiled=compiled)
        expected += frames * int(top)
    bits = 8 * out.itemsize
    assert (out.view(f"u{out.itemsize}") == expected % 2**bits).all()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4"])
def test_sums_of_integers_are_exact_where_32_bits_overflow(dtype: str, compiled: bool) -> None:
    top = np.iinfo(dtype).max
    frames, width = 70_000, 3
    tile = np.full((frames, width), top, dtype=dtype)
    out = np.zeros(width, dtype=np.float64)
    sum_frames(tile, out, compiled=compiled)
    assert out.tolist() == [frames * top] * width

    wide = np.full((2, 300, 300), top, dtype=dtype)
    sums = np.zeros(2, dtype=np.float64)
    sum_pixels(wide, sums, compiled=compiled)
    assert sums.tolist() == [300 * 300 * top] * 2


@pytest.mark.parametrize("compiled", [True, False])
def test_integer_results_are_exact_and_wrap_around(compiled: bool) -> None:
    tile = make_tile("u2", (9, 5, 5))
    for dtype in ("u8", "i8", "u4", "u2", "u1"):
        out = np.zeros((5, 5), dtype=dtype)
        sum_frames(tile, out, compiled=compiled)
        np.testing.assert_array_equal(out, tile.sum(axis=0, dtype=dtype))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["i8", "u8", "i1", "b1", "f2"])
def test_less_usual_dtypes(dtype: str, compiled: bool) -> None:
    tile = np.random.default_rng(0).integers(0, 2 if dtype == "b1" else 100, size=(20, 7, 9)).astype(dtype)
    out, sums = np.zeros((7, 9)), np.zeros(20)
    sum_frames(tile, out, compiled=compiled)
    sum_pixels(tile, sums, compiled=compiled)
    np.testing.assert_array_equal(out, tile.astype("f8").sum(axis=0))
    np.testing.assert_array_equal(sums, tile.astype("f8").sum(axis=(1, 2)))


@pytest.mark.parametrize("compiled", [True, False])
def test_real_frames_into_complex_result(compiled: bool) -> None:
    tile = make_tile("u2", (9, 5, 5))
    out = np.full((5, 5), 2j, dtype="c8")
    sum_frames(tile, out, compiled=compiled)
    np.testing.assert_allclose(out, tile.astype("f8").sum(axis=0) + 2j, rtol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_nan_and_infinity_propagate(dtype: str, compiled: bool) -> None:
    tile = make_tile(dtype, (9, 40, 50)).copy()
    tile[3, 1, 2], tile[4, 2, 2], tile[5, 3, 3] = np.nan, np.inf, -np.inf
    tile[6, 3, 3] = np.inf
    out, sums = np.zeros((40, 50), dtype=dtype), np.zeros(9, dtype=dtype)
    sum_frames(tile, out, compiled=compiled)
    sum_pixels(tile, sums, compiled=compiled)
    assert np.isnan(out[1, 2])
    assert out[2, 2] == np.inf
    assert np.isnan(out[3, 3])
    assert np.isnan(sums[3])
    assert sums[[4, 5, 6]].tolist() == [np.inf, -np.inf, np.inf]
    assert np.isfinite(out).sum() == out.size - 3


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "c8"])
def test_sums_of_many_float_frames_stay_accurate(dtype: str, compiled: bool) -> None:
    """The same number again and again, and numbers far from 0, whose rounding errors do not cancel."""
    for frames, low in ((100_000, 0.1), (30_000, 1000.0)):
        tile = np.full((frames, 3, 3), low, dtype=dtype)
        tile[::2, 1] += 0.37
        out = np.zeros((3, 3), dtype=dtype)
        sum_frames(tile, out, compiled=compiled)
        np.testing.assert_allclose(out, tile.astype("c16").sum(axis=0), rtol=3e-6)


@settings(max_examples=60, deadline=None)
@given(tile=tiles(), data=st.data())
def test_sum_of_a_frame_does_not_depend_on_the_tile(tile: Any, data: st.DataObject) -> None:
    whole = np.zeros(len(tile), dtype=result_of(tile.dtype))
    sum_pixels(tile, whole, compiled=True)
    parts = np.zeros_like(whole)
    for part in data.draw(cuts(len(tile))):
        sum_pixels(tile[part], parts[part], compiled=True)
    assert whole.tobytes() == parts.tobytes()


@settings(max_examples=60, deadline=None)
@given(tile=tiles(dtypes=["u1", "u2", "u4", "i2"]), data=st.data())
def test_sum_of_integer_frames_does_not_depend_on_the_tiling(tile: Any, data: st.DataObject) -> None:
    whole, parts = np.zeros(tile.shape[1:]), np.zeros(tile.shape[1:])
    sum_frames(tile, whole, compiled=True)
    for part in data.draw(cuts(len(tile))):
        sum_frames(tile[part], parts, compiled=True)
    assert whole.tobytes() == parts.tobytes()


@pytest.mark.parametrize("dtype", ["u2", "f4", "c8"])
def test_bits_do_not_depend_on_the_number_of_threads(dtype: str) -> None:
    tile = make_tile(dtype, (2 * PART_BYTES // 2**15, 129, 255))
    assert tile.nbytes > 3 * PART_BYTES
    results = []
    for threads in (1, 2, 3, 7):
        out, sums = (np.zeros(s, dtype=result_of(dtype)) for s in (tile.shape[1:], len(tile)))
        sum_frames(tile, out, compiled=True, threads=threads)
        sum_pixels(tile, sums, compiled=True, threads=threads)
        results.append(out.tobytes() + sums.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("compiled", [True, False])
def test_nothing_is_added_for_no_frames(compiled: bool) -> None:
    out = np.ones((4, 4), dtype="f4")
    sum_frames(np.zeros((0, 4, 4), dtype="u2"), out, compiled=compiled)
    sum_pixels(np.zeros((0, 4, 4), dtype="u2"), np.zeros(0, dtype="f4"), compiled=compiled)
    assert (out == 1).all()


@pytest.mark.parametrize("layout", ["columns", "frames last", "Fortran"])
def test_frames_that_are_not_contiguous_are_not_copied_without_the_kernel(layout: str) -> None:
    frames = np.random.default_rng(3).integers(0, 100, (50, 200, 150)).astype("u2")
    tile = {
        "columns": frames.transpose(0, 2, 1),
        "frames last": np.ascontiguousarray(frames.transpose(1, 2, 0)).transpose(2, 0, 1),
        "Fortran": np.asfortranarray(frames),
    }[layout]
    out = np.zeros(tile.shape[1:])
    tracemalloc.start()
    try:
        sum_frames(tile, out, compiled=False)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < tile.nbytes / 2
    np.testing.assert_array_equal(out, exact(tile).sum(axis=0).reshape(out.shape))
