"""Kernels swap the bytes of files in foreign byte order themselves: same bits as for the same data in native order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings

from kernel_tiles import bits_of_all_kernels, make_tile, tiles
from tilework.common.kernels import (
    DenseMasks,
    MomentRegion,
    sum_frames,
    sum_moments,
    sum_pixels,
)
from tilework.common.kernels.rows import FOREIGN, as_rows


def foreign(tile: Any) -> Any:
    """Return the same frames in foreign byte order, with the same distance from frame to frame."""
    return tile.view(tile.dtype.newbyteorder()) if tile.dtype.itemsize == 1 else swapped(tile)


def swapped(tile: Any) -> Any:
    whole = np.lib.stride_tricks.as_strided(
        tile, ((len(tile) - 1) * tile.strides[0] // tile.itemsize + tile[0].size,), (tile.itemsize,), writeable=False
    )
    other = whole.byteswap().view(tile.dtype.newbyteorder())
    return np.lib.stride_tricks.as_strided(other, tile.shape, tile.strides, writeable=False)


@settings(max_examples=60, deadline=None)
@given(tile=tiles(dtypes=["u1", "u2", "u4"]))  # which are compiled ahead
@example(tile=make_tile("f4", (9, 7, 19), header=2))
@example(tile=make_tile("c8", (5, 8, 16)))
def test_all_kernels_give_the_same_bits_in_both_byte_orders(tile: Any) -> None:
    other = foreign(tile)
    np.testing.assert_array_equal(other, tile)
    assert bits_of_all_kernels(other) == bits_of_all_kernels(tile)


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4", "f4", "f8", "u8"])
def test_sums_of_all_dtypes_in_foreign_byte_order(dtype: str) -> None:
    tile = make_tile(dtype, (9, 7, 19), header=2)
    other = foreign(tile)
    assert as_rows(other).order == FOREIGN
    assert np.shares_memory(as_rows(other).flat, other)
    native, swapped_back = np.zeros(9), np.zeros(9)
    sum_pixels(tile, native, compiled=True)
    sum_pixels(other, swapped_back, compiled=True)
    assert native.tobytes() == swapped_back.tobytes()


@pytest.mark.parametrize("dtype", [">u2", ">f4", ">c8"])
def test_numpy_paths_take_foreign_byte_order(dtype: str) -> None:
    tile = make_tile(np.dtype(dtype).newbyteorder("="), (6, 5, 8))
    other = foreign(tile)
    assert other.dtype == np.dtype(dtype)
    real = tile.dtype.kind != "c"
    for compiled in (False, True):
        result = np.zeros((5, 8), dtype=np.result_type(tile.dtype, np.float64))
        sum_frames(other, result, compiled=compiled)
        np.testing.assert_allclose(result, tile.sum(axis=0, dtype=result.dtype), rtol=1e-5, atol=1e-4)
        products = np.zeros((6, 2), dtype=result.dtype)
        DenseMasks(np.ones((2, 5, 8)), other.dtype, result.dtype, compiled=compiled).apply(other, products)
        np.testing.assert_allclose(products[:, 0], tile.sum(axis=(1, 2), dtype=result.dtype), rtol=1e-9, atol=1e-9)
        if real:
            moments = np.zeros((6, 3))
            sum_moments(other, MomentRegion(np.ones((5, 8), dtype=bool)), moments, compiled=compiled)
            np.testing.assert_allclose(moments[:, 0], tile.sum(axis=(1, 2), dtype="f8"), rtol=1e-5, atol=1e-4)
