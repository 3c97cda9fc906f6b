"""Frames that were picked from a stack are read where they lie: the same bits as of a copy in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_tiles import bits_of_all_kernels, make_tile, tiles
from tilework.common.kernels import DenseMasks, MomentRegion, sum_frames, sum_moments, sum_pixels
from tilework.common.kernels.picked_frames import PickedFrames, in_memory
from tilework.common.kernels.rows import as_rows


@settings(max_examples=60, deadline=None)
@given(tile=tiles(dtypes=["u1", "u2", "f4", "c8"], max_frames=60), data=st.data())
def test_all_kernels_give_the_same_bits_as_for_a_copy(tile: Any, data: st.DataObject) -> None:
    picks = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(tile), max_size=len(tile))))
    picked = PickedFrames(tile, picks)
    assert np.asarray(picked).tobytes() == tile[picks].tobytes()
    assert bits_of_all_kernels(picked) == bits_of_all_kernels(tile[picks])


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1", "i4", "f4", "f8"])
@pytest.mark.parametrize("sig", [(97, 93), (16, 16), (1, 4099)])
def test_many_frames_in_parts_for_several_threads(dtype: str, sig: tuple[int, int]) -> None:
    """More pixels than a block has, more frames than a group, and no multiple of either."""
    tile = make_tile(np.dtype(dtype).newbyteorder("="), (700, *sig), header=1).astype(dtype)
    picks = np.flatnonzero(np.random.default_rng(5).random(len(tile)) < 0.45)
    picked, copied = PickedFrames(tile, picks), tile[picks]
    masks = np.random.default_rng(1).normal(size=(17, *sig)).astype("f4")
    products = DenseMasks(masks, tile.dtype, np.dtype("f8"), compiled=True)
    region = MomentRegion(np.indices(sig).sum(axis=0) % 5 > 0)
    got = []
    for frames, threads in ((picked, 1), (picked, 3), (copied, 1)):
        results = np.zeros(sig), np.zeros(len(picks)), np.zeros((len(picks), 17)), np.zeros((len(picks), 3))
        sum_frames(frames, results[0], compiled=True, threads=threads)
        sum_pixels(frames, results[1], compiled=True, threads=threads)
        products.apply(frames, results[2], threads=threads)
        sum_moments(frames, region, results[3], compiled=True, threads=threads)
        got.append([result.tobytes() for result in results])
    assert got[0] == got[1] == got[2]


def test_frames_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise AssertionError

    tile = make_tile("u2", (30, 8, 16), header=3)
    picked = PickedFrames(tile, np.array([2, 3, 11, 29]))
    expected = bits_of_all_kernels(tile[[2, 3, 11, 29]])
    monkeypatch.setattr(PickedFrames, "copied", fail)
    assert bits_of_all_kernels(picked) == expected
    rows = as_rows(picked)
    assert np.shares_memory(rows.flat, tile)
    np.testing.assert_array_equal(rows.places, np.array([2, 3, 11, 29]) * (8 * 16 + 3))


@pytest.mark.parametrize("frames", [1000, 2**14 + 1])
def test_frames_of_any_number(frames: int) -> None:
    """Places of many frames are not kept for the next tile."""
    tile = make_tile("u2", (frames, 2, 3), header=1)
    picks = np.arange(0, frames, 7)
    for each, expected in ((PickedFrames(tile, picks), tile[::7]), (tile, tile)):
        sums = np.zeros(len(expected))
        sum_pixels(each, sums, compiled=True)
        np.testing.assert_array_equal(sums, expected.sum(axis=(1, 2)))


def test_all_who_want_a_copy_get_the_same() -> None:
    picked = PickedFrames(make_tile("u2", (9, 8, 16)), np.array([1, 5]))
    copy = in_memory(picked)
    assert in_memory(picked) is copy
    assert not copy.flags.writeable
    own = np.array(picked)
    assert own.flags.writeable
    assert not np.shares_memory(own, copy)


def test_they_have_what_is_asked_of_arrays() -> None:
    tile = make_tile("u2", (9, 8, 16))
    picked = PickedFrames(tile, np.array([1, 5]))
    assert (picked.shape, picked.dtype, picked.size, len(picked)) == ((2, 8, 16), tile.dtype, 256, 2)
    assert in_memory(tile) is tile
    np.testing.assert_array_equal(in_memory(picked), tile[[1, 5]])
    np.testing.assert_array_equal(np.asarray(picked.view("i2")), tile[[1, 5]].view("i2"))
    assert np.asarray(picked, dtype="f8").dtype == np.float64
    with pytest.raises(ValueError, match="before they are copied"):
        np.array(picked, copy=False)
