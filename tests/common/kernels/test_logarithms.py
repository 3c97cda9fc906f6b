"""Sums of logarithms: right for all dtypes, for small and large numbers, and where pixels are no numbers."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_tiles import cuts, exact, make_tile, tiles
from tilework.common.kernels import sum_logarithms

SHAPES = [(1, 1, 1), (3, 16, 16), (70, 1), (5, 91, 103), (2, 512, 300), (100, 3, 5)]
DTYPES = ["u1", "u2", "u4", "i1", "i2", "i4", "i8", "u8", "f4", "f8"]

Array = np.ndarray[Any, np.dtype[Any]]


def logarithms(tile: Array) -> Array:
    data = exact(tile)
    scaled: Array = np.log1p(data - data.min(axis=1, keepdims=True))
    return scaled


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_logarithms_are_those_of_numpy_in_double_precision(dtype: str, shape: tuple[int, ...], compiled: bool) -> None:
    tile = make_tile(dtype, shape, header=3)
    out = np.ones(shape[1:])
    sum_logarithms(tile, out, compiled=compiled)
    np.testing.assert_allclose(out.reshape(-1), 1 + logarithms(tile).sum(axis=0), rtol=3e-7)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_values_of_any_size_keep_their_precision(dtype: str, compiled: bool) -> None:
    exponents = np.linspace(-30, 38, 5001)
    tile = (10**exponents)[np.newaxis].astype(dtype)
    tile[0, 0] = 0
    out = np.zeros(tile.shape[1])
    sum_logarithms(tile, out, compiled=compiled)
    np.testing.assert_allclose(out, logarithms(tile)[0], rtol=3e-7)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_values_where_the_exponent_of_two_changes(dtype: str, compiled: bool) -> None:
    powers = np.ldexp(1.0, np.arange(0, 127))
    edges = np.concatenate([powers, powers * np.sqrt(2)]).astype(dtype)
    around = [edges, *(np.nextafter(edges, np.asarray(to, dtype)) for to in (0, np.inf))]
    values = np.concatenate([np.concatenate(around) - np.ones(1, dtype), *around])
    tile = np.tile(np.maximum(values, 0), 4)[np.newaxis]  # as many as take the way of long rows
    out = np.zeros(tile.shape[1])
    sum_logarithms(tile, out, compiled=compiled)
    np.testing.assert_allclose(out, logarithms(tile)[0], rtol=3e-7)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("size", [3, 5000])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ([0, np.inf, 1], [0, np.inf, np.log(2)]),
        ([0, np.nan, 2], [np.nan] * 3),
        ([-np.inf, 1, np.inf], [np.nan, np.inf, np.inf]),
    ],
)
def test_infinities_and_what_is_no_number(
    first: list[float], expected: list[float], dtype: str, size: int, compiled: bool
) -> None:
    tile = np.ones((1, size), dtype=dtype)
    tile[0, :3] = first
    out = np.zeros(size)
    sum_logarithms(tile, out, compiled=compiled)
    np.testing.assert_allclose(out[:3], expected, rtol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_nothing_is_added_where_nothing_is(compiled: bool) -> None:
    out = np.ones((4, 5))
    sum_logarithms(np.empty((0, 4, 5), dtype="u2"), out, compiled=compiled)
    assert (out == 1).all()


@given(tile=tiles(dtypes=DTYPES), data=st.data(), compiled=st.booleans())
def test_bits_do_not_depend_on_how_frames_are_cut_into_tiles(tile: Array, data: st.DataObject, compiled: bool) -> None:
    whole, parts = (np.zeros(tile.shape[1:], dtype=np.float32) for _ in range(2))
    sum_logarithms(tile, whole, compiled=compiled)
    for cut in data.draw(cuts(len(tile))):
        sum_logarithms(tile[cut], parts, compiled=compiled)
    assert whole.tobytes() == parts.tobytes()


def test_frames_that_are_not_contiguous_are_copied_once_at_most() -> None:
    tile = np.asfortranarray(np.random.default_rng(3).integers(0, 100, (50, 100, 150)).astype("u2"))
    out = np.zeros(tile.shape[1:])
    sum_logarithms(tile[:1], out, compiled=True)  # what compiling takes is not meant
    tracemalloc.start()
    try:
        sum_logarithms(tile[1:], out, compiled=True)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.5 * tile.nbytes
    np.testing.assert_allclose(out.reshape(-1), logarithms(tile).sum(axis=0), rtol=3e-7)
