"""The tiling scheme covers every pixel once, and the negotiation keeps what UDFs ask for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.common.shape import Shape
from tilework.common.udf import TilingPreferences, UDFMethod, UDFProtocol
from tilework.io.dataset.tiling import CACHE_BYTES, Negotiator, frames_bytes
from tilework.io.dataset.tiling_scheme import TilingScheme

if TYPE_CHECKING:
    from pathlib import Path


class FakeUDF(UDFProtocol):
    def __init__(
        self,
        method: UDFMethod = UDFMethod.TILE,
        depth: Any = None,
        total_size: Any = math.inf,
        whole: bool = False,
        own_bytes: int = 0,
    ) -> None:
        self.own_bytes = own_bytes
        self.method = method
        self.whole = whole
        self.depth = self.TILE_DEPTH_DEFAULT if depth is None else depth
        self.total_size = total_size

    def get_method(self) -> UDFMethod:
        return self.method

    def get_tiling_preferences(self) -> TilingPreferences:
        return {
            "depth": self.depth,
            "total_size": self.total_size,
            "whole_frames": self.whole,
            "own_bytes": self.own_bytes,
        }


class FakeDataSet:
    """Only the facts that the negotiation asks for."""

    def __init__(self, shape: tuple[int, ...], *, zero_copy: bool = True, base: tuple[int, ...] | None = None) -> None:
        self.shape = Shape(shape, sig_dims=2)
        self.zero_copy = zero_copy
        self.base = base or (1, 1, shape[-1])

    def get_base_shape(self, roi: Any) -> tuple[int, ...]:
        return self.base

    def adjust_tileshape(self, tileshape: tuple[int, ...], roi: Any) -> tuple[int, ...]:
        return tileshape


def negotiate(udfs: list[FakeUDF], ds: FakeDataSet, dtype: Any, frames: int = 64, **kwargs: Any) -> TilingScheme:
    part = Shape((frames, *ds.shape.sig), sig_dims=2)
    return Negotiator().get_scheme(udfs, ds, dtype, part, **kwargs)  # type: ignore[arg-type]


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_slices_cover_the_detector_exactly_once(sig: tuple[int, int], part: tuple[int, int]) -> None:
    part = (min(part[0], sig[0]), min(part[1], sig[1]))
    scheme = TilingScheme.make_for_shape(Shape((2, *part), sig_dims=2), Shape((3, *sig), sig_dims=2))
    count = np.zeros(sig, dtype=int)
    for index, part_slice in scheme.slices:
        assert scheme[index] == part_slice
        count[part_slice.get()] += 1
    assert (count == 1).all()
    assert scheme.slices_array.shape == (len(scheme), 2, 2)


@pytest.mark.parametrize("count", [1, 3])
def test_udfs_that_block_for_themselves_get_whole_partitions_as_views(count: int) -> None:
    udfs = [FakeUDF(depth=math.inf)] * count
    scheme = negotiate(udfs, FakeDataSet((8, 8, 256, 256)), "u2", converts=False)
    assert tuple(scheme.shape) == (64, 256, 256)


@pytest.mark.parametrize("change", ["converts", "roi", "gathers"])
def test_otherwise_tiles_fit_the_cache(change: str) -> None:
    roi = np.ones((8, 8), dtype=bool) if change == "roi" else None
    ds = FakeDataSet((8, 8, 256, 256), zero_copy=change != "gathers")
    scheme = negotiate([FakeUDF(depth=math.inf)], ds, "u2", converts=change == "converts", roi=roi)
    cache = frames_bytes() if change == "converts" else CACHE_BYTES
    assert tuple(scheme.shape) == (cache // 2**17, 256, 256)


def test_frames_that_are_taken_one_by_one_fit_the_cache() -> None:
    ds = FakeDataSet((8, 8, 256, 256))
    assert tuple(negotiate([FakeUDF(UDFMethod.FRAME)], ds, "f4").shape) == (frames_bytes() // 2**18, 256, 256)


@pytest.mark.parametrize(
    ("told", "tile"), [("512K\n", CACHE_BYTES), ("2048K\n", CACHE_BYTES // 2), ("?", CACHE_BYTES), (None, CACHE_BYTES)]
)
def test_frames_go_by_the_cache_of_a_core(told: str | None, tile: int, tmp_path: Path) -> None:
    size = tmp_path / "size"
    if told is not None:
        size.write_text(told)
    assert frames_bytes(size) == tile


def test_frames_and_partitions_are_never_cut() -> None:
    ds = FakeDataSet((8, 8, 2048, 2048))
    for needs_all in (FakeUDF(UDFMethod.FRAME), FakeUDF(whole=True)):
        assert tuple(negotiate([needs_all, FakeUDF()], ds, "f4").shape) == (1, 2048, 2048)
    scheme = negotiate([FakeUDF(UDFMethod.PARTITION), FakeUDF()], ds, "f4", frames=5)
    assert tuple(scheme.shape) == (5, 2048, 2048)
    assert scheme.intent == "partition"


@pytest.mark.parametrize("side", [512, 1024, 2048])
def test_tiles_have_several_frames_also_of_large_ones_but_selected_frames_stay_whole(side: int) -> None:
    ds = FakeDataSet((8, 8, side, side))
    scheme = negotiate([FakeUDF()], ds, "f4")
    assert scheme.shape[0] >= 8
    assert scheme.shape[2] == side
    selected = negotiate([FakeUDF()], ds, "f4", roi=np.ones((8, 8), dtype=bool))
    assert (tuple(selected.shape)[1:] == (side, side)) == (side < 2048)


def test_what_a_function_reads_for_every_tile_is_for_many_frames() -> None:
    ds, roi = FakeDataSet((8, 8, 512, 512)), np.ones((8, 8), dtype=bool)
    depths = [
        negotiate([FakeUDF(), FakeUDF(own_bytes=own)], ds, "f4", roi=roi).shape[0] for own in (0, 2**20, 2**25, 2**40)
    ]
    assert depths == [2, 2, 8, 16]
    assert negotiate([FakeUDF(depth=3, own_bytes=2**40)], ds, "f4", roi=roi).shape[0] == 3


def test_large_frames_are_cut_along_rows() -> None:
    scheme = negotiate([FakeUDF()], FakeDataSet((8, 8, 2048, 2048)), "f4")
    depth, rows, width = tuple(scheme.shape)
    assert width == 2048
    assert depth > 1
    assert depth * rows * width * 4 <= CACHE_BYTES


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(["u1", "f4", "c16"]), st.integers(1, 500),
    st.sampled_from([math.inf, 1000, 2**20, 2**24]), st.sampled_from([math.inf, 1, 7, 32]),
)  # fmt: skip
def test_stated_bounds_are_kept_where_a_tile_is_small_enough(
    height: int, width: int, dtype: str, frames: int, total_size: float, depth: float
) -> None:
    udf = FakeUDF(depth=depth, total_size=total_size)
    itemsize = np.dtype(dtype).itemsize
    ds = FakeDataSet((frames, 1, height, width))
    scheme = negotiate([udf], ds, dtype, frames=frames)
    if width * itemsize > total_size:
        assert tuple(scheme.shape) == (1, 1, width), "the smallest tile is a row of one frame"
        return
    assert scheme.depth <= min(depth, frames)
    assert math.prod(scheme.shape) * itemsize <= max(total_size, 4 * CACHE_BYTES)
    if total_size != math.inf:
        assert math.prod(scheme.shape) * itemsize <= total_size


def test_adjusting_for_a_partition_changes_the_depth_of_whole_partitions_only() -> None:
    class Part:
        shape = Shape((7, 16, 16), sig_dims=2)

    ds = FakeDataSet((8, 8, 16, 16))
    whole = negotiate([FakeUDF(UDFMethod.PARTITION)], ds, "u2")
    assert whole.adjust_for_partition(Part()).depth == 7
    tiles = negotiate([FakeUDF(depth=3)], ds, "u2")
    assert tiles.adjust_for_partition(Part()) is tiles


def test_a_tile_has_one_navigation_axis() -> None:
    with pytest.raises(ValueError, match="one navigation"):
        TilingScheme.make_for_shape(Shape((2, 2, 4, 4), sig_dims=2), Shape((3, 3, 4, 4), sig_dims=2))
