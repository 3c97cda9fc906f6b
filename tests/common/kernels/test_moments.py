"""Sums and moments inside a region: right for all dtypes and regions, and independent of tiling and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernel_tiles import cuts, make_tile, tiles
from tilework.common.kernels import MomentRegion, find_runs, sum_moments
from tilework.common.kernels.parallel import PART_BYTES
from tilework.common.masks import circular, ring

REAL = ["u1", "u2", "u4", "i2", "i4", "f4", "f8"]


def by_numpy(tile: Any, selection: Any, origin: tuple[int, int] = (0, 0)) -> Any:
    data = np.where(selection, tile.astype("f8"), 0)
    y, x = np.mgrid[: selection.shape[0], : selection.shape[1]]
    return np.stack([(data * w).sum(axis=(1, 2)) for w in (1, y + origin[0], x + origin[1])], axis=1)


@given(
    selection=arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))), y=st.integers(0, 9), x=st.integers(0, 9)
)
def test_runs_are_the_selected_pixels(selection: Any, y: int, x: int) -> None:
    again = np.zeros(selection.size, dtype=int)
    for place, length, run_y, run_x in find_runs(selection, (y, x)):
        assert length > 0
        assert divmod(place, selection.shape[1]) == (run_y - y, run_x - x)
        again[place : place + length] += 1
    np.testing.assert_array_equal(again.reshape(selection.shape), selection)


@pytest.mark.parametrize("width", [320, 5000])
@pytest.mark.parametrize("extreme", ["min", "max"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_integers_do_not_overflow(dtype: str, extreme: str, width: int) -> None:
    """All pixels as large as can be, in regions that give much to a single lane of a vector, or leave rows out."""
    tile = np.full((2, 200, width), getattr(np.iinfo(dtype), extreme), dtype=dtype)
    y, x = np.indices(tile.shape[1:])
    for selection in (x % 2 == y % 2, x % 17 == 3, (y % 15 == 0) | (x < 3), x >= 0, (y % 40 == 7) & (x > width // 2)):
        sums = np.zeros((2, 3))
        sum_moments(tile, MomentRegion(selection), sums, compiled=True)
        expected = [int(tile[0, 0, 0]) * int(weight[selection].sum()) for weight in (np.ones_like(x), y, x)]
        # Exact below 2**53, where float64 ends.
        np.testing.assert_allclose(sums, [expected, expected], rtol=0 if tile.itemsize < 4 else 1e-13)


def test_weights_are_for_regions_that_a_cache_holds() -> None:
    assert MomentRegion(np.ones((512, 512), dtype=bool))._weights is not None
    assert MomentRegion(np.ones((513, 512), dtype=bool))._weights is None
    assert MomentRegion(circular(1024, 1024, 2048, 2048, 100))._weights is not None
    assert MomentRegion(np.ones((3, 5), dtype=bool))._weights is None


@pytest.mark.parametrize("width", [2**15, 2**15 + 1])
@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_the_widest_detectors(dtype: str, width: int) -> None:
    """With the largest weights that 2 bytes hold, 4 bytes are full after one vector; beyond, there are no weights."""
    region = MomentRegion(np.ones((8, width), dtype=bool))
    assert region._weights is None if width > 2**15 else region._weights is not None and region._weights.limit == 1
    for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        tile = np.full((2, 8, width), value, dtype=dtype)
        sums = np.zeros((2, 3))
        sum_moments(tile, region, sums, compiled=True)
        expected = int(value) * np.array([8 * width, 28 * width, 4 * width * (width - 1)])
        np.testing.assert_array_equal(sums, [expected, expected])


@pytest.mark.parametrize("extreme", ["min", "max"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
@pytest.mark.parametrize("sig", [(1, 70_000), (2, 131_000), (70_000, 3)])
def test_sums_of_4_bytes_are_not_enough_for_very_long_lines(sig: tuple[int, int], dtype: str, extreme: str) -> None:
    """A line or a column of more than 65536 pixels, such as a spectrum."""
    tile = np.full((3, *sig), getattr(np.iinfo(dtype), extreme), dtype=dtype)
    selection = np.ones(sig, dtype=bool)
    sums = np.zeros((3, 3))
    sum_moments(tile, MomentRegion(selection), sums, compiled=True)
    np.testing.assert_array_equal(sums, by_numpy(tile, selection))


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "<i2"])
@pytest.mark.parametrize("sig", [(1, 16), (4, 4), (5, 5), (7, 9), (16, 16), (33, 31)])
def test_every_number_of_frames(dtype: str, sig: tuple[int, int]) -> None:
    """Regions that end where the frame, and the array, ends; frames that fill no group."""
    rng = np.random.default_rng(3)
    info = np.iinfo(dtype)
    for frames in (1, 2, 3, 4, 5, 7, 8, 13):
        tile = rng.integers(info.min, info.max, size=(frames, *sig), dtype=dtype[-2:], endpoint=True)
        for selection in (np.ones(sig, dtype=bool), rng.random(sig) < 0.5):
            out = np.zeros((frames, 3))
            sum_moments(tile.astype(dtype), MomentRegion(selection, (3, 5)), out, compiled=True)
            np.testing.assert_array_equal(out, by_numpy(tile, selection, (3, 5)))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(
    "selection",
    [
        np.ones((1, 1), dtype=bool),
        np.ones((3, 1100), dtype=bool),
        circular(20, 31, 64, 64, 17.5),
        ring(20.3, 31, 50, 60, 25, 9),
        np.zeros((5, 5), dtype=bool),
        np.indices((9, 13)).sum(axis=0) % 2 == 0,
    ],
    ids=["pixel", "long rows", "disc", "ring", "nothing", "checkers"],
)
def test_moments_are_those_of_numpy_in_double_precision(selection: Any, dtype: str, compiled: bool) -> None:
    tile = make_tile(dtype, (7, *selection.shape), header=1)
    out = np.zeros((7, 3))
    sum_moments(tile, MomentRegion(selection, (3, 5)), out, compiled=compiled)
    reference = by_numpy(tile, selection, (3, 5))
    if dtype[0] in "ui":
        np.testing.assert_array_equal(out, reference)
    else:
        size = by_numpy(np.abs(tile), selection, (3, 5)) + 1
        assert (np.abs(out - reference) <= 64 * np.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("between", [0, 24])
@pytest.mark.parametrize("dtype", ["u2", ">i4", "f8"])
def test_regions_that_numpy_sums_in_parts(dtype: str, between: int) -> None:
    """Regions of many pixels, of frames one after the other in memory or not, are the sum of their parts."""
    shape = (3, 250, 300)
    held = np.random.default_rng(0).integers(0, 100, (3, 250 * 300 + between)).astype(dtype)
    tile = held[:, between:].reshape(shape)
    for selection in (np.ones(shape[1:], dtype=bool), ring(140, 120, 300, 250, 115, 30)):
        region = MomentRegion(selection, (7, 5))
        sums, single = np.zeros((2, 3, 3))
        sum_moments(tile, region, sums, compiled=False)
        np.testing.assert_allclose(sums, by_numpy(tile, selection, (7, 5)), rtol=1e-13)
        for i in range(3):
            sum_moments(tile[i : i + 1], region, single[i : i + 1], compiled=False)
        np.testing.assert_array_equal(single, sums)


def test_sums_are_exact_at_the_largest_values() -> None:
    """The 32-bit sums inside the kernel just hold the largest values, for all lengths of runs."""
    for dtype in ("u1", "u2", "i2", "u4"):
        for width in (255, 256, 257, 512, 4096):
            tile = np.full((1, 2, width), np.iinfo(dtype).max, dtype=dtype)
            out = np.zeros((1, 3))
            sum_moments(tile, MomentRegion(np.ones((2, width), dtype=bool)), out, compiled=True)
            top = np.iinfo(dtype).max
            assert out[0].tolist() == [2 * width * top, width * top, top * width * (width - 1)]


@settings(max_examples=60, deadline=None)
@given(tile=tiles(dtypes=REAL, sig_dims=2), data=st.data())
def test_the_result_of_a_frame_does_not_depend_on_the_tile(tile: Any, data: st.DataObject) -> None:
    region = MomentRegion(data.draw(arrays(bool, tile.shape[1:])))
    whole, parts = np.zeros((len(tile), 3)), np.zeros((len(tile), 3))
    sum_moments(tile, region, whole, compiled=True)
    for part in data.draw(cuts(len(tile))):
        sum_moments(tile[part], region, parts[part], compiled=True)
    assert whole.tobytes() == parts.tobytes()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    tile = make_tile("f4", (3 * PART_BYTES // 2**16, 129, 255))
    region = MomentRegion(circular(100, 60, 255, 129, 50))
    results = set()
    for threads in (1, 2, 3, 7):
        out = np.zeros((len(tile), 3))
        sum_moments(tile, region, out, compiled=True, threads=threads)
        results.add(out.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("compiled", [True, False])
def test_nan_counts_inside_the_region_only(compiled: bool) -> None:
    tile = make_tile("f4", (3, 20, 20)).copy()
    tile[0, 10, 10], tile[1, 0, 0] = np.nan, np.nan
    out = np.zeros((3, 3))
    sum_moments(tile, MomentRegion(circular(10, 10, 20, 20, 4)), out, compiled=compiled)
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1:]).all()


def test_complex_frames_are_refused() -> None:
    with pytest.raises(TypeError, match="complex"):
        sum_moments(np.zeros((1, 2, 2), "c8"), MomentRegion(np.ones((2, 2), bool)), np.zeros((1, 3)), compiled=False)
