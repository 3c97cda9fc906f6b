"""Sums of squared deviations: right and stable for all dtypes, and independent of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_tiles import DTYPES, cuts, exact, make_tile, tiles
from tilework.common.kernels import accumulate_variance, merge_variances
from tilework.common.kernels.parallel import PART_BYTES


def variance(parts: list[Any], *, compiled: bool, threads: int = 1) -> tuple[int, Any, Any]:
    total = np.zeros(parts[0].shape[1:], dtype=np.result_type(parts[0].dtype, np.float64))
    deviations = np.zeros(parts[0].shape[1:])
    n = 0
    for tile in parts:
        n = accumulate_variance(tile, n, total, deviations, compiled=compiled, threads=threads)
    return n, total, deviations


def check(parts: list[Any], *, compiled: bool, rtol: float = 1e-9) -> None:
    n, total, deviations = variance(parts, compiled=compiled)
    data = np.concatenate([exact(p) for p in parts])
    assert n == len(data)
    size = np.abs(data).sum(axis=0)
    assert (np.abs(total.reshape(-1) - data.sum(axis=0)) <= 1e-12 * size).all()
    reference = (np.abs(data - data.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(deviations.reshape(-1), reference, rtol=rtol, atol=1e-20)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [*DTYPES, "i1", "i4", "i8", "b1"])
def test_variance_is_that_of_numpy_in_double_precision(dtype: str, compiled: bool) -> None:
    if dtype == "b1":
        check([np.random.default_rng(0).random((30, 5, 5)) < 0.3], compiled=compiled)
        return
    for shape in ((1, 1, 1), (2, 7), (37, 91, 60), (3, 40, 300), (1000, 3, 5)):
        check([make_tile(dtype, shape, header=3)], compiled=compiled)
        check([make_tile(dtype, shape, seed=i) for i in range(3)], compiled=compiled)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("dtype", "mean"), [("u2", 60_000), ("i2", -30_000), ("u4", 4e9), ("f4", 1e6), ("f8", 1e9), ("i4", -2e9)]
)
def test_small_deviations_from_a_large_mean_are_not_lost(dtype: str, mean: float, compiled: bool) -> None:
    """Sum of squares minus square of sum, in double precision, would leave nothing of the variance 1 at 1e9."""
    rng = np.random.default_rng(0)
    tile = (mean + rng.normal(size=(300, 6, 7)) * (1 if dtype != "f4" else 3)).round(1).astype(dtype)
    check([tile], compiled=compiled, rtol=1e-7)
    check(np.array_split(tile, 7), compiled=compiled, rtol=1e-7)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_an_outlier_in_the_first_frame_does_no_harm(dtype: str, compiled: bool) -> None:
    """The kernel for floats takes deviations from the first frame."""
    tile = (50_000 + np.random.default_rng(0).integers(0, 3, size=(500, 5, 5))).astype(dtype)
    tile[0] = 0
    check([tile], compiled=compiled)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4", "f8"])
def test_constant_data_has_no_variance(dtype: str, compiled: bool) -> None:
    value = np.iinfo(dtype).max if dtype[0] in "ui" else 1.2345e6
    _, _, deviations = variance([np.full((n, 4, 4), value, dtype=dtype) for n in (7, 1, 64)], compiled=compiled)
    assert (deviations == 0).all()


@pytest.mark.parametrize("pixels", [3, 19])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
def test_more_frames_than_32_bit_sums_hold(dtype: str, pixels: int) -> None:
    """Also where all numbers are the largest, or the smallest: what is added up is largest then."""
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    ends = np.array([info.max, info.max - 1, info.min], dtype=dtype)
    check([rng.choice(ends, size=(140_000, pixels))], compiled=True)
    for value in ends[[0, 2]]:
        tile = np.full((140_000, pixels), value, dtype=dtype)
        tile[70_000, 1] = 1
        check([tile], compiled=True)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i2"])
def test_every_number_of_frames_and_pixels(dtype: str) -> None:
    """Vectors and what is left over, in both directions, give the same as exact integers do."""
    rng = np.random.default_rng(1)
    for frames in (1, 2, 3, 4, 5, 7, 8, 11, 64):
        for pixels in (1, 15, 16, 17, 33, 4096, 4100):
            info = np.iinfo(dtype)
            tile = rng.integers(info.min, info.max, size=(frames, pixels), dtype=dtype[-2:], endpoint=True)
            n, total, deviations = variance([tile.astype(dtype)], compiled=True)
            exact_sum = tile.astype(np.int64).sum(axis=0)
            assert n == frames
            assert (total == exact_sum).all()
            assert (deviations == (frames * (tile.astype(np.int64) ** 2).sum(axis=0) - exact_sum**2) / frames).all()


@pytest.mark.parametrize("compiled", [True, False])
def test_nan_and_infinity_propagate(compiled: bool) -> None:
    tile = make_tile("f4", (9, 4, 5)).copy()
    tile[3, 1, 2], tile[0, 2, 2], tile[4, 3, 3] = np.nan, np.inf, -np.inf
    _, total, deviations = variance([tile[:5], tile[5:]], compiled=compiled)
    assert np.isnan(total[1, 2])
    assert total[2, 2] == np.inf
    assert total[3, 3] == -np.inf
    assert np.isnan(deviations[[1, 2, 3], [2, 2, 3]]).all()
    assert np.isfinite(deviations).sum() == 17


@settings(max_examples=60, deadline=None)
@given(tile=tiles(), data=st.data(), compiled=st.booleans())
def test_any_tiling_gives_the_variance(tile: Any, data: st.DataObject, compiled: bool) -> None:
    parts = [tile[part] for part in data.draw(cuts(len(tile)))]
    n, total, deviations = variance(parts, compiled=compiled)
    reference = exact(tile)
    assert n == len(tile)
    size = (np.abs(reference) ** 2).sum(axis=0)
    expected = (np.abs(reference - reference.mean(axis=0)) ** 2).sum(axis=0)
    assert (np.abs(deviations.reshape(-1) - expected) <= 1e-12 * size).all()
    assert (np.abs(total.reshape(-1) - reference.sum(axis=0)) <= 1e-12 * np.abs(reference).sum(axis=0) + 1e-30).all()


@pytest.mark.parametrize("dtype", ["u2", "f4", "c8"])
def test_bits_do_not_depend_on_the_number_of_threads(dtype: str) -> None:
    tile = make_tile(dtype, (3 * PART_BYTES // 2**15, 100, 301))
    results = {b"".join(a.tobytes() for a in variance([tile], compiled=True, threads=n)[1:]) for n in (1, 2, 3, 7)}
    assert len(results) == 1


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["f8", "c16", "f4"])
def test_merging_two_sets_is_the_variance_of_both(dtype: str, compiled: bool) -> None:
    data = make_tile(dtype, (20, 6, 5))
    real = np.float32 if dtype == "f4" else np.float64
    for cut in (0, 1, 7, 20):
        sets = []
        for part in (data[:cut], data[cut:]):
            mean = part.mean(axis=0) if len(part) else np.zeros(part.shape[1:], dtype=dtype)
            sets.append((len(part), part.sum(axis=0), (np.abs(part - mean) ** 2).sum(axis=0).astype(real)))
        (n0, s0, v0), (n1, s1, v1) = sets
        merge_variances(n0, s0, v0, n1, s1, v1, compiled=compiled)
        rtol = 1e-5 if dtype == "f4" else 1e-12
        np.testing.assert_allclose(s0, data.sum(axis=0), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(v0, (np.abs(data - data.mean(axis=0)) ** 2).sum(axis=0), rtol=rtol)


@pytest.mark.parametrize("compiled", [True, False])
def test_no_frames_change_nothing(compiled: bool) -> None:
    total, deviations = np.ones((2, 2)), np.ones((2, 2))
    assert accumulate_variance(np.zeros((0, 2, 2), "u2"), 5, total, deviations, compiled=compiled) == 5
    assert (total == 1).all()
    assert (deviations == 1).all()


OF_PLAIN_CPU = """
import hashlib, numpy as np
from tilework.common.kernels import MomentRegion, accumulate_variance, sum_moments
tile = np.random.default_rng(0).integers(0, 2**16, size=(21, 12, 13), dtype=np.uint16)
sums, deviations, moments = np.zeros((12, 13)), np.zeros((12, 13)), np.zeros((21, 3))
accumulate_variance(tile, 0, sums, deviations, compiled=True)
sum_moments(tile, MomentRegion(np.ones((12, 13), dtype=bool)), moments, compiled=True)
print(hashlib.sha256(sums.tobytes() + deviations.tobytes() + moments.tobytes()).hexdigest())
"""


def test_a_cpu_without_the_instruction_gives_the_same_bits() -> None:
    """Products of pairs are one instruction on some CPUs only."""
    told = set()
    for plain in ({}, {"NUMBA_CPU_NAME": "generic"}):
        command = [sys.executable, "-c", OF_PLAIN_CPU]
        done = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told.add(done.stdout)
    assert len(told) == 1


@pytest.mark.parametrize("dtype", ["u2", ">i4", "f4", "f8", "c8"])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_numpy_merges_parts_of_large_tiles(dtype: str, is_transposed: bool) -> None:
    """More frames and more pixels than are converted at a time; on means that differ from frame to frame."""
    tile = np.random.default_rng(0).integers(0, 100, (40, 97, 101)).astype(dtype)
    tile += np.arange(40, dtype=dtype.lstrip(">"))[:, np.newaxis, np.newaxis].astype(dtype)
    if is_transposed:
        tile = tile.transpose(0, 2, 1)
    wide = tile.astype("c16" if dtype == "c8" else "f8")
    total, varsum = np.zeros(tile.shape[1:], dtype=wide.dtype), np.zeros(tile.shape[1:])
    assert accumulate_variance(tile[:1], 0, total, varsum, compiled=False) == 1
    assert accumulate_variance(tile[1:], 1, total, varsum, compiled=False) == 40
    np.testing.assert_allclose(total, wide.sum(axis=0), rtol=1e-13)
    np.testing.assert_allclose(varsum, wide.var(axis=0) * 40, rtol=1e-12)
